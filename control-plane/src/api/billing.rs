//! Billing over REST: invoices and their documents, payments, credit, budgets, the ledger, previews and the simulation clock. Table of
//! contents; each part says itself what it refuses.

use utoipa_axum::router::OpenApiRouter;

use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::billing::account::AccountFault;
use crate::store::billing_months::MonthFault;

pub mod budgets;
pub mod clock;
pub mod credits;
pub mod documents;
pub mod events;
pub mod invoices;
pub mod payments;
pub mod preview;
pub mod what_if;

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(invoices::routes())
        .merge(documents::routes())
        .merge(payments::routes())
        .merge(preview::routes())
        .merge(what_if::routes())
        .merge(credits::routes())
        .merge(budgets::routes())
        .merge(events::routes())
        .merge(clock::routes())
}

impl From<AccountFault> for ApiError {
    fn from(fault: AccountFault) -> ApiError {
        match fault {
            AccountFault::Store(error) => error.into(),
            AccountFault::Month(fault) => fault.into(),
            AccountFault::Rating(_) | AccountFault::Currencies { .. } => ApiError::internal(fault.to_string()),
        }
    }
}

impl From<MonthFault> for ApiError {
    fn from(fault: MonthFault) -> ApiError {
        match fault {
            MonthFault::Store(error) => error.into(),
            MonthFault::Period(fault) => ApiError::internal(fault.to_string()),
        }
    }
}
