//! What dashboards see at once: the last moments' events up to a cap, and counts of all of them. Best effort: it never waits,
//! is off while Redis is away, and nothing is ever billed from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use snapshot::wire::{LiveBatch, LiveCount};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::event_bytes::{Event, EventBytes};
use crate::metrics::Metrics;

/// Events shown one by one in each batch; the counts are of all.
const EVENTS_MAX: usize = 200;
/// Different counts in each batch.
const COUNTS_MAX: usize = 2_000;
/// Of a `LiveBatch`.
const EVENTS_FIELD: u8 = 5;
/// Batches on their way to Redis.
const WAITING_MAX: usize = 8;

/// Subscription, product, endpoint, status, verdict.
type Group = (u64, u64, u64, u32, i32);

/// The collector's end.
pub(super) struct LiveFeed {
    node: Uuid,
    boot: Uuid,
    sequence: u64,
    events: EventBytes,
    counts: BTreeMap<Group, [u64; 4]>,
    outgoing: mpsc::Sender<Vec<u8>>,
    is_wanted: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// The shipper's end.
pub(super) struct LiveBatches {
    pub(super) incoming: mpsc::Receiver<Vec<u8>>,
    /// Whether Redis takes them.
    pub(super) is_wanted: Arc<AtomicBool>,
}

pub(super) fn channel(node: Uuid, boot: Uuid, metrics: Arc<Metrics>) -> (LiveFeed, LiveBatches) {
    let (outgoing, incoming) = mpsc::channel(WAITING_MAX);
    let is_wanted = Arc::new(AtomicBool::new(true));
    let (events, counts) = (EventBytes::default(), BTreeMap::new());
    let feed = LiveFeed { node, boot, sequence: 0, events, counts, outgoing, is_wanted: is_wanted.clone(), metrics };
    (feed, LiveBatches { incoming, is_wanted })
}

impl LiveFeed {
    pub(super) fn add(&mut self, event: &mut Event<'_>) {
        if self.events.count() < EVENTS_MAX {
            self.events.add(EVENTS_FIELD, event);
        }
        let record = event.record;
        let group =
            (record.subscription, record.product, record.endpoint, u32::from(record.status), i32::from(record.verdict));
        if self.counts.len() >= COUNTS_MAX && !self.counts.contains_key(&group) {
            self.metrics.usage.live_lost_total.inc();
            return;
        }
        let sums = [1, record.request_bytes, record.response_bytes, u64::from(record.latency_us)];
        let all = self.counts.entry(group).or_default();
        for (all, sum) in all.iter_mut().zip(sums) {
            *all = all.saturating_add(sum);
        }
    }

    /// Hands over what was added since the last time; where that is not possible now, it is gone, and its number missing.
    pub(super) fn flush(&mut self, at_ms: i64) {
        if self.counts.is_empty() {
            return;
        }
        let counts = std::mem::take(&mut self.counts);
        let total: u64 = counts.values().map(|[count, ..]| *count).sum();
        let rest = LiveBatch {
            node_id: self.node.as_bytes().to_vec(),
            boot_id: self.boot.as_bytes().to_vec(),
            sequence: self.sequence,
            at_ms,
            events: Vec::new(),
            counts: counts.into_iter().map(|(group, sums)| to_count(group, sums)).collect(),
        };
        self.sequence += 1;
        let is_wanted = self.is_wanted.load(Ordering::Relaxed);
        if !is_wanted || self.outgoing.try_send(self.events.with(&rest)).is_err() {
            self.metrics.usage.live_lost_total.inc_by(total);
        }
        self.events.clear();
    }
}

fn to_count(group: Group, sums: [u64; 4]) -> LiveCount {
    let (subscription, product, endpoint, status, verdict) = group;
    let [count, request_bytes, response_bytes, latency_us_sum] = sums;
    LiveCount { subscription, product, endpoint, status, verdict, count, request_bytes, response_bytes, latency_us_sum }
}
