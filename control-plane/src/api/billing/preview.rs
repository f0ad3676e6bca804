//! The running invoice: what it would say if the month ended now. Computed as the invoice will be, from the same record. Stores nothing.

use axum::extract::State;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::invoices::{InvoiceLine, month_text};
use crate::api::access;
use crate::api::auth::Caller;
use crate::api::extract::Path;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::billing::{account, issue};
use crate::domain::accounts::Role;
use crate::store::ratings::Pair;
use crate::store::{Transaction, billing_months, ratings};

/// Publishers whose running invoices are shown; a consumer with more looks at his subscriptions.
const PUBLISHERS_MAX: i64 = 50;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_upcoming_invoices))
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpcomingInvoice {
    pub publisher_organization_id: Uuid,
    pub publisher_name: String,
    #[schema(example = "2026-11")]
    pub month: String,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
    pub currency: String,
    /// Before prepaid credit.
    #[schema(value_type = String)]
    pub charged: Decimal,
    #[schema(value_type = String)]
    pub credit: Decimal,
    #[schema(value_type = String)]
    pub total: Decimal,
    pub lines: Vec<InvoiceLine>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpcomingInvoices {
    pub data: Vec<UpcomingInvoice>,
}

#[utoipa::path(get, path = "/v1/organizations/{id}/upcoming-invoices", tag = "billing",
    params(("id" = Uuid, Path, description = "The consumer's organization")),
    description = "One for each publisher, as far as usage has arrived. A plan that began or ends within the month is prorated by seconds.",
    responses((status = 200, body = UpcomingInvoices)))]
async fn list_upcoming_invoices(
    State(state): State<AppState>,
    caller: Caller,
    Path(consumer): Path<Uuid>,
) -> Result<axum::Json<UpcomingInvoices>, ApiError> {
    access::to_organization(&state, &caller, consumer, Role::Viewer).await?;
    // A month that nobody has asked for yet is made, so this is a unit of work.
    let data = state.store.run_tx("upcoming_invoices", |tx| Box::pin(preview(tx, consumer))).await?;
    Ok(axum::Json(UpcomingInvoices { data }))
}

async fn preview(tx: &Transaction<'_>, consumer: Uuid) -> Result<Vec<UpcomingInvoice>, ApiError> {
    let mut found = Vec::new();
    for (publisher, name) in ratings::publishers_of(tx, consumer, PUBLISHERS_MAX).await? {
        let month = billing_months::current(tx, publisher).await?;
        for (currency, statement) in account::statements(tx, Pair { consumer, publisher }, &month).await? {
            let amount = |minor: crate::billing::money::Minor| minor.decimal(&currency);
            let mut lines = Vec::with_capacity(statement.lines.len());
            for line in &statement.lines {
                lines.push(InvoiceLine::from(issue::row_of(line, &currency).map_err(account::AccountFault::from)?));
            }
            let sums = (|| Ok((amount(statement.charged)?, amount(statement.credit)?, amount(statement.total)?)))();
            let (charged, credit, total) = sums
                .map_err(|fault: crate::billing::money::TooLarge| ApiError::from(account::AccountFault::from(fault)))?;
            found.push(UpcomingInvoice {
                publisher_organization_id: publisher,
                publisher_name: name.clone(),
                month: month_text(month.month),
                period_start: month.starts_at,
                period_end: month.ends_at,
                charged,
                credit,
                total,
                lines,
                currency,
            });
        }
    }
    Ok(found)
}
