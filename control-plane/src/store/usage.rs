//! What the ingest knows of batches: which are counted, how far each producer's numbers reach without a gap, and what could not
//! be read. Everything of one merge is one transaction, and the row in `ingested_batches` is what makes a redelivery harmless.
//! Tables are written in one order: batches, logs, minutes, quarter hours, marks, days, watermarks.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::housekeeping::remove_in_batches;
use super::{Store, StoreError, Transaction};
use crate::domain::usage::billable::BillableClasses;
use crate::domain::usage::{Batch, BatchId, Producer};

mod logs;
mod rollups;

pub use logs::{Logged, insert_logs};
pub use rollups::add_rollup;
pub(super) use rollups::{COUNTS, each_bucket};

/// A counted batch's row is kept so long; afterwards the watermark alone knows it.
const BATCH_ROWS_KEPT_DAYS: i32 = 7;
/// Rows looked at beyond a watermark; a gap keeps the rest for the next time.
const WATERMARK_REACH: i64 = 10_000;
/// In milliseconds.
const DAY_MS: i64 = 24 * 3_600_000;

/// What a merge tells of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub highest_seq: i64,
    pub closing_seq: Option<i64>,
    /// Newly counted requests, and how many of them have an unlikely time.
    pub events: i64,
    pub skewed: i64,
}

/// Up to where a producer's batches are counted without a gap; -1 where the first is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub producer: Producer,
    pub contiguous_seq: i64,
}

/// Takes the batches that were not counted before: only these may be counted now. A batch that another transaction is just
/// counting is waited for.
pub async fn claim_batches(tx: &Transaction<'_>, batches: &[&Batch]) -> Result<HashSet<BatchId>, StoreError> {
    let sql = "-- claim_batches
        INSERT INTO ingested_batches (node_id, epoch, seq, events, low_watermark, closes_epoch)
        SELECT b.node_id, b.epoch, b.seq, b.events, timestamptz 'epoch' + b.low_ms * interval '1 millisecond', b.closes
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])
            AS b (node_id, epoch, seq, events, low_ms, closes)
        WHERE NOT EXISTS (SELECT FROM ingest_watermarks w
            WHERE w.node_id = b.node_id AND w.epoch = b.epoch AND w.contiguous_seq >= b.seq)
        ORDER BY 1, 2, 3
        ON CONFLICT DO NOTHING RETURNING node_id, epoch, seq";
    let nodes: Vec<Uuid> = batches.iter().map(|batch| batch.id.producer.node).collect();
    let epochs: Vec<Uuid> = batches.iter().map(|batch| batch.id.producer.epoch).collect();
    let sequences: Vec<i64> = batches.iter().map(|batch| batch.id.sequence).collect();
    let events: Vec<i64> = batches.iter().map(|batch| batch.count()).collect();
    let lows: Vec<Option<i64>> = batches.iter().map(|batch| batch.low_watermark_ms).collect();
    let closes: Vec<bool> = batches.iter().map(|batch| batch.closes_epoch).collect();
    let rows = tx.query_cached(sql, &[&nodes, &epochs, &sequences, &events, &lows, &closes]).await?;
    let read = |row: &tokio_postgres::Row| -> Result<BatchId, StoreError> {
        let producer = Producer { node: row.try_get(0)?, epoch: row.try_get(1)? };
        Ok(BatchId { producer, sequence: row.try_get(2)? })
    };
    rows.iter().map(read).collect()
}

/// What plan versions charge for, by meter id.
pub async fn list_billable_classes(
    tx: &Transaction<'_>,
    plans: &[i64],
) -> Result<HashMap<i64, BillableClasses>, StoreError> {
    let sql = "-- list_billable_classes\nSELECT meter_id, billable_statuses FROM plans WHERE meter_id = ANY($1)";
    let rows = tx.query_cached(sql, &[&plans]).await?;
    rows.iter()
        .map(|row| {
            let texts: Vec<&str> = row.try_get(1)?;
            Ok((row.try_get(0)?, BillableClasses::parse(texts)))
        })
        .collect()
}

/// Adds to what each producer has sent of each UTC day; counted from the batches themselves, never from the rollups.
pub async fn add_days(tx: &Transaction<'_>, batches: &[&Batch]) -> Result<(), StoreError> {
    let mut days: BTreeMap<(Producer, i64), i64> = BTreeMap::new();
    for batch in batches {
        for (at_ms, count) in batch.times() {
            *days.entry((batch.id.producer, at_ms.div_euclid(DAY_MS))).or_default() += count;
        }
    }
    let sql = "-- add_days
        INSERT INTO ingested_days AS d (node_id, epoch, day, events)
        SELECT n.node_id, n.epoch, date '1970-01-01' + n.day::int, n.events
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[]) AS n (node_id, epoch, day, events) ORDER BY 1, 2, 3
        ON CONFLICT (node_id, epoch, day) DO UPDATE SET events = d.events + excluded.events";
    let nodes: Vec<Uuid> = days.keys().map(|(producer, _)| producer.node).collect();
    let epochs: Vec<Uuid> = days.keys().map(|(producer, _)| producer.epoch).collect();
    let numbers: Vec<i64> = days.keys().map(|(_, day)| *day).collect();
    let counts: Vec<i64> = days.values().copied().collect();
    tx.execute_cached(sql, &[&nodes, &epochs, &numbers, &counts]).await.map(|_| ())
}

