//! Top lists: the largest products, endpoints, plans, subscriptions or keys of a time.

use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ask::{self, StatusClassText};
use super::view::{GroupView, NumbersView, names_of};
use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::Limit;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::analytics::{Filter, GroupBy, Scope, Side, Step, TopBy, Window, Zone};
use crate::domain::fault::Faults;
use crate::store::analytics::{TopAsk, list_top};

/// From this length on whole days are compared; below it, whole hours.
const DAYS_FROM: SignedDuration = SignedDuration::from_hours(48);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TopQuery {
    /// `consumer` (what the organization calls) when left out. Not for the whole platform.
    #[param(inline)]
    side: Option<Side>,
    /// A day before `to` when left out. Rounded down to the hour; from two days on, to the day of UTC.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Now when left out. Rounded up likewise.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// What is listed; endpoints when left out. `key` is for the consumer.
    group_by: Option<GroupBy>,
    /// What counts; requests when left out. Latency is the mean.
    by: Option<TopBy>,
    /// How many.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    product_id: Option<Uuid>,
    endpoint_id: Option<Uuid>,
    plan_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
    key_id: Option<Uuid>,
    /// As in `5xx`.
    #[param(value_type = Option<String>)]
    status_class: Option<StatusClassText>,
}

/// A list, largest first.
#[derive(Serialize, ToSchema)]
pub(super) struct TopAnswer {
    /// As asked, in whole hours or days.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    group_by: GroupBy,
    by: TopBy,
    data: Vec<TopRowView>,
}

#[derive(Serialize, ToSchema)]
struct TopRowView {
    group: GroupView,
    #[serde(flatten)]
    numbers: NumbersView,
}

/// An organization's top lists
#[utoipa::path(get, path = "/v1/organizations/{id}/analytics/top", tag = "analytics",
    operation_id = "get_organization_top", params(("id" = Uuid, Path, description = "The organization's id"), TopQuery),
    responses((status = 200, description = "The largest, in order", body = TopAnswer)))]
pub(super) async fn of_organization(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<TopQuery>,
) -> Result<axum::Json<TopAnswer>, ApiError> {
    let scope = ask::scope_of_organization(&state, &caller, id, query.side).await?;
    answer(&state, scope, &query).await
}

/// The platform's top lists
///
/// For operators.
#[utoipa::path(get, path = "/v1/analytics/top", tag = "analytics", operation_id = "get_platform_top", params(TopQuery),
    responses((status = 200, description = "The largest, in order", body = TopAnswer)))]
pub(super) async fn of_platform(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<TopQuery>,
) -> Result<axum::Json<TopAnswer>, ApiError> {
    let scope = ask::scope_of_platform(&caller, query.side)?;
    answer(&state, scope, &query).await
}

async fn answer(state: &AppState, scope: Scope, query: &TopQuery) -> Result<axum::Json<TopAnswer>, ApiError> {
    let (group, by) = (query.group_by.unwrap_or(GroupBy::Endpoint), query.by.unwrap_or(TopBy::Requests));
    let filter = Filter {
        product: query.product_id,
        endpoint: query.endpoint_id,
        plan: query.plan_id,
        subscription: query.subscription_id,
        key: query.key_id,
        status_class: query.status_class.map(|class| class.0),
    };
    let now = Timestamp::now();
    let window = parse_window(state, scope, filter, query, now)?;
    let (rows, fresh_from) = (query.limit.rows(), ask::fresh_from(now));
    let ask = &TopAsk { scope, filter, window: &window, group, by, rows, fresh_from };
    let found = state.store.read("list_top", |tx| Box::pin(list_top(tx, ask)));
    let found = found.await.map_err(ApiError::from)?;
    let names = names_of(state, group, found.iter().map(|row| row.group).collect()).await?;
    let show = |row: &crate::store::analytics::TopRow| TopRowView {
        group: GroupView::of(group, Some(row.group), &names),
        numbers: NumbersView::of(&row.sums),
    };
    let data = found.iter().map(show).collect();
    Ok(axum::Json(TopAnswer { from: window.from, to: window.to, group_by: group, by, data }))
}

fn parse_window(
    state: &AppState,
    scope: Scope,
    filter: Filter,
    query: &TopQuery,
    now: Timestamp,
) -> Result<Window, ApiError> {
    let mut faults = Faults::default();
    ask::check_keys(&mut faults, scope, filter, query.group_by);
    let window = ask::parse_range(&mut faults, query.from, query.to, now).and_then(|(from, to)| {
        let step = if to.duration_since(from) >= DAYS_FROM { Step::Day } else { Step::Hour };
        ask::parse_window(&mut faults, state, (from, to), Some(step), Zone::utc(), now)
    });
    Ok(faults.finish(window)?)
}
