//! The background task that offers sealed batches to Redis and looks after them until the database has them: our own epoch's
//! and those taken over. A batch that is not acknowledged is sent again under its own number; while Redis is away the spool
//! keeps everything and memory keeps nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::RedisError;
use snapshot::usage::acknowledgement_key;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::SharedSpool;
use super::adopt::Inherited;
use super::live::LiveBatches;
use super::redis_link::RedisLink;
use super::spool::{Outgoing, Overdue};
use crate::clock::{Backoff, unix_ms};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::metrics::status::PartState;

/// Waits between failed rounds.
const RETRY_WAIT_FIRST: Duration = Duration::from_millis(100);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often a full stream is looked at again.
const FULL_STREAM_WAIT: Duration = Duration::from_millis(500);
/// How often acknowledgements are asked for, and what is overdue is looked after.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(1);
/// Without a word of a new batch, the spool is looked at this often.
const ROUND_EVERY: Duration = Duration::from_millis(250);
/// What is sent in one go: bytes (a batch more than this) and batches.
const PIPELINE_BYTES: usize = 2 * 1024 * 1024;
const PIPELINE_BATCHES: usize = 64;
/// As many are looked after in one go; Redis serves nobody else while it looks.
const OVERDUE_BATCHES: usize = 256;
/// As many of them are sent again in one go, of any size.
const RESENT_BATCHES: usize = 8;
/// How often what the database has is written down.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Between two attempts to reach Redis for live batches.
const LIVE_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Shipper {
    link: RedisLink,
    own: SharedSpool,
    inherited: Vec<Inherited>,
    /// Something new is in our own spool.
    arrived: Arc<Notify>,
    stream_length_max: u64,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    looked_after: Option<Instant>,
    saved: Instant,
    is_stream_full: bool,
}

impl Shipper {
    pub(super) fn new(
        link: RedisLink,
        own: SharedSpool,
        arrived: Arc<Notify>,
        stream_length_max: u64,
        metrics: Arc<Metrics>,
    ) -> Shipper {
        Shipper {
            link,
            own,
            inherited: Vec::new(),
            arrived,
            stream_length_max,
            metrics,
            backoff: Backoff::new(RETRY_WAIT_FIRST, RETRY_WAIT_MAX),
            looked_after: None,
            saved: Instant::now(),
            is_stream_full: false,
        }
    }

    pub(super) fn take_over(&mut self, inherited: Vec<Inherited>) {
        self.inherited.extend(inherited);
        // Before any of it is sent: what the database has already.
        self.looked_after = None;
    }

    /// Completes when there is something new.
    pub(super) fn arrived(&self) -> impl Future<Output = ()> + use<> {
        let arrived = self.arrived.clone();
        async move { arrived.notified().await }
    }

    /// One round: what is acknowledged, what is overdue, what is new. Answers how long to wait for the next one.
    pub(super) async fn round(&mut self) -> Duration {
        let pause = match self.exchange().await {
            Ok(()) => {
                self.backoff.reset();
                if self.metrics.status.redis() != PartState::Up {
                    info!("usage is being sent to Redis");
                    self.metrics.status.set_redis(PartState::Up);
                }
                if self.is_stream_full { FULL_STREAM_WAIT } else { ROUND_EVERY }
            }
            Err(error) => {
                self.note_down(&error);
                self.backoff.next_wait()
            }
        };
        self.show();
        pause
    }

    /// Whether every batch was offered at least once.
    pub(super) fn is_all_offered(&self) -> bool {
        self.spools().iter().all(|spool| !lock(spool).has_unoffered())
    }

    fn spools(&self) -> Vec<SharedSpool> {
        self.inherited.iter().map(|inherited| &inherited.spool).chain([&self.own]).cloned().collect()
    }