/// Notes what was heard of each producer and moves its watermark over what is counted without a gap. `heard` is in order.
/// The first statement locks the rows, so that the second sees what any other merge of the same producer has counted.
pub async fn move_watermarks(tx: &Transaction<'_>, heard: &[(Producer, Heard)]) -> Result<Vec<Reached>, StoreError> {
    let nodes: Vec<Uuid> = heard.iter().map(|(producer, _)| producer.node).collect();
    let epochs: Vec<Uuid> = heard.iter().map(|(producer, _)| producer.epoch).collect();
    let numbers = |pick: fn(&Heard) -> i64| heard.iter().map(|(_, heard)| pick(heard)).collect::<Vec<_>>();
    let closing: Vec<Option<i64>> = heard.iter().map(|(_, heard)| heard.closing_seq).collect();
    let (highest, events) = (numbers(|heard| heard.highest_seq), numbers(|heard| heard.events));
    let skewed = numbers(|heard| heard.skewed);
    let sql = "-- note_producers
        INSERT INTO ingest_watermarks AS w (node_id, epoch, highest_seq, closing_seq, events, skewed_events)
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
            AS h (node_id, epoch, highest, closing, events, skewed) ORDER BY 1, 2
        ON CONFLICT (node_id, epoch) DO UPDATE SET
            highest_seq = greatest(w.highest_seq, excluded.highest_seq),
            closing_seq = greatest(w.closing_seq, excluded.closing_seq),
            events = w.events + excluded.events,
            skewed_events = w.skewed_events + excluded.skewed_events,
            last_batch_at = now()";
    tx.execute_cached(sql, &[&nodes, &epochs, &highest, &closing, &events, &skewed]).await?;
    let sql = "-- move_watermarks
        UPDATE ingest_watermarks w SET contiguous_seq = reached.seq, updated_at = now(),
            low_watermark = greatest(w.low_watermark, reached.low_watermark)
        FROM unnest($1::uuid[], $2::uuid[]) AS s (node_id, epoch)
        JOIN ingest_watermarks o ON o.node_id = s.node_id AND o.epoch = s.epoch, LATERAL (
            SELECT max(ahead.seq) AS seq, max(ahead.low_watermark) AS low_watermark FROM (
                SELECT b.seq, b.low_watermark, row_number() OVER (ORDER BY b.seq) AS place FROM ingested_batches b
                WHERE b.node_id = o.node_id AND b.epoch = o.epoch AND b.seq > o.contiguous_seq ORDER BY b.seq LIMIT $3
            ) AS ahead
            WHERE ahead.seq - ahead.place = o.contiguous_seq
        ) AS reached
        WHERE w.node_id = o.node_id AND w.epoch = o.epoch AND reached.seq > w.contiguous_seq";
    tx.execute_cached(sql, &[&nodes, &epochs, &WATERMARK_REACH]).await?;
    let sql = "-- list_reached
        SELECT w.node_id, w.epoch, w.contiguous_seq FROM unnest($1::uuid[], $2::uuid[]) AS s (node_id, epoch)
        JOIN ingest_watermarks w ON w.node_id = s.node_id AND w.epoch = s.epoch";
    let rows = tx.query_cached(sql, &[&nodes, &epochs]).await?;
    let read = |row: &tokio_postgres::Row| -> Result<Reached, StoreError> {
        let producer = Producer { node: row.try_get(0)?, epoch: row.try_get(1)? };
        Ok(Reached { producer, contiguous_seq: row.try_get(2)? })
    };
    rows.iter().map(read).collect()
}

/// Keeps what could not be read; a redelivery of it is counted. Answers whether it is new.
pub async fn insert_failure(store: &Store, name: &str, reason: &str, payload: &[u8]) -> Result<bool, StoreError> {
    let sql = "-- insert_failure
        INSERT INTO ingest_failures AS f (stream_id, reason, payload) VALUES ($1, $2, $3)
        ON CONFLICT (stream_id) DO UPDATE SET times_received = f.times_received + 1, last_received_at = now()
        RETURNING times_received = 1";
    store
        .run_tx("insert_failure", |tx| {
            Box::pin(async move { Ok(tx.query_one_cached(sql, &[&name, &reason, &payload]).await?.try_get(0)?) })
        })
        .await
}

/// Forgets rows of batches that a watermark covers.
pub async fn prune_batches(store: &Store) -> Result<u64, StoreError> {
    let sql = "-- prune_batches
        DELETE FROM ingested_batches WHERE (node_id, epoch, seq) IN (
            SELECT b.node_id, b.epoch, b.seq FROM ingested_batches b
            JOIN ingest_watermarks w ON w.node_id = b.node_id AND w.epoch = b.epoch
            WHERE b.seq <= w.contiguous_seq AND b.ingested_at < now() - make_interval(days => $1)
            LIMIT $2 FOR UPDATE OF b SKIP LOCKED)";
    remove_in_batches(store, "prune_batches", sql, &[&BATCH_ROWS_KEPT_DAYS]).await
}

/// Forgets what could not be read and has not come again for `days`.
pub async fn prune_failures(store: &Store, days: i32) -> Result<u64, StoreError> {
    let sql = "-- prune_failures
        DELETE FROM ingest_failures WHERE id IN (
            SELECT id FROM ingest_failures WHERE last_received_at < now() - make_interval(days => $1)
            LIMIT $2 FOR UPDATE SKIP LOCKED)";
    remove_in_batches(store, "prune_failures", sql, &[&days]).await
}

/// Unix milliseconds as Postgres takes them; the range of event times keeps every one valid.
pub(super) fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}
