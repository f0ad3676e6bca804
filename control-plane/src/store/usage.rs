//! Usage tables: which batches are counted, the log of requests, the minutes. Everything of one merge is one transaction, and
//! the row in `ingested_batches` is what makes a redelivery harmless. `usage_logs` is written before `usage_minutes`.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::housekeeping::remove_in_batches;
use super::{Store, StoreError, Transaction};
use crate::domain::usage::billable::BillableClasses;
use crate::domain::usage::minutes::{MinuteSums, Minutes};
use crate::domain::usage::{Batch, BatchId, Event};

/// A counted batch's row is kept so long; afterwards the watermark alone knows it.
const BATCH_ROWS_KEPT_DAYS: i32 = 7;
/// Rows looked at beyond a watermark; a gap keeps the rest for the next time.
const WATERMARK_REACH: i64 = 10_000;

/// Takes the batches that were not counted before: only these may be counted now. A batch that another transaction is just
/// counting is waited for.
pub async fn claim_batches(tx: &Transaction<'_>, batches: &[Batch]) -> Result<HashSet<BatchId>, StoreError> {
    let sql = "-- claim_batches
        INSERT INTO ingested_batches (node_id, epoch, seq, events)
        SELECT b.node_id, b.epoch, b.seq, b.events
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[]) AS b (node_id, epoch, seq, events)
        WHERE NOT EXISTS (SELECT FROM ingest_watermarks w
            WHERE w.node_id = b.node_id AND w.epoch = b.epoch AND w.contiguous_seq >= b.seq)
        ORDER BY 1, 2, 3
        ON CONFLICT DO NOTHING RETURNING node_id, epoch, seq";
    let nodes: Vec<Uuid> = batches.iter().map(|batch| batch.id.node).collect();
    let epochs: Vec<Uuid> = batches.iter().map(|batch| batch.id.epoch).collect();
    let sequences: Vec<i64> = batches.iter().map(|batch| batch.id.sequence).collect();
    let events: Vec<i64> = batches.iter().map(|batch| i64::try_from(batch.events.len()).unwrap_or(i64::MAX)).collect();
    let rows = tx.query_cached(sql, &[&nodes, &epochs, &sequences, &events]).await?;
    rows.iter()
        .map(|row| Ok(BatchId { node: row.try_get(0)?, epoch: row.try_get(1)?, sequence: row.try_get(2)? }))
        .collect()
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

