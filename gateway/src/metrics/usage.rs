//! The metrics of usage on its way to Redis. What is lost is counted here, with the reason.

use prometheus::{Error, IntCounter, IntGauge};

use super::closed::Closed;
use super::labels::DropReason;
use super::maker::Maker;

pub struct UsageMetrics {
    /// Events taken from requests.
    pub events_total: IntCounter,
    events_dropped_total: Closed<DropReason, IntCounter>,
    /// Events that wait to be put into a batch.
    pub queue_depth: IntGauge,
    /// Sealed batches that Redis has not confirmed.
    pub unsent_batches: IntGauge,
    /// Batches that Redis confirmed.
    pub batches_sent_total: IntCounter,
    /// Sends that failed; the batch is sent again under its own number.
    pub send_failures_total: IntCounter,
    /// Length of the stream after the last send.
    pub stream_length: IntGauge,
}

impl UsageMetrics {
    pub(super) fn new(make: &Maker) -> Result<UsageMetrics, Error> {
        Ok(UsageMetrics {
            events_total: make.counter("usage_events_total", "Usage events recorded")?,
            events_dropped_total: make.closed_counters("usage_events_dropped_total", "Usage events lost", "reason")?,
            queue_depth: make.gauge("usage_queue_depth", "Usage events not yet in a batch")?,
            unsent_batches: make.gauge("usage_unsent_batches", "Batches not yet confirmed")?,
            batches_sent_total: make.counter("usage_batches_sent_total", "Batches confirmed")?,
            send_failures_total: make.counter("usage_send_failures_total", "Sends to Redis that failed")?,
            stream_length: make.gauge("usage_stream_length", "Entries in the usage stream")?,
        })
    }

    pub fn dropped(&self, reason: DropReason, events: u64) {
        self.events_dropped_total.add(reason, events);
    }

    /// Events lost for this reason so far.
    pub fn dropped_so_far(&self, reason: DropReason) -> u64 {
        self.events_dropped_total.get(reason).map_or(0, IntCounter::get)
    }
}
