//! Whether the usage of a stretch of time is all there: each producer has said so, or an operator has given up what it did not send;
//! and the audit found no difference. Reads only.

use jiff::Timestamp;
use uuid::Uuid;

use super::{StoreError, Transaction};

/// Producers and days that are named; the rest is a number.
const NAMED_MAX: i64 = 10;

/// Why usage between the two instants is not final, in words that a draft shows; empty: it is.
pub async fn missing(tx: &Transaction<'_>, from: Timestamp, until: Timestamp) -> Result<Vec<String>, StoreError> {
    let mut reasons = Vec::new();
    let sql = "-- completeness.producers
        SELECT w.node_id, w.epoch, w.low_watermark, count(*) OVER () AS all_of_them FROM ingest_watermarks w
        WHERE NOT w.is_closed AND w.written_off_at IS NULL AND (w.low_watermark IS NULL OR w.low_watermark < $1)
          AND w.first_batch_at < $1
        ORDER BY w.low_watermark NULLS FIRST, w.node_id, w.epoch LIMIT $2";
    let rows = tx.query_cached(sql, &[&until, &NAMED_MAX]).await?;
    for row in &rows {
        let (node, epoch): (Uuid, Uuid) = (row.try_get(0)?, row.try_get(1)?);
        let told: Option<Timestamp> = row.try_get(2)?;
        let told = told.map_or("nothing".to_owned(), |at| format!("all until {at}"));
        reasons.push(format!("node {node}, epoch {epoch}, has delivered {told}"));
    }
    let all: i64 = rows.first().map_or(Ok(0), |row| row.try_get(3))?;
    if all > NAMED_MAX {
        reasons.push(format!("and {} more", all - NAMED_MAX));
    }
    let sql = "-- completeness.audits
        SELECT day::text FROM usage_audits WHERE NOT is_equal AND day >= ($1 AT TIME ZONE 'UTC')::date
          AND day <= ($2 AT TIME ZONE 'UTC')::date ORDER BY day LIMIT $3";
    for row in tx.query_cached(sql, &[&from, &until, &NAMED_MAX]).await? {
        let day: String = row.try_get(0)?;
        reasons.push(format!("the audit of {day} found a difference"));
    }
    Ok(reasons)
}