/// One batch's rows; `billable` stands beside each event.
pub async fn insert_logs(tx: &Transaction<'_>, id: BatchId, events: &[(&Event, bool)]) -> Result<(), StoreError> {
    let sql = "-- insert_logs
        INSERT INTO usage_logs (node_id, epoch, seq, ordinal, occurred_at, request_id, key_meter_id, subscription_meter_id,
            product_meter_id, endpoint_meter_id, plan_meter_id, method, status, verdict, failed_by, request_bytes, response_bytes,
            latency_us, upstream_latency_us, upstream_contacted, billable)
        SELECT $1, $2, $3, (e.place - 1)::int, timestamptz 'epoch' + e.at_ms * interval '1 millisecond', e.request_id, e.key,
            e.subscription, e.product, e.endpoint, e.plan, e.method, e.status, e.verdict, e.failed_by, e.request_bytes,
            e.response_bytes, e.latency_us, e.upstream_latency_us, e.upstream_contacted, e.billable
        FROM unnest($4::bigint[], $5::uuid[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[],
            $12::smallint[], $13::text[], $14::text[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::boolean[],
            $20::boolean[]) WITH ORDINALITY AS e (at_ms, request_id, key, subscription, product, endpoint, plan, method, status,
            verdict, failed_by, request_bytes, response_bytes, latency_us, upstream_latency_us, upstream_contacted, billable, place)";
    let numbers = |pick: fn(&Event) -> i64| events.iter().map(|(event, _)| pick(event)).collect::<Vec<_>>();
    let request_ids: Vec<Uuid> = events.iter().map(|(event, _)| event.request_id).collect();
    let methods: Vec<&str> = events.iter().map(|(event, _)| event.method.as_str()).collect();
    let statuses: Vec<i16> = events.iter().map(|(event, _)| event.status).collect();
    let verdicts: Vec<&str> = events.iter().map(|(event, _)| event.verdict()).collect();
    let failed_by: Vec<Option<&str>> = events.iter().map(|(event, _)| event.failed_by).collect();
    let upstream_latencies: Vec<Option<i64>> = events.iter().map(|(event, _)| event.upstream_latency_us).collect();
    let contacted: Vec<bool> = events.iter().map(|(event, _)| event.upstream_contacted).collect();
    let billable: Vec<bool> = events.iter().map(|(_, billable)| *billable).collect();
    tx.execute_cached(
        sql,
        &[
            &id.node,
            &id.epoch,
            &id.sequence,
            &numbers(|event| event.at_ms),
            &request_ids,
            &numbers(|event| event.key),
            &numbers(|event| event.subscription),
            &numbers(|event| event.product),
            &numbers(|event| event.endpoint),
            &numbers(|event| event.plan),
            &methods,
            &statuses,
            &verdicts,
            &failed_by,
            &numbers(|event| event.request_bytes),
            &numbers(|event| event.response_bytes),
            &numbers(|event| event.latency_us),
            &upstream_latencies,
            &contacted,
            &billable,
        ],
    )
    .await?;
    Ok(())
}

/// Adds to the minutes.
pub async fn add_minutes(tx: &Transaction<'_>, minutes: &Minutes) -> Result<(), StoreError> {
    let sql = "-- add_minutes
        INSERT INTO usage_minutes AS u (subscription_meter_id, minute, key_meter_id, plan_meter_id, endpoint_meter_id, status_class,
            product_meter_id, request_count, admitted_count, failed_count, billable_count, request_bytes, response_bytes,
            latency_us_sum)
        SELECT m.subscription, timestamptz 'epoch' + m.minute_ms * interval '1 millisecond', m.key, m.plan, m.endpoint, m.class,
            m.product, m.requests, m.admitted, m.failed, m.billable, m.request_bytes, m.response_bytes, m.latency_us
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])
            AS m (subscription, minute_ms, key, plan, endpoint, class, product, requests, admitted, failed, billable,
                request_bytes, response_bytes, latency_us)
        ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (subscription_meter_id, minute, key_meter_id, plan_meter_id, endpoint_meter_id, status_class) DO UPDATE SET
            request_count = u.request_count + excluded.request_count,
            admitted_count = u.admitted_count + excluded.admitted_count,
            failed_count = u.failed_count + excluded.failed_count,
            billable_count = u.billable_count + excluded.billable_count,
            request_bytes = u.request_bytes + excluded.request_bytes,
            response_bytes = u.response_bytes + excluded.response_bytes,
            latency_us_sum = u.latency_us_sum + excluded.latency_us_sum";
    let cells = &minutes.cells;
    let classes: Vec<i16> = cells.keys().map(|key| key.status_class).collect();
    let subscriptions: Vec<i64> = cells.keys().map(|key| key.subscription).collect();
    let minute_ms: Vec<i64> = cells.keys().map(|key| key.minute_ms).collect();
    let keys: Vec<i64> = cells.keys().map(|key| key.key).collect();
    let plans: Vec<i64> = cells.keys().map(|key| key.plan).collect();
    let endpoints: Vec<i64> = cells.keys().map(|key| key.endpoint).collect();
    let sums = |pick: fn(&MinuteSums) -> i64| cells.values().map(pick).collect::<Vec<_>>();
    tx.execute_cached(
        sql,
        &[
            &subscriptions,
            &minute_ms,
            &keys,
            &plans,
            &endpoints,
            &classes,
            &sums(|sums| sums.product),
            &sums(|sums| sums.requests),
            &sums(|sums| sums.admitted),
            &sums(|sums| sums.failed),
            &sums(|sums| sums.billable),
            &sums(|sums| sums.request_bytes),
            &sums(|sums| sums.response_bytes),
            &sums(|sums| sums.latency_us),
        ],
    )
    .await?;
    Ok(())
}

