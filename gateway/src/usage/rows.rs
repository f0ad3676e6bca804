//! Sums events that differ in nothing that a bill asks for: quarter of an hour and kind. Exact; what it loses is the single
//! request.

use std::collections::HashMap;

use snapshot::wire::{UsageEvent, UsageKind, UsageRow};

use super::record::Record;

const QUARTER_HOUR_MS: i64 = 15 * 60 * 1_000;

#[derive(Debug, Default)]
pub(super) struct Rows {
    sums: HashMap<(i64, UsageKind), [u64; 5]>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    pub(super) fn add_record(&mut self, record: &Record) {
        let latencies = [record.latency_us, record.upstream_latency_us].map(u64::from);
        let sums = [1, record.request_bytes, record.response_bytes, latencies[0], latencies[1]];
        self.add(quarter_hour_ms(record.at_ms), record.to_kind(), sums);
    }

    pub(super) fn add_event(&mut self, event: &UsageEvent) {
        let latencies = [event.latency_us, event.upstream_latency_us].map(u64::from);
        let sums = [1, event.request_bytes, event.response_bytes, latencies[0], latencies[1]];
        self.add(quarter_hour_ms(event.at_ms), event.kind.unwrap_or_default(), sums);
    }

    pub(super) fn add_row(&mut self, row: &UsageRow) {
        let sums = [row.count, row.request_bytes, row.response_bytes, row.latency_us_sum, row.upstream_latency_us_sum];
        self.add(row.quarter_hour_ms, row.kind.unwrap_or_default(), sums);
    }

    fn add(&mut self, quarter_hour_ms: i64, kind: UsageKind, sums: [u64; 5]) {
        let all = self.sums.entry((quarter_hour_ms, kind)).or_default();
        for (all, sum) in all.iter_mut().zip(sums) {
            *all = all.saturating_add(sum);
        }
    }

    /// In the order of time and subscription, in which the database takes them best.
    pub(super) fn to_wire(&self) -> Vec<UsageRow> {
        let mut rows: Vec<UsageRow> =
            self.sums.iter().map(|((quarter, kind), sums)| to_row(*quarter, *kind, *sums)).collect();
        rows.sort_unstable_by_key(|row| {
            let kind = row.kind.unwrap_or_default();
            (row.quarter_hour_ms, kind.subscription, kind.key, kind.endpoint, kind.status)
        });
        rows
    }
}

fn to_row(quarter_hour_ms: i64, kind: UsageKind, sums: [u64; 5]) -> UsageRow {
    let [count, request_bytes, response_bytes, latency_us_sum, upstream_latency_us_sum] = sums;
    UsageRow {
        quarter_hour_ms,
        kind: Some(kind),
        count,
        request_bytes,
        response_bytes,
        latency_us_sum,
        upstream_latency_us_sum,
    }
}

fn quarter_hour_ms(at_ms: i64) -> i64 {
    at_ms.div_euclid(QUARTER_HOUR_MS).saturating_mul(QUARTER_HOUR_MS)
}
