//! What is done once an hour: usage partitions made ahead and dropped, ended sessions and expired idempotency keys
//! removed. Several control planes may do it at once. Refuses to stop the process when it fails.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::settings::Retention;
use crate::store::{Store, StoreError, housekeeping, idempotency, sessions};

const INTERVAL: Duration = Duration::from_secs(3600);
/// After a failure, which is mostly Postgres being away.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) async fn run(store: Store, retention: Retention, shutdown: CancellationToken) {
    loop {
        let pause = match run_once(&store, &retention).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "housekeeping failed and will be tried again");
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Errors: the first that occurs; the next run does the rest.
pub(crate) async fn run_once(store: &Store, retention: &Retention) -> Result<(), StoreError> {
    store.run_tx("ensure_partitions", |tx| Box::pin(housekeeping::ensure_partitions(tx))).await?;
    let days = retention.clone();
    let days = &days;
    store.run_tx("drop_partitions", |tx| Box::pin(housekeeping::drop_partitions(tx, days))).await?;
    store.run_tx("delete_ended_sessions", |tx| Box::pin(sessions::delete_ended_sessions(tx))).await?;
    store.run_tx("delete_expired_keys", |tx| Box::pin(idempotency::delete_expired_keys(tx))).await?;
    Ok(())
}
