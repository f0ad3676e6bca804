//! Partitions of usage: made ahead, dropped by retention, one table at a time. And the one way to remove many rows: in batches.

use tokio_postgres::types::ToSql;

use super::{Store, StoreError, Transaction, Values};
use crate::settings::Retention;

/// Rows that one transaction of a bulk removal takes: it must end within the store's deadline.
const REMOVED_MAX: i64 = 1_000;
/// Batches of one run, so that a fault of ours cannot keep it running; the next run does the rest.
const REMOVALS_MAX: u32 = 10_000;
/// Partitions come and go under a lock of the whole table, and whoever comes after it waits as long as it does.
const BOUNDED: &str = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '60s'";

/// Days for which partitions exist in advance; a control plane that is down for less loses nothing.
const DAYS_AHEAD: i32 = 7;
/// And days back, for what comes late around midnight.
const DAYS_BACK: i32 = 1;
/// Partitions that one run makes of what fell into a default partition.
const PIECES_MAX: i32 = 40;

/// A partitioned table of usage, and for how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub table: &'static str,
    pub days: i32,
}

/// In the order in which a merge writes them.
pub fn partitioned(retention: &Retention) -> [Kept; 7] {
    let kept = |table, days: u32| Kept { table, days: i32::try_from(days).unwrap_or(i32::MAX) };
    [
        kept("usage_logs", retention.usage_log_days),
        kept("usage_minutes", retention.usage_minute_days),
        kept("usage_product_minutes", retention.usage_minute_days),
        kept("usage_quarter_hours", retention.usage_quarter_hour_days),
        kept("usage_product_quarter_hours", retention.usage_quarter_hour_days),
        kept("usage_hours", retention.usage_hour_days),
        kept("usage_product_hours", retention.usage_hour_days),
    ]
}

/// Makes partitions ahead, gives late rows in the default partition one of their own, and drops what is too old. Each table is
/// a transaction of its own. Errors: the first that occurred, after all were tried.
pub async fn keep_partitions(store: &Store, retention: &Retention) -> Result<(), StoreError> {
    let mut first = Ok(());
    for kept in partitioned(retention) {
        let ahead = store.run_slow_tx("ensure_partitions", |tx| Box::pin(ensure_partitions(tx, kept))).await;
        let old = store.run_slow_tx("drop_partitions", |tx| Box::pin(drop_partitions(tx, kept))).await;
        first = first.and(ahead).and(old);
    }
    first
}

async fn ensure_partitions(tx: &Transaction<'_>, kept: Kept) -> Result<(), StoreError> {
    tx.batch_execute(BOUNDED).await?;
    let sql = "-- ensure_partitions
        SELECT ensure_partitions_of($1, (now() AT TIME ZONE 'UTC')::date - $2::int, $2 + $3 + 1)";
    tx.query_one_cached(sql, &[&kept.table, &DAYS_BACK, &DAYS_AHEAD]).await?;
    let sql = "-- drain_default_partition
        SELECT drain_default_partition($1, d.today - $2::int, d.today + $3::int, $4)
        FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS d";
    tx.query_one_cached(sql, &[&kept.table, &kept.days, &DAYS_AHEAD, &PIECES_MAX]).await.map(|_| ())
}

async fn drop_partitions(tx: &Transaction<'_>, kept: Kept) -> Result<(), StoreError> {
    tx.batch_execute(BOUNDED).await?;
    let sql = "-- drop_partitions\nSELECT drop_usage_partitions($1, (now() AT TIME ZONE 'UTC')::date - $2::int)";
    tx.query_one_cached(sql, &[&kept.table, &kept.days]).await.map(|_| ())
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
