//! The simulation clock over REST: an operator ends a publisher's month now, and sees the invoices that follow. Refuses everybody else,
//! and every installation whose settings do not allow it.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::invoices::month_text;
use crate::api::auth::Caller;
use crate::api::extract::Path;
use crate::api::headers::PreferHeader;
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::billing::{clock, job};
use crate::store::billing_months::{self, MonthRow};
use crate::store::{Transaction, organizations};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show_billing_clock)).routes(routes!(advance_billing_clock))
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BillingClock {
    pub organization_id: Uuid,
    /// What time it is for the publisher's bills.
    #[schema(value_type = String, format = DateTime)]
    pub billing_time: Timestamp,
    /// The month that runs.
    #[schema(example = "2026-11")]
    pub month: String,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
    /// Invoices that the move has issued.
    pub issued: u64,
}

#[utoipa::path(get, path = "/v1/billing-clocks/{id}", tag = "billing",
    params(("id" = Uuid, Path, description = "The publisher's organization")), description = "For operators.",
    responses((status = 200, body = BillingClock)))]
async fn show_billing_clock(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<BillingClock>, ApiError> {
    caller.require_admin()?;
    let clock = state.store.run_tx("show_billing_clock", |tx| {
        Box::pin(async move {
            exists(tx, id).await?;
            let month = billing_months::current(tx, id).await?;
            view(tx, &month, 0).await
        })
    });
    Ok(axum::Json(clock.await?))
}

#[utoipa::path(post, path = "/v1/billing-clocks/{id}/advance", tag = "billing",
    params(("id" = Uuid, Path, description = "The publisher's organization"), PreferHeader),
    description = "For operators, where `billing.simulation_clock` is on. Ends the running month: what was counted until now is billed \
        with it; periods move, invoices are issued, what is due falls due.",
    responses((status = 200, body = BillingClock), (status = 202, body = BillingClock)))]
async fn advance_billing_clock(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    caller.require_admin()?;
    if !state.settings.billing.simulation_clock {
        let detail = "The simulation clock is off on this installation (`billing.simulation_clock`).";
        return Err(ApiError::new(Code::Forbidden, detail));
    }
    let actor = caller.actor();
    let advanced = state.store.run_tx("advance_billing_clock", |tx| {
        Box::pin(async move {
            exists(tx, id).await?;
            Ok::<_, ApiError>(clock::advance(tx, id, &actor).await?)
        })
    });
    let advanced = advanced.await?;
    let done = job::settle(&state.store, &state.settings.billing, Some(id)).await?;
    let month = &advanced.running;
    let clock = state.store.read("billing_clock", |tx| Box::pin(view(tx, month, done.issued))).await?;
    finish(&state, prefer, Written::ok(&clock)?.change(advanced.change)).await
}

async fn exists(tx: &Transaction<'_>, organization: Uuid) -> Result<(), ApiError> {
    match organizations::is_known(tx, organization).await? {
        true => Ok(()),
        false => Err(ApiError::not_found("organization")),
    }
}

async fn view(tx: &Transaction<'_>, month: &MonthRow, issued: u64) -> Result<BillingClock, ApiError> {
    Ok(BillingClock {
        organization_id: month.organization,
        billing_time: billing_months::billing_now(tx, month.organization).await?,
        month: month_text(month.month),
        period_start: month.starts_at,
        period_end: month.ends_at,
        issued,
    })
}
