//! `usage_logs`: one row for each recorded request, copied in bulk. Rows are of batches that this transaction has claimed, so
//! none comes twice.

use crate::domain::usage::{BatchId, Event};
use crate::store::copy::CopyRows;
use crate::store::{StoreError, Transaction};

const SQL: &str = "-- insert_logs
    COPY usage_logs (node_id, epoch, seq, ordinal, occurred_at, request_id, key_meter_id, subscription_meter_id, product_meter_id,
        endpoint_meter_id, plan_meter_id, method, status, verdict, failed_by, request_bytes, response_bytes, latency_us,
        upstream_latency_us, upstream_contacted, billable) FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 21;

/// An event's place, and whether it is billable.
pub struct Logged<'a> {
    pub batch: BatchId,
    pub ordinal: usize,
    pub event: &'a Event,
    pub billable: bool,
}

pub async fn insert_logs(tx: &Transaction<'_>, events: &[Logged<'_>]) -> Result<(), StoreError> {
    let mut rows = CopyRows::new(COLUMNS);
    for Logged { batch, ordinal, event, billable } in events {
        let kind = &event.kind;
        rows.row()
            .uuid(batch.producer.node)
            .uuid(batch.producer.epoch)
            .bigint(batch.sequence)
            .int(i32::try_from(*ordinal).unwrap_or(i32::MAX))
            .timestamptz(event.at_ms)
            .uuid(event.request_id)
            .bigint(kind.key)
            .bigint(kind.subscription)
            .bigint(kind.product)
            .bigint(kind.endpoint)
            .bigint(kind.plan)
            .text(&event.method)
            .smallint(kind.status)
            .text(kind.verdict())
            .optional_text(kind.failed_by)
            .bigint(event.request_bytes)
            .bigint(event.response_bytes)
            .bigint(event.latency_us)
            .optional_bigint(event.upstream_latency_us)
            .boolean(kind.upstream_contacted)
            .boolean(*billable);
    }
    tx.copy_cached(SQL, rows.finish()).await.map(|_| ())
}