    async fn exchange(&mut self) -> Result<(), RedisError> {
        let is_time = self.looked_after.is_none_or(|looked| looked.elapsed() >= LOOK_AFTER_EVERY);
        if is_time {
            self.take_acknowledgements().await?;
            self.let_go();
            self.look_after_overdue().await?;
            self.looked_after = Some(Instant::now());
        }
        if self.is_stream_full {
            let length = self.link.length().await?;
            self.note_length(length);
        }
        for spool in self.spools() {
            while !self.is_stream_full {
                let outgoing = lock(&spool).offer(PIPELINE_BYTES, PIPELINE_BATCHES, Instant::now());
                if outgoing.is_empty() {
                    break;
                }
                self.send(&spool, &outgoing).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, spool: &SharedSpool, outgoing: &[Outgoing]) -> Result<(), RedisError> {
        if outgoing.is_empty() {
            return Ok(());
        }
        let (mut sequences, mut payloads) = (Vec::new(), Vec::new());
        for batch in outgoing {
            match batch.read() {
                Ok(payload) => {
                    sequences.push(batch.sequence);
                    payloads.push(payload);
                }
                // It stays unacknowledged, so that the gap is seen by everybody, and is read again when it is overdue.
                Err(error) => warn!(sequence = batch.sequence, %error, "a batch of the spool cannot be read"),
            }
        }
        let (ids, length) = self.link.add(&payloads).await?;
        let mut spool = lock(spool);
        for (sequence, id) in sequences.iter().zip(&ids) {
            spool.sent(*sequence, id);
        }
        drop(spool);
        self.metrics.usage.batches_sent_total.inc_by(u64::try_from(ids.len()).unwrap_or(u64::MAX));
        self.note_length(length);
        Ok(())
    }

    async fn take_acknowledgements(&mut self) -> Result<(), RedisError> {
        let spools = self.spools();
        let key = |spool: &SharedSpool| {
            let spool = lock(spool);
            acknowledgement_key(spool.node, spool.epoch)
        };
        let keys: Vec<String> = spools.iter().map(key).collect();
        let acknowledged = self.link.acknowledged(&keys).await?;
        for (spool, sequence) in spools.iter().zip(acknowledged) {
            let (mut spool, now) = (lock(spool), Instant::now());
            match sequence {
                Some(sequence) => {
                    self.metrics.usage.batches_acknowledged_total.inc_by(spool.acknowledge(sequence, now));
                }
                None => spool.note_silence(now),
            }
        }
        Ok(())
    }

    /// What the stream still holds is waited for; what it does not hold any more, and nobody acknowledged, is sent again.
    async fn look_after_overdue(&mut self) -> Result<(), RedisError> {
        for spool in self.spools() {
            // Behind what was looked at: each batch is met once a round, however many there are.
            let mut first = 0;
            while !self.is_stream_full {
                let overdue = lock(&spool).overdue(first, OVERDUE_BATCHES, Instant::now());
                let Some((last, _)) = overdue.last() else { break };
                first = last.saturating_add(1);
                self.look_after(&spool, overdue).await?;
            }
        }
        Ok(())
    }

    async fn look_after(&mut self, spool: &SharedSpool, overdue: Vec<Overdue>) -> Result<(), RedisError> {
        let known: Vec<&str> = overdue.iter().filter_map(|(_, id)| id.as_deref()).collect();
        let there = if known.is_empty() { Vec::new() } else { self.link.are_there(&known).await? };
        let mut there = there.into_iter();
        let is_gone = |(_, id): &Overdue| id.is_none() || !there.next().unwrap_or(false);
        let (gone, waiting): (Vec<Overdue>, Vec<Overdue>) = overdue.into_iter().partition(is_gone);
        for (sequence, _) in waiting {
            lock(spool).look_again(sequence, false, Instant::now());
        }
        for part in gone.chunks(RESENT_BATCHES) {
            if self.is_stream_full {
                break;
            }
            let again = |(sequence, _): &Overdue| lock(spool).look_again(*sequence, true, Instant::now());
            let outgoing: Vec<Outgoing> = part.iter().filter_map(again).collect();
            self.send(spool, &outgoing).await?;
            self.metrics.usage.batches_resent_total.inc_by(u64::try_from(outgoing.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Lets go of what the database has for long enough, and of epochs of which nothing is left.
    fn let_go(&mut self) {
        let mut own = lock(&self.own);
        own.free();
        let own_bytes = own.bytes();
        drop(own);
        let (kept, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.inherited).into_iter().partition(Inherited::free);
        self.inherited = kept;
        for inherited in done {
            if let Err(error) = inherited.dir.remove() {
                warn!(%error, "the directory of an ended epoch cannot be removed");
            }
        }
        let inherited_bytes: u64 = self.inherited.iter().map(|inherited| lock(&inherited.spool).bytes()).sum();
        lock(&self.own).set_bytes_elsewhere(inherited_bytes);
        for inherited in &self.inherited {
            lock(&inherited.spool).set_bytes_elsewhere(own_bytes);
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            for spool in self.spools() {
                // Without it a successor sends more than it must.
                drop(lock(&spool).save_acknowledged());
            }
            self.saved = Instant::now();
        }
    }

    fn note_length(&mut self, length: u64) {
        self.metrics.usage.stream_length.set(i64::try_from(length).unwrap_or(i64::MAX));
        self.is_stream_full = length >= self.stream_length_max;
    }

    /// Logged when the state changes, not at every attempt.
    fn note_down(&self, error: &RedisError) {
        self.metrics.usage.send_failures_total.inc();
        if self.metrics.status.redis() != PartState::Down {
            warn!(kind = ?error.kind(), "Redis does not take usage; batches are kept on disk");
            self.metrics.status.set_redis(PartState::Down);
        }
    }

    fn show(&self) {
        let (mut bytes, mut count, mut oldest) = (0u64, 0usize, None::<i64>);
        for spool in self.spools() {
            let spool = lock(&spool);
            let (unacknowledged, sealed_ms) = spool.unacknowledged();
            bytes = bytes.saturating_add(spool.bytes());
            count = count.saturating_add(unacknowledged);
            oldest = oldest.into_iter().chain(sealed_ms).min();
        }
        let usage = &self.metrics.usage;
        usage.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        usage.unacknowledged_batches.set(i64::try_from(count).unwrap_or(i64::MAX));
        let age_ms = oldest.map_or(0, |sealed_ms| unix_ms().saturating_sub(sealed_ms).max(0));
        usage.oldest_unacknowledged_age_seconds.set(age_ms / 1_000);
    }
}

/// Passes live batches on while Redis is there; ends when there will be no more.
pub(super) async fn pass_live(mut batches: LiveBatches, mut link: RedisLink) {
    while let Some(batch) = batches.incoming.recv().await {
        if link.add_live(&batch).await.is_err() {
            batches.is_wanted.store(false, Ordering::Relaxed);
            sleep(LIVE_RETRY).await;
            while batches.incoming.try_recv().is_ok() {}
            batches.is_wanted.store(true, Ordering::Relaxed);
        }
    }
}