/// Moves each (node, epoch)'s watermark over what is counted without a gap.
pub async fn move_watermarks(tx: &Transaction<'_>, counted: &HashSet<BatchId>) -> Result<(), StoreError> {
    let mut sources: Vec<(Uuid, Uuid)> = counted.iter().map(|id| (id.node, id.epoch)).collect();
    sources.sort_unstable();
    sources.dedup();
    let (nodes, epochs): (Vec<Uuid>, Vec<Uuid>) = sources.into_iter().unzip();
    let sql = "-- open_watermarks
        INSERT INTO ingest_watermarks (node_id, epoch)
        SELECT s.node_id, s.epoch FROM unnest($1::uuid[], $2::uuid[]) AS s (node_id, epoch) ORDER BY 1, 2
        ON CONFLICT DO NOTHING";
    tx.execute_cached(sql, &[&nodes, &epochs]).await?;
    let sql = "-- move_watermarks
        UPDATE ingest_watermarks w SET contiguous_seq = reached.seq, updated_at = now()
        FROM unnest($1::uuid[], $2::uuid[]) AS s (node_id, epoch), LATERAL (
            SELECT max(ahead.seq) AS seq FROM (
                SELECT b.seq, row_number() OVER (ORDER BY b.seq) AS place
                FROM ingested_batches b, ingest_watermarks o
                WHERE o.node_id = s.node_id AND o.epoch = s.epoch AND b.node_id = s.node_id AND b.epoch = s.epoch
                  AND b.seq > o.contiguous_seq ORDER BY b.seq LIMIT $3
            ) AS ahead
            WHERE ahead.seq - ahead.place = (
                SELECT o.contiguous_seq FROM ingest_watermarks o WHERE o.node_id = s.node_id AND o.epoch = s.epoch)
        ) AS reached
        WHERE w.node_id = s.node_id AND w.epoch = s.epoch AND reached.seq > w.contiguous_seq";
    tx.execute_cached(sql, &[&nodes, &epochs, &WATERMARK_REACH]).await?;
    Ok(())
}

/// When keys were last used, to the minute; of no consequence, so in a transaction of its own.
pub async fn touch_keys(store: &Store, used: &HashMap<i64, i64>) -> Result<(), StoreError> {
    let sql = "-- touch_keys
        UPDATE api_keys k SET last_used_at = u.at
        FROM (SELECT id, timestamptz 'epoch' + at_ms * interval '1 millisecond' AS at
              FROM unnest($1::bigint[], $2::bigint[]) AS t (id, at_ms)) AS u
        WHERE k.meter_id = u.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at - interval '1 minute')";
    let (keys, times): (Vec<i64>, Vec<i64>) = used.iter().map(|(key, at)| (*key, *at)).unzip();
    store
        .run_tx("touch_keys", |tx| {
            let (keys, times) = (&keys, &times);
            Box::pin(async move { tx.execute_cached(sql, &[keys, times]).await.map(|_| ()) })
        })
        .await
}

/// Keeps an entry that could not be read. A redelivery of it changes nothing.
pub async fn insert_failure(store: &Store, entry: &str, reason: &str, payload: &[u8]) -> Result<(), StoreError> {
    let sql = "-- insert_failure
        INSERT INTO ingest_failures (stream_id, reason, payload) VALUES ($1, $2, $3) ON CONFLICT (stream_id) DO NOTHING";
    store
        .run_tx("insert_failure", |tx| {
            Box::pin(async move { tx.execute_cached(sql, &[&entry, &reason, &payload]).await.map(|_| ()) })
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
