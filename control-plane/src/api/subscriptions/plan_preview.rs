//! What a change of plan would cost, before anybody decides: when it would take effect, and this month's charges without and with it.
//! Judged as the change itself is. Changes nothing.

use axum::extract::State;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::plan_change::{Effect, effect_of};
use crate::api::access::{self, Granted, Side};
use crate::api::auth::Caller;
use crate::api::billing::invoices::InvoiceLine;
use crate::api::extract::{Path, Query};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::billing::account::{self, AccountFault, Change};
use crate::billing::statement::Statement;
use crate::billing::{issue, money};
use crate::domain::accounts::Role;
use crate::store::ratings::Pair;
use crate::store::subscriptions as rows;
use crate::store::{Transaction, billing_months};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(preview_plan_change))
}

#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlanPreviewQuery {
    /// The plan that is thought of; the one that is held unless said.
    #[serde(default)]
    plan_id: Option<Uuid>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanPreview {
    pub effect: Effect,
    #[schema(value_type = String, format = DateTime)]
    pub takes_effect_at: Timestamp,
    pub currency: String,
    /// What the subscription's month comes to so far as it is.
    #[schema(value_type = String)]
    pub total_unchanged: Decimal,
    /// What it would come to with the change.
    #[schema(value_type = String)]
    pub total_changed: Decimal,
    /// The lines of the month with the change.
    pub lines: Vec<InvoiceLine>,
    /// Each whole month from then on, before overage.
    #[schema(value_type = String)]
    pub price: Decimal,
}

#[utoipa::path(get, path = "/v1/subscriptions/{id}/plan-preview", tag = "subscriptions",
    params(("id" = Uuid, Path), PlanPreviewQuery), responses((status = 200, body = PlanPreview)))]
async fn preview_plan_change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<PlanPreviewQuery>,
) -> Result<axum::Json<PlanPreview>, ApiError> {
    let (granted, _) = access::to_subscription(&state, &caller, id, Role::Viewer, &[Side::Consumer]).await?;
    let granted = &granted;
    let preview =
        state.store.run_tx("preview_plan_change", |tx| Box::pin(preview(tx, granted, id, query.plan_id))).await?;
    Ok(axum::Json(preview))
}

async fn preview(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    plan: Option<Uuid>,
) -> Result<PlanPreview, ApiError> {
    let row = rows::get(tx, granted.organization, id).await?.ok_or_else(|| ApiError::not_found("subscription"))?;
    let (effect, wanted) = effect_of(tx, granted, &row, plan.unwrap_or(row.plan_id)).await?;
    let pair = Pair { consumer: row.organization_id, publisher: row.publisher_organization_id };
    let month = billing_months::current(tx, pair.publisher).await?;
    let change = (effect == Effect::Now).then_some(Change { plan: &wanted, at: row.billing_now });
    let unchanged = account::subscription(tx, pair, &month, id, None).await?;
    let changed = account::subscription(tx, pair, &month, id, change).await?;
    let currency = wanted.currency.clone();
    let amount = |statement: &Statement| statement.charged.decimal(&currency).map_err(faulty);
    let lines = changed.lines.iter().map(|line| issue::row_of(line, &currency).map(InvoiceLine::from).map_err(faulty));
    Ok(PlanPreview {
        effect,
        takes_effect_at: if effect == Effect::PeriodEnd { month.ends_at } else { row.billing_now },
        total_unchanged: amount(&unchanged)?,
        total_changed: amount(&changed)?,
        lines: lines.collect::<Result<_, ApiError>>()?,
        price: wanted.price,
        currency: currency.clone(),
    })
}

fn faulty(fault: money::TooLarge) -> ApiError {
    AccountFault::from(fault).into()
}
