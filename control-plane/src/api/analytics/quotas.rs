//! Usage against quota: what each subscription has used in the period that runs, and where it will stand at its end if it
//! goes on so.

use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ask;
use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::analytics::{Filter, Scope, Side};
use crate::domain::plan::QuotaMode;
use crate::domain::subscription::SubscriptionStatus;
use crate::store::After;
use crate::store::analytics::{QuotaRow, list_quotas};

/// Before so much of a period is over, nothing is foretold.
const PROJECTION_FROM: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QuotasQuery {
    /// `consumer` (what the organization calls) when left out. Not for the whole platform.
    #[param(inline)]
    side: Option<Side>,
    /// Rows on the page.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    product_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
}

/// A subscription's period that runs.
#[derive(Serialize, ToSchema)]
pub(super) struct QuotaView {
    subscription_id: Uuid,
    status: SubscriptionStatus,
    product_id: Uuid,
    product: String,
    plan_id: Uuid,
    plan: String,
    /// The consumer's organization.
    organization_id: Uuid,
    organization: String,
    #[schema(value_type = String, format = DateTime)]
    period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    period_end: Timestamp,
    /// Requests of the plan in a whole period; null without a quota.
    included_requests: Option<i64>,
    /// What happens beyond it: `hard` refuses, `soft` goes on.
    quota_mode: QuotaMode,
    /// Admitted requests with live keys, less those that failed by our fault.
    used: i64,
    used_by_test_keys: i64,
    /// Null without a quota, and below zero never.
    remaining: Option<i64>,
    /// `used` by `included_requests`; null without a quota, or where nothing is included.
    ratio: Option<f64>,
    /// `used` at the period's end if it goes on as on average until now; null in the first hour.
    projected: Option<i64>,
    projected_ratio: Option<f64>,
    /// When the quota is used up if it goes on so; null when it is not in this period, and where it is already.
    #[schema(value_type = Option<String>, format = DateTime)]
    exhausted_at: Option<Timestamp>,
}

/// An organization's usage against quota
///
/// By subscription, in the period that runs. Read from the billing record: it lags the requests by seconds, and is what a
/// bill would say.
#[utoipa::path(get, path = "/v1/organizations/{id}/analytics/quotas", tag = "analytics",
    operation_id = "list_organization_quotas",
    params(("id" = Uuid, Path, description = "The organization's id"), QuotasQuery),
    responses((status = 200, description = "A page", body = Page<QuotaView>)))]
pub(super) async fn of_organization(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<QuotasQuery>,
) -> Result<axum::Json<Page<QuotaView>>, ApiError> {
    let scope = ask::scope_of_organization(&state, &caller, id, query.side).await?;
    answer(&state, scope, &query).await
}

/// The platform's usage against quota
///
/// For operators.
#[utoipa::path(get, path = "/v1/analytics/quotas", tag = "analytics", operation_id = "list_platform_quotas",
    params(QuotasQuery), responses((status = 200, description = "A page", body = Page<QuotaView>)))]
pub(super) async fn of_platform(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<QuotasQuery>,
) -> Result<axum::Json<Page<QuotaView>>, ApiError> {
    let scope = ask::scope_of_platform(&caller, query.side)?;
    answer(&state, scope, &query).await
}

async fn answer(state: &AppState, scope: Scope, query: &QuotasQuery) -> Result<axum::Json<Page<QuotaView>>, ApiError> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = Filter { product: query.product_id, subscription: query.subscription_id, ..Filter::default() };
    let rows =
        state.store.read("list_quotas", |tx| Box::pin(list_quotas(tx, scope, filter, page.after(), page.rows())));
    let rows = rows.await.map_err(ApiError::from)?;
    let key = |row: &QuotaRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(rows, key, QuotaView::of)))
}

impl QuotaView {
    fn of(row: QuotaRow) -> QuotaView {
        let outlook = Outlook::of(&row);
        QuotaView {
            subscription_id: row.id,
            status: row.status,
            product_id: row.product_id,
            product: row.product_name,
            plan_id: row.plan_id,
            plan: row.plan_name,
            organization_id: row.organization_id,
            organization: row.organization_name,
            period_start: row.period_start,
            period_end: row.period_end,
            included_requests: row.included_requests,
            quota_mode: row.quota_mode,
            used: row.used,
            used_by_test_keys: row.used_by_test_keys,
            remaining: row.included_requests.map(|included| (included - row.used).max(0)),
            ratio: ratio(row.used, row.included_requests),
            projected: outlook.projected,
            projected_ratio: outlook.projected.and_then(|projected| ratio(projected, row.included_requests)),
            exhausted_at: outlook.exhausted_at,
        }
    }
}

/// Counts of requests are far below what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
fn ratio(used: i64, included: Option<i64>) -> Option<f64> {
    included.filter(|included| *included > 0).map(|included| used as f64 / included as f64)
}

/// Where it leads if it goes on as until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    pub(super) projected: Option<i64>,
    pub(super) exhausted_at: Option<Timestamp>,
}

impl Outlook {
    pub(super) fn of(row: &QuotaRow) -> Outlook {
        let (whole, gone) = (row.period_end.duration_since(row.period_start), row.now.duration_since(row.period_start));
        if gone < PROJECTION_FROM {
            return Outlook::default();
        }
        let (whole_s, gone_s) = (i128::from(whole.as_secs()), i128::from(gone.min(whole).as_secs()));
        let used = i128::from(row.used);
        let projected = i64::try_from(used * whole_s / gone_s.max(1)).ok();
        let left = row.included_requests.map(i128::from).filter(|included| *included > used && used > 0);
        let exhausted_s = left.map(|included| included * gone_s / used).filter(|second| *second < whole_s);
        let exhausted_at = exhausted_s.and_then(|second| {
            row.period_start.checked_add(SignedDuration::from_secs(i64::try_from(second).ok()?)).ok()
        });
        Outlook { projected, exhausted_at }
    }
}
