//! Partitions of usage: made ahead, dropped by retention. Refuses to delete single rows.

use super::{StoreError, Transaction};
use crate::settings::Retention;

/// Days for which partitions exist in advance; a control plane that is down for less loses nothing.
const DAYS_AHEAD: i32 = 7;

pub async fn ensure_partitions(tx: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "-- ensure_partitions\nSELECT ensure_usage_partitions((now() AT TIME ZONE 'UTC')::date, $1)";
    tx.query_one_cached(sql, &[&DAYS_AHEAD]).await.map(|_| ())
}

pub async fn drop_partitions(tx: &Transaction<'_>, retention: &Retention) -> Result<(), StoreError> {
    let sql = "-- drop_partitions\nSELECT drop_usage_partitions($1, (now() AT TIME ZONE 'UTC')::date - $2::int)";
    for (parent, days) in [("usage_logs", retention.usage_log_days), ("usage_minutes", retention.usage_minute_days)] {
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        tx.query_one_cached(sql, &[&parent, &days]).await?;
    }
    Ok(())
}
