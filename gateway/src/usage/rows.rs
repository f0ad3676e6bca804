//! Sums events that differ in nothing that a bill asks for: quarter of an hour, key, plan version, endpoint, status and outcome.
//! Exact; what it loses is the single request.

use std::collections::BTreeMap;

use snapshot::wire::{UsageEvent, UsageRow};

use super::record::Record;

const QUARTER_HOUR_MS: i64 = 15 * 60 * 1_000;

/// All fields of a row that are not sums, in the row's order.
type Group = (i64, [u64; 5], u32, i32, i32, bool, bool);

#[derive(Debug, Default)]
pub(super) struct Rows {
    sums: BTreeMap<Group, [u64; 5]>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    pub(super) fn add_record(&mut self, record: &Record) {
        let meters = [record.key, record.subscription, record.product, record.endpoint, record.plan];
        let outcome = (record.verdict.into(), record.failed_by.into());
        let group = (
            quarter_hour_ms(record.at_ms),
            meters,
            u32::from(record.status),
            outcome.0,
            outcome.1,
            record.upstream_contacted,
            record.test_key,
        );
        let latencies = [record.latency_us, record.upstream_latency_us].map(u64::from);
        self.add(group, [1, record.request_bytes, record.response_bytes, latencies[0], latencies[1]]);
    }

    pub(super) fn add_event(&mut self, event: &UsageEvent) {
        let meters = [event.key, event.subscription, event.product, event.endpoint, event.plan];
        let group = (
            quarter_hour_ms(event.at_ms),
            meters,
            event.status,
            event.verdict,
            event.failed_by,
            event.upstream_contacted,
            event.test_key,
        );
        let latencies = [event.latency_us, event.upstream_latency_us].map(u64::from);
        self.add(group, [1, event.request_bytes, event.response_bytes, latencies[0], latencies[1]]);
    }

    pub(super) fn add_row(&mut self, row: &UsageRow) {
        let meters = [row.key, row.subscription, row.product, row.endpoint, row.plan];
        let (quarter, contacted) = (row.quarter_hour_ms, row.upstream_contacted);
        let group = (quarter, meters, row.status, row.verdict, row.failed_by, contacted, row.test_key);
        let sums = [row.count, row.request_bytes, row.response_bytes, row.latency_us_sum, row.upstream_latency_us_sum];
        self.add(group, sums);
    }

    fn add(&mut self, group: Group, sums: [u64; 5]) {
        let all = self.sums.entry(group).or_default();
        for (all, sum) in all.iter_mut().zip(sums) {
            *all = all.saturating_add(sum);
        }
    }

    pub(super) fn to_wire(&self) -> Vec<UsageRow> {
        self.sums.iter().map(|(group, sums)| to_row(*group, *sums)).collect()
    }
}

fn to_row(group: Group, sums: [u64; 5]) -> UsageRow {
    let (quarter_hour_ms, meters, status, verdict, failed_by, upstream_contacted, test_key) = group;
    let [key, subscription, product, endpoint, plan] = meters;
    let [count, request_bytes, response_bytes, latency_us_sum, upstream_latency_us_sum] = sums;
    UsageRow {
        quarter_hour_ms,
        key,
        subscription,
        product,
        endpoint,
        plan,
        status,
        verdict,
        failed_by,
        upstream_contacted,
        test_key,
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
