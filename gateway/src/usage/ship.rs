//! The background task that collects events into batches and sends them, oldest first, until each is confirmed. A failed send is
//! repeated under the same number; while Redis is away memory stays bounded and the requests go on.

use std::sync::Arc;
use std::time::Duration;

use ::settings::Secret;
use snapshot::wire::UsageEvent;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::batch::Sealer;
use super::redis_stream::RedisStream;
use super::unsent::Unsent;
use super::{BATCH_EVENTS_MAX, BATCH_WAIT, FLUSH_MAX, UNSENT_BATCHES_MAX, UsageSettings};
use crate::clock::Backoff;
use crate::metrics::Metrics;
use crate::metrics::labels::DropReason;
use crate::metrics::status::PartState;

/// Waits between failed sends.
const RETRY_WAIT_FIRST: Duration = Duration::from_millis(100);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often a full stream is looked at again.
const FULL_STREAM_WAIT: Duration = Duration::from_millis(500);

pub struct Shipper {
    settings: UsageSettings,
    events: mpsc::Receiver<UsageEvent>,
    unsent: Unsent,
    metrics: Arc<Metrics>,
}

impl Shipper {
    pub(super) fn new(settings: UsageSettings, events: mpsc::Receiver<UsageEvent>, metrics: Arc<Metrics>) -> Shipper {
        Shipper { settings, events, unsent: Unsent::new(UNSENT_BATCHES_MAX), metrics }
    }

    /// Ships until `stop` says so, then hands over what is left within `FLUSH_MAX`. Say stop when no request is in flight any
    /// more: what is recorded later is counted as dropped.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let Shipper { settings, mut events, unsent, metrics } = self;
        let Some(stream) = open_stream(settings.redis_url.as_ref(), &settings.stream) else {
            return count_as_dropped(events, &metrics, stop).await;
        };
        let sender = Sender { stream, unsent: &unsent, metrics: &metrics, length_max: settings.stream_length_max };
        let mut batch = Vec::with_capacity(BATCH_EVENTS_MAX);
        let sealer = Sealer::new(settings.node_id);
        let collecting = collect(&mut events, &mut batch, sealer, &unsent, &metrics, stop.clone());
        let both = async { tokio::join!(collecting, sender.run()) };
        tokio::select! {
            _ = both => {}
            () = flush_deadline(stop) => {}
        }
        let in_hand = u64::try_from(batch.len() + events.len()).unwrap_or(u64::MAX);
        let lost = unsent.events().saturating_add(in_hand);
        if lost > 0 {
            warn!(events = lost, "stopped before Redis took the last usage events");
            metrics.usage.dropped(DropReason::Stopped, lost);
        }
    }
}

fn open_stream(url: Option<&Secret>, name: &str) -> Option<RedisStream> {
    // The error is not logged: it may quote the URL, and with it a password.
    let stream = RedisStream::new(url?.expose(), name.to_owned());
    stream.inspect_err(|_| warn!("the usage Redis URL cannot be read; usage is dropped and counted")).ok()
}

async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn flush_deadline(mut stop: watch::Receiver<bool>) {
    told(&mut stop).await;
    sleep(FLUSH_MAX).await;
}

async fn count_as_dropped(mut events: mpsc::Receiver<UsageEvent>, metrics: &Metrics, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = told(&mut stop) => return,
            () = sleep(BATCH_WAIT) => {}
        }
        while events.try_recv().is_ok() {
            metrics.usage.dropped(DropReason::NotConfigured, 1);
        }
    }
}

/// Puts events into batches, each time `BATCH_WAIT` is over. The queue is looked at by the clock and never waited on: a
/// waiting receiver would have to be woken by every request, which costs more than all that the gateway decides.
async fn collect(
    events: &mut mpsc::Receiver<UsageEvent>,
    batch: &mut Vec<UsageEvent>,
    mut sealer: Sealer,
    unsent: &Unsent,
    metrics: &Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut stopping = false;
    while !stopping {
        tokio::select! {
            () = told(&mut stop) => stopping = true,
            () = sleep(BATCH_WAIT) => {}
        }
        if stopping {
            // Ends the queue: what is in it comes out, nothing more goes in.
            events.close();
        }
        metrics.usage.queue_depth.set(i64::try_from(events.len()).unwrap_or(i64::MAX));
        // Ends: what came meanwhile, when a batch was not full, waits for the next round.
        while fill(batch, events) > 0 {
            let is_last = batch.len() < BATCH_EVENTS_MAX;
            unsent.room().await;
            // There is room: this is the only task that puts anything in.
            if let Err(refused) = unsent.push(sealer.seal(std::mem::take(batch))) {
                metrics.usage.dropped(DropReason::QueueFull, refused.events);
            }
            metrics.usage.unsent_batches.set(i64::try_from(unsent.len()).unwrap_or(i64::MAX));
            if is_last {
                break;
            }
        }
    }
    unsent.close();
}

/// Takes what is there, up to a full batch. Returns the events in the batch.
fn fill(batch: &mut Vec<UsageEvent>, events: &mut mpsc::Receiver<UsageEvent>) -> usize {
    while batch.len() < BATCH_EVENTS_MAX
        && let Ok(event) = events.try_recv()
    {
        batch.push(event);
    }
    batch.len()
}

struct Sender<'a> {
    stream: RedisStream,
    unsent: &'a Unsent,
    metrics: &'a Metrics,
    length_max: u64,
}

impl Sender<'_> {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_WAIT_FIRST, RETRY_WAIT_MAX);
        let mut full = false;
        while let Some(batch) = self.unsent.oldest().await {
            let sent = if full { self.stream.length().await } else { self.stream.add(&batch.bytes).await };
            match sent {
                Ok(length) => {
                    if !full {
                        self.unsent.confirm(batch.sequence);
                        self.metrics.usage.batches_sent_total.inc();
                    }
                    self.is_up(length);
                    backoff.reset();
                    full = length >= self.length_max;
                    if full {
                        sleep(FULL_STREAM_WAIT).await;
                    }
                }
                Err(error) => {
                    self.is_down(&error);
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    fn is_up(&self, length: u64) {
        self.metrics.usage.stream_length.set(i64::try_from(length).unwrap_or(i64::MAX));
        self.metrics.usage.unsent_batches.set(i64::try_from(self.unsent.len()).unwrap_or(i64::MAX));
        if self.metrics.status.redis() != PartState::Up {
            info!("usage is being sent to Redis");
            self.metrics.status.set_redis(PartState::Up);
        }
    }

    /// Logged when the state changes, not at every attempt.
    fn is_down(&self, error: &redis::RedisError) {
        self.metrics.usage.send_failures_total.inc();
        if self.metrics.status.redis() != PartState::Down {
            warn!(kind = ?error.kind(), "Redis does not take usage; batches are kept");
            self.metrics.status.set_redis(PartState::Down);
        }
    }
}
