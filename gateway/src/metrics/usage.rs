//! The metrics of usage on its way to the database. What is lost is counted here, with the reason.

use prometheus::{Error, Gauge, Histogram, IntCounter, IntGauge};
use tracing::warn;

use super::closed::Closed;
use super::labels::DropReason;
use super::maker::Maker;

/// Upper bounds in seconds for a wait for the disk.
const SYNC_BUCKETS_S: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

pub struct UsageMetrics {
    /// Events taken from the rings.
    pub events_total: IntCounter,
    events_dropped_total: Closed<DropReason, IntCounter>,
    /// Events of which only sums are kept: too many refusals, or too little room.
    pub events_summed_total: IntCounter,
    /// Events that came later than was promised, and were dated to the promise.
    pub events_redated_total: IntCounter,
    /// Events found in the rings of ended processes.
    pub events_recovered_total: IntCounter,
    pub epochs_adopted_total: IntCounter,
    /// Records that found their thread's ring full.
    pub ring_full_total: IntCounter,
    /// Share of the fullest ring that is not in a batch yet.
    pub ring_fill_ratio: Gauge,
    pub batches_sealed_total: IntCounter,
    /// Batches that Redis took, those sent again too.
    pub batches_sent_total: IntCounter,
    /// Batches that were sent again: not acknowledged, and not in the stream any more.
    pub batches_resent_total: IntCounter,
    /// Batches that the database has.
    pub batches_acknowledged_total: IntCounter,
    /// Batches that the database has not, as far as we know.
    pub unacknowledged_batches: IntGauge,
    pub oldest_unacknowledged_age_seconds: IntGauge,
    pub spool_bytes: IntGauge,
    /// Batches that could not be stored; they are tried again.
    pub store_failures_total: IntCounter,
    compaction_failures_total: IntCounter,
    pub sync_seconds: Histogram,
    /// Events that survive a power failure: the disk has confirmed a batch with them, or the journal.
    pub events_synced_total: IntCounter,
    /// From the earliest that an event can have happened until the disk had it.
    pub exposed_seconds: Histogram,
    /// Looks whose events the journal did not take; they are on the disk when their batch is.
    pub journal_failures_total: IntCounter,
    sync_failures_total: IntCounter,
    /// Rounds with Redis that failed; what they sent is sent again under its own number.
    pub send_failures_total: IntCounter,
    /// Length of the stream after the last send.
    pub stream_length: IntGauge,
    /// Events that no dashboard saw live; they are counted all the same.
    pub live_lost_total: IntCounter,
}

impl UsageMetrics {
    pub(super) fn new(make: &Maker) -> Result<UsageMetrics, Error> {
        let counter = |name: &str, help: &str| make.counter(&format!("usage_{name}"), help);
        let gauge = |name: &str, help: &str| make.gauge(&format!("usage_{name}"), help);
        Ok(UsageMetrics {
            events_total: counter("events_total", "Usage events collected")?,
            events_dropped_total: make.closed_counters("usage_events_dropped_total", "Usage events lost", "reason")?,
            events_summed_total: counter("events_summed_total", "Events of which only sums are kept")?,
            events_redated_total: counter("events_redated_total", "Events dated to the promised low watermark")?,
            events_recovered_total: counter("events_recovered_total", "Events found in rings of ended processes")?,
            epochs_adopted_total: counter("epochs_adopted_total", "Ended epochs taken over")?,
            ring_full_total: counter("ring_full_total", "Records that found their thread's ring full")?,
            ring_fill_ratio: make.float_gauge("usage_ring_fill_ratio", "Fill of the fullest ring")?,
            batches_sealed_total: counter("batches_sealed_total", "Batches sealed")?,
            batches_sent_total: counter("batches_sent_total", "Batches that Redis took")?,
            batches_resent_total: counter("batches_resent_total", "Batches sent again")?,
            batches_acknowledged_total: counter("batches_acknowledged_total", "Batches that the database has")?,
            unacknowledged_batches: gauge("unacknowledged_batches", "Batches not yet acknowledged")?,
            oldest_unacknowledged_age_seconds: gauge(
                "oldest_unacknowledged_age_seconds",
                "Age of the oldest batch not yet acknowledged",
            )?,
            spool_bytes: gauge("spool_bytes", "Bytes of all batches on disk")?,
            store_failures_total: counter("store_failures_total", "Batches that could not be stored at once")?,
            compaction_failures_total: counter("compaction_failures_total", "Compactions that failed")?,
            sync_seconds: make.histogram("usage_sync_seconds", "Time until the disk had a batch", SYNC_BUCKETS_S)?,
            events_synced_total: counter("events_synced_total", "Usage events that the disk has")?,
            exposed_seconds: make.histogram(
                "usage_exposed_seconds",
                "Time during which a power failure would have taken an event",
                SYNC_BUCKETS_S,
            )?,
            journal_failures_total: counter("journal_failures_total", "Looks whose events the journal did not take")?,
            sync_failures_total: counter("sync_failures_total", "Times the disk refused to confirm")?,
            send_failures_total: counter("send_failures_total", "Rounds with Redis that failed")?,
            stream_length: gauge("stream_length", "Entries in the usage stream")?,
            live_lost_total: counter("live_lost_total", "Events that no dashboard saw live")?,
        })
    }

    pub fn dropped(&self, reason: DropReason, events: u64) {
        self.events_dropped_total.add(reason, events);
    }

    /// Events lost for this reason so far.
    pub fn dropped_so_far(&self, reason: DropReason) -> u64 {
        self.events_dropped_total.get(reason).map_or(0, IntCounter::get)
    }

    /// It is in the kernel and can be read, and asking again would answer Ok without doing anything. What is lost is the
    /// protection from a power failure; that is counted and said.
    pub fn sync_failed(&self, error: &dyn std::error::Error) {
        self.sync_failures_total.inc();
        warn!(%error, "the disk does not take usage; it is safe from a crash of the process only");
    }

    pub fn compaction_failed(&self, error: &dyn std::error::Error) {
        self.compaction_failures_total.inc();
        warn!(%error, "usage that waits for Redis could not be summed up");
    }
}
