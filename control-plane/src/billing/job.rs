//! What billing does by itself: subscriptions move into their month, invoices are made, unpaid ones have consequences, consumers are
//! warned. Harmless when it is done twice, even at once: every step is decided by a row's lock or by the ledger's own key. Knows no
//! schedule: the jobs have it.

use uuid::Uuid;

use super::{alerts, dunning, issue};
use crate::housekeeping;
use crate::settings::Billing;
use crate::store::{Store, StoreError};

/// Every step, whatever became of the others. `only`: invoices of one publisher. Errors: the first that occurred.
pub(crate) async fn run_once(
    store: &Store,
    billing: &Billing,
    only: Option<Uuid>,
) -> Result<issue::Issued, StoreError> {
    let moved = housekeeping::move_periods(store).await;
    let issued = issue::run(store, billing, only).await;
    let marked = dunning::run(store, billing).await;
    let told = alerts::run(store).await;
    moved?;
    marked?;
    told?;
    issued
}
