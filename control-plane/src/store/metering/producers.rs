//! `ingest_watermarks` as operators and invoices see it: every epoch of every node, what is missing of it, and whether it holds
//! a period back.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Reason, SILENT_AFTER_S, read_producer};
use crate::domain::usage::Producer;
use crate::store::{After, StoreError, Transaction};

/// Missing numbers named at once.
const GAPS_SHOWN: i64 = 20;

#[derive(Clone, Debug)]
pub struct ProducerRow {
    pub producer: Producer,
    /// As the feed knows it; null for a node that was never followed.
    pub node_name: Option<String>,
    pub contiguous_seq: i64,
    pub highest_seq: i64,
    /// The first missing stretches of numbers, from and to.
    pub gaps: Vec<(i64, i64)>,
    pub low_watermark: Option<Timestamp>,
    pub events: i64,
    pub skewed_events: i64,
    pub first_batch_at: Timestamp,
    pub last_batch_at: Timestamp,
    pub is_closed: bool,
    pub is_silent: bool,
    pub written_off_at: Option<Timestamp>,
    pub write_off_reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ProducerFilter {
    pub node: Option<Uuid>,
    /// Only those that hold a period back.
    pub unfinished: bool,
}

const COLUMNS: &str = "w.*, n.name AS node_name,
    w.written_off_at IS NULL AND NOT w.is_closed AND w.last_batch_at < now() - make_interval(secs => $1) AS is_silent,
    g.lower AS gap_lower, g.upper AS gap_upper";
/// Between two counted numbers, and below the highest that was heard of.
const GAPS: &str = "LEFT JOIN nodes n ON n.id = w.node_id CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(gap.lower ORDER BY gap.lower), '{}') AS lower,
            coalesce(array_agg(gap.upper ORDER BY gap.lower), '{}') AS upper FROM (
            SELECT s.seq + 1 AS lower, s.next - 1 AS upper FROM (
                SELECT k.seq, lead(k.seq, 1, w.highest_seq + 1) OVER (ORDER BY k.seq) AS next FROM (
                    SELECT w.contiguous_seq AS seq UNION ALL SELECT b.seq FROM ingested_batches b
                    WHERE b.node_id = w.node_id AND b.epoch = w.epoch AND b.seq > w.contiguous_seq) AS k) AS s
            WHERE s.next > s.seq + 1 ORDER BY 1 LIMIT $2) AS gap
    ) AS g";

/// Newest epoch first.
pub async fn list_producers(
    tx: &Transaction<'_>,
    filter: ProducerFilter,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<ProducerRow>, StoreError> {
    let sql = format!(
        "-- list_producers
        SELECT {COLUMNS} FROM ingest_watermarks w {GAPS}
        WHERE ($3::uuid IS NULL OR w.node_id = $3) AND (NOT $4 OR (w.written_off_at IS NULL AND NOT w.is_closed))
            AND ($5::timestamptz IS NULL OR (w.first_batch_at, w.epoch) < ($5, $6))
        ORDER BY w.first_batch_at DESC, w.epoch DESC LIMIT $7"
    );
    let (at, id) = After::split(after);
    let silence = f64::from(SILENT_AFTER_S);
    let values: crate::store::Values<'_> = &[&silence, &GAPS_SHOWN, &filter.node, &filter.unfinished, &at, &id, &rows];
    tx.query_cached(&sql, values).await?.iter().map(ProducerRow::read).collect()
}

/// Locked, for who changes it.
pub async fn find_producer(tx: &Transaction<'_>, producer: Producer) -> Result<Option<ProducerRow>, StoreError> {
    let sql = format!(
        "-- find_producer
        SELECT {COLUMNS} FROM ingest_watermarks w {GAPS} WHERE w.node_id = $3 AND w.epoch = $4 FOR NO KEY UPDATE OF w"
    );
    let silence = f64::from(SILENT_AFTER_S);
    let row = tx.query_opt_cached(&sql, &[&silence, &GAPS_SHOWN, &producer.node, &producer.epoch]).await?;
    row.as_ref().map(ProducerRow::read).transpose()
}

/// From now on what the epoch has not sent holds no period back. What comes of it nevertheless is counted.
pub async fn write_off(tx: &Transaction<'_>, producer: Producer, by: Uuid, reason: &str) -> Result<(), StoreError> {
    let sql = "-- write_off
        UPDATE ingest_watermarks SET written_off_at = now(), written_off_by = $3, write_off_reason = $4
        WHERE node_id = $1 AND epoch = $2 AND written_off_at IS NULL";
    StoreError::expect_one("write_off", tx.execute_cached(sql, &[&producer.node, &producer.epoch, &by, &reason]).await?)
}

/// Epochs from which something older than `period_end` may still come.
pub(super) async fn list_unfinished(
    tx: &Transaction<'_>,
    period_end: Timestamp,
    limit: i64,
) -> Result<Vec<Reason>, StoreError> {
    let sql = format!(
        "-- list_unfinished
        SELECT {COLUMNS} FROM ingest_watermarks w {GAPS}
        WHERE NOT w.is_closed AND w.written_off_at IS NULL AND (w.low_watermark IS NULL OR w.low_watermark < $3)
        ORDER BY w.first_batch_at, w.epoch LIMIT $4"
    );
    let silence = f64::from(SILENT_AFTER_S);
    let rows = tx.query_cached(&sql, &[&silence, &GAPS_SHOWN, &period_end, &limit]).await?;
    rows.iter().map(|row| Ok(ProducerRow::read(row)?.reason())).collect()
}

impl ProducerRow {
    fn reason(&self) -> Reason {
        let name = self.node_name.clone().unwrap_or_else(|| self.producer.node.to_string());
        let told = self.low_watermark.map_or("nothing".to_owned(), |at| format!("everything before {at}"));
        let (kind, detail) = match (self.gaps.first(), self.is_silent) {
            (Some((from, to)), _) => {
                ("gap", format!("Batches {from} to {to} of {name} are missing; it has sent {told}."))
            }
            (None, true) => ("silent", format!("{name} has sent {told}, and nothing since {}.", self.last_batch_at)),
            (None, false) => ("open", format!("{name} has sent {told} so far.")),
        };
        let Producer { node, epoch } = self.producer;
        Reason { kind: kind.into(), node_id: Some(node), epoch: Some(epoch), detail }
    }

    fn read(row: &Row) -> Result<ProducerRow, StoreError> {
        let (lower, upper): (Vec<i64>, Vec<i64>) = (row.try_get("gap_lower")?, row.try_get("gap_upper")?);
        Ok(ProducerRow {
            producer: read_producer(row)?,
            node_name: row.try_get("node_name")?,
            contiguous_seq: row.try_get("contiguous_seq")?,
            highest_seq: row.try_get("highest_seq")?,
            gaps: lower.into_iter().zip(upper).collect(),
            low_watermark: row.try_get("low_watermark")?,
            events: row.try_get("events")?,
            skewed_events: row.try_get("skewed_events")?,
            first_batch_at: row.try_get("first_batch_at")?,
            last_batch_at: row.try_get("last_batch_at")?,
            is_closed: row.try_get("is_closed")?,
            is_silent: row.try_get("is_silent")?,
            written_off_at: row.try_get("written_off_at")?,
            write_off_reason: row.try_get("write_off_reason")?,
        })
    }
}
