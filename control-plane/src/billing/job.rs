//! What billing does by itself: subscriptions move into their month, invoices are made, unpaid ones have consequences, consumers are
//! warned. Harmless when it is done twice, even at once: every step is decided by a row's lock or by the ledger's own key. Knows no
//! schedule: the jobs have it.

use anyhow::ensure;
use uuid::Uuid;

use super::issue::{self, Issued};
use super::{alerts, dunning};
use crate::housekeeping;
use crate::settings::Billing;
use crate::store::{Store, StoreError};

/// Every step, whatever became of the others. Errors: the first that occurred, or how many consumers or publishers it failed for.
pub(crate) async fn run_once(store: &Store, billing: &Billing) -> anyhow::Result<()> {
    let settled = settle(store, billing, None).await;
    let warned = alerts::run(store).await;
    all_done(settled?.failed + warned?.failed)
}

/// Every budget against what its month comes to.
pub(crate) async fn compare_budgets(store: &Store) -> anyhow::Result<()> {
    all_done(alerts::run_all(store).await?.failed)
}

fn all_done(failed: u64) -> anyhow::Result<()> {
    ensure!(failed == 0, "it failed for {failed}, whom the log names");
    Ok(())
}

/// What follows from the end of a month. `only`: one publisher's. Errors: the first that occurred.
pub(crate) async fn settle(store: &Store, billing: &Billing, only: Option<Uuid>) -> Result<Issued, StoreError> {
    let moved = housekeeping::move_periods(store).await;
    let issued = issue::run(store, billing, only).await;
    let marked = dunning::run(store, billing, only).await;
    moved?;
    let (marked, issued) = (marked?, issued?);
    Ok(Issued { failed: issued.failed + marked.failed, ..issued })
}
