//! What billing does by itself: subscriptions move into their month, invoices are made, unpaid ones have consequences, consumers are
//! warned. Once however many control planes run it: every step is decided by a row's lock or the ledger's own key. Refuses to stop the
//! process when it fails.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{alerts, dunning, issue};
use crate::housekeeping::periods;
use crate::settings::Billing;
use crate::store::{Store, StoreError};

/// A month's end, a due date and a threshold are noticed within this time.
const INTERVAL: Duration = Duration::from_secs(60);

pub(crate) async fn run(store: Store, billing: Billing, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = run_once(&store, &billing, None) => if let Err(error) = outcome {
                tracing::warn!(%error, "billing failed and will be tried again");
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Every step, whatever became of the others. `only`: invoices of one publisher. Errors: the first that occurred.
pub(crate) async fn run_once(
    store: &Store,
    billing: &Billing,
    only: Option<Uuid>,
) -> Result<issue::Issued, StoreError> {
    let moved = periods::run(store).await;
    let issued = issue::run(store, billing, only).await;
    let marked = dunning::run(store, billing).await;
    let told = alerts::run(store).await;
    moved?;
    marked?;
    told?;
    issued
}
