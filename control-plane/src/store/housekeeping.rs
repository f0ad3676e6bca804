//! Partitions of usage: made ahead, dropped by retention. And the one way to remove many rows: in batches.

use tokio_postgres::types::ToSql;

use super::{Store, StoreError, Transaction, Values};
use crate::settings::Retention;

/// Rows that one transaction of a bulk removal takes: it must end within the store's deadline.
const REMOVED_MAX: i64 = 1_000;
/// Batches of one run, so that a fault of ours cannot keep it running; the next run does the rest.
const REMOVALS_MAX: u32 = 10_000;
/// A drop takes the whole table for itself, and whoever comes after it waits as long as it does.
const DROP_LOCK_WAIT: &str = "2s";

/// Days for which partitions exist in advance; a control plane that is down for less loses nothing.
const DAYS_AHEAD: i32 = 7;

pub async fn ensure_partitions(tx: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "-- ensure_partitions\nSELECT ensure_usage_partitions((now() AT TIME ZONE 'UTC')::date, $1)";
    tx.query_one_cached(sql, &[&DAYS_AHEAD]).await.map(|_| ())
}

pub async fn drop_partitions(tx: &Transaction<'_>, retention: &Retention) -> Result<(), StoreError> {
    tx.query_one_cached("-- bound_drop_wait\nSELECT set_config('lock_timeout', $1, true)", &[&DROP_LOCK_WAIT]).await?;
    let sql = "-- drop_partitions\nSELECT drop_usage_partitions($1, (now() AT TIME ZONE 'UTC')::date - $2::int)";
    for (parent, days) in [("usage_logs", retention.usage_log_days), ("usage_minutes", retention.usage_minute_days)] {
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        tx.query_one_cached(sql, &[&parent, &days]).await?;
    }
    Ok(())
}

/// Runs a DELETE, whose last value is its limit, until it finds less than that. Answers how many rows went.
pub(super) async fn remove_in_batches(
    store: &Store,
    name: &'static str,
    sql: &str,
    values: Values<'_>,
) -> Result<u64, StoreError> {
    let values: Vec<_> = values.iter().copied().chain([&REMOVED_MAX as &(dyn ToSql + Sync)]).collect();
    let mut removed = 0;
    for _ in 0..REMOVALS_MAX {
        let values = values.as_slice();
        let count = store.run_tx(name, |tx| Box::pin(async move { tx.execute_cached(sql, values).await })).await?;
        removed += count;
        if i64::try_from(count).unwrap_or(i64::MAX) < REMOVED_MAX {
            break;
        }
    }
    Ok(removed)
}
