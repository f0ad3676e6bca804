//! Takes usage events from requests without ever making one wait, and ships them in numbered batches to a Redis stream.
//! Decides nothing about money, and loses nothing silently: what does not fit is counted.

mod batch;
mod redis_stream;
mod ship;
#[cfg(test)]
mod tests;
mod unsent;

use std::sync::Arc;
use std::time::Duration;

use ::settings::Secret;
use snapshot::wire::UsageEvent;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

pub use self::ship::Shipper;
use crate::metrics::Metrics;
use crate::metrics::labels::DropReason;

/// Events that wait to be put into a batch: about 10 MB.
pub const QUEUE_EVENTS_MAX: usize = 65_536;
/// Events of one batch.
pub const BATCH_EVENTS_MAX: usize = 1_000;
/// How long an event waits for others to share its batch.
pub const BATCH_WAIT: Duration = Duration::from_millis(200);
/// Sealed batches kept while Redis is away: 512,000 events, at most about 80 MB. Then the queue fills, then events are counted
/// as dropped.
pub const UNSENT_BATCHES_MAX: usize = 512;
/// How long a stopping gateway tries to hand over what it still holds.
pub const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Where usage goes, and in whose name.
#[derive(Clone, Debug)]
pub struct UsageSettings {
    /// May carry a password. None: usage is counted as dropped.
    pub redis_url: Option<Secret>,
    pub stream: String,
    /// Entries in the stream beyond which batches are held back.
    pub stream_length_max: u64,
    pub node_id: Uuid,
}

/// The requests' end of the queue; cheap to copy.
#[derive(Clone)]
pub struct UsageRecorder {
    queue: mpsc::Sender<UsageEvent>,
    metrics: Arc<Metrics>,
}

/// The two ends: one for the requests, one for the background task that ships.
pub fn channel(settings: UsageSettings, metrics: Arc<Metrics>) -> (UsageRecorder, Shipper) {
    let (queue, events) = mpsc::channel(QUEUE_EVENTS_MAX);
    let recorder = UsageRecorder { queue, metrics: metrics.clone() };
    (recorder, Shipper::new(settings, events, metrics))
}

impl UsageRecorder {
    /// Never waits. An event for which there is no room is dropped and counted.
    pub fn record(&self, event: UsageEvent) {
        match self.queue.try_send(event) {
            Ok(()) => self.metrics.usage.events_total.inc(),
            Err(TrySendError::Full(_)) => self.metrics.usage.dropped(DropReason::QueueFull, 1),
            Err(TrySendError::Closed(_)) => self.metrics.usage.dropped(DropReason::Stopped, 1),
        }
    }

    /// Events that wait to be put into a batch.
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}
