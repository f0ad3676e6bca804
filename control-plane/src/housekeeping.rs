//! What is done at the start and once an hour: periods of subscriptions moved on, usage partitions made ahead and dropped,
//! ended sessions and expired idempotency keys removed. Several control planes may do it at once. Refuses to stop the process
//! when it fails.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::settings::Retention;
use crate::store::{Store, StoreError, housekeeping, idempotency, sessions};

pub(crate) mod periods;

#[cfg(test)]
mod tests;

const INTERVAL: Duration = Duration::from_secs(3600);
/// After a failure, which is mostly Postgres being away.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) async fn run(store: Store, retention: Retention, shutdown: CancellationToken) {
    loop {
        let run = tokio::select! {
            () = shutdown.cancelled() => return,
            run = run_once(&store, &retention) => run,
        };
        let pause = if run.is_ok() { INTERVAL } else { RETRY_INTERVAL };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Does every job, whatever became of the others. Errors: the first that occurred; the next run does the rest.
pub(crate) async fn run_once(store: &Store, retention: &Retention) -> Result<(), StoreError> {
    let ensured = store.run_tx("ensure_partitions", |tx| Box::pin(housekeeping::ensure_partitions(tx))).await;
    let moved = periods::run(store).await;
    let dropped = store.run_tx("drop_partitions", |tx| Box::pin(housekeeping::drop_partitions(tx, retention))).await;
    let sessions = sessions::delete_ended_sessions(store).await;
    let keys = idempotency::delete_expired_keys(store).await;
    let outcomes = [
        ("ensure_partitions", ensured),
        ("move_periods", moved),
        ("drop_partitions", dropped),
        ("delete_ended_sessions", sessions),
        ("delete_expired_keys", keys),
    ];
    let mut first = Ok(());
    for (job, outcome) in outcomes {
        if let Err(error) = outcome {
            tracing::warn!(job, %error, "housekeeping failed and will be tried again");
            first = first.and(Err(error));
        }
    }
    first
}
