//! One consumer's loop: read, count, acknowledge. An entry leaves the stream only after Postgres has committed it, or has
//! stored it among the failures.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::event::{Parsed, RefusedEvent, parse_entry};
use super::metrics::IngestMetrics;
use super::stream::{Entry, StreamError, UsageStream};
use super::write::{Written, write_batches};
use crate::domain::usage::{Batch, BatchId};
use crate::store::usage::{insert_failure, prune_batches};
use crate::store::{Store, StoreError};

/// How often abandoned entries are looked for.
const CLAIM_INTERVAL: Duration = Duration::from_secs(10);
/// How often rows that watermarks cover are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);
/// Pause before a write is tried again, doubled up to the maximum.
const WRITE_BACK_OFF_MIN: Duration = Duration::from_millis(100);
const WRITE_BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// An event further in the past or the future than this is counted, and flagged. In milliseconds.
const PAST_MAX_MS: i64 = 35 * 24 * 3_600_000;
const FUTURE_MAX_MS: i64 = 5 * 60_000;
/// As `ingest_failures.reason` holds it, in characters.
const REASON_CHARS_MAX: usize = 2_000;
/// As much of a payload is kept, in bytes: all of one that a gateway could have sent.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) struct Consumer {
    store: Store,
    stream: UsageStream,
    metrics: IngestMetrics,
    abandoned_after: Duration,
    progressed: bool,
}

impl Consumer {
    pub(super) fn new(
        store: Store,
        stream: UsageStream,
        metrics: IngestMetrics,
        abandoned_after: Duration,
    ) -> Consumer {
        Consumer { store, stream, metrics, abandoned_after, progressed: false }
    }

    /// Connects and consumes; ends with what the stream failed with.
    pub(super) async fn consume(&mut self) -> Result<Infallible, StreamError> {
        self.stream.open().await?;
        self.metrics.up.set(1);
        self.progressed = true;
        let (mut claim_at, mut prune_at) = (Instant::now(), Instant::now());
        while self.take_pending().await? > 0 {}
        loop {
            if Instant::now() >= claim_at {
                self.take_abandoned().await?;
                claim_at = Instant::now() + CLAIM_INTERVAL;
            }
            if Instant::now() >= prune_at {
                if let Err(error) = prune_batches(&self.store).await {
                    self.metrics.prune_failures.inc();
                    tracing::warn!(%error, "rows of counted batches could not be pruned yet");
                }
                prune_at = Instant::now() + PRUNE_INTERVAL;
            }
            self.take_new().await?;
        }
    }

    #[cfg(test)]
    pub(super) async fn open(&mut self) -> Result<(), StreamError> {
        self.stream.open().await
    }

    #[cfg(test)]
    pub(super) fn stream(&mut self) -> &mut UsageStream {
        &mut self.stream
    }

    /// Takes in what was delivered here before and not acknowledged; answers how many entries.
    pub(super) async fn take_pending(&mut self) -> Result<usize, StreamError> {
        let entries = self.stream.read_pending().await?;
        let count = entries.len();
        self.take(entries).await?;
        Ok(count)
    }

    pub(super) async fn take_new(&mut self) -> Result<usize, StreamError> {
        let entries = match self.stream.read_new().await {
            Err(error) if error.is_no_group() => {
                tracing::warn!("the usage stream is gone; it is made anew");
                self.stream.make_group().await?;
                return Ok(0);
            }
            other => other?,
        };
        let count = entries.len();
        self.take(entries).await?;
        Ok(count)
    }

    pub(super) async fn take_abandoned(&mut self) -> Result<usize, StreamError> {
        let (mut from, mut count) = ("0-0".to_owned(), 0);
        loop {
            let (next, entries) = match self.stream.claim(self.abandoned_after, &from).await {
                Err(error) if error.is_no_group() => return Ok(count),
                other => other?,
            };
            count += entries.len();
            self.take(entries).await?;
            if next == "0-0" {
                return Ok(count);
            }
            from = next;
        }
    }

    pub(super) fn note_down(&self, error: &StreamError) {
        if self.metrics.up.get() == 1 {
            tracing::warn!(%error, "usage is not consumed for now");
        }
        self.metrics.up.set(0);
    }

    /// Whether the stream was reached since the last question.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    async fn take(&mut self, entries: Vec<Entry>) -> Result<(), StreamError> {
        if entries.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let mut good = Vec::with_capacity(entries.len());
        for entry in entries.into_iter().filter(|entry| !entry.is_gone) {
            match parse_entry(entry.version.as_deref(), entry.payload.clone()) {
                Ok(Parsed { batch, refused }) => {
                    for event in refused {
                        self.move_event_aside(batch.id, event).await;
                    }
                    good.push((entry, batch));
                }
                Err(fault) => self.move_aside(&entry, fault).await,
            }
        }
        self.write(good).await;
        self.stream.remove(&ids).await
    }

    /// Ends only when all of it is in Postgres: nothing is acknowledged before.
    async fn write(&self, entries: Vec<(Entry, Batch)>) {
        let batches: Vec<Batch> = entries.iter().map(|(_, batch)| batch.clone()).collect();
        if batches.is_empty() {
            return;
        }
        match write_batches(&self.store, &batches).await {
            Ok(written) => self.note(written, &batches),
            // One by one, so that a single bad or slow batch holds up no other.
            Err(error) => {
                self.note_retry(&error);
                for (entry, batch) in &entries {
                    self.write_one(entry, batch).await;
                }
            }
        }
    }

    async fn write_one(&self, entry: &Entry, batch: &Batch) {
        let mut back_off = WRITE_BACK_OFF_MIN;
        loop {
            match write_batches(&self.store, std::slice::from_ref(batch)).await {
                Ok(written) => return self.note(written, std::slice::from_ref(batch)),
                Err(error) if is_for_ever(&error) => return self.move_aside(entry, error).await,
                Err(error) => self.note_retry(&error),
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(WRITE_BACK_OFF_MAX);
        }
    }

    /// Named by its batch, so that it is kept once however often the batch comes.
    async fn move_event_aside(&self, batch: BatchId, event: RefusedEvent) {
        let RefusedEvent { index, field, payload } = event;
        let id = format!("{} {}/{}/{} event {index}", self.stream.name, batch.node, batch.epoch, batch.sequence);
        let reason = format!("event {index}: {field} is missing or not valid");
        self.keep_failure(&id, &reason, &payload).await;
    }

    /// Ends only when the entry is among the failures.
    async fn move_aside(&self, entry: &Entry, reason: impl std::fmt::Display + Send) {
        let id = format!("{} {}", self.stream.name, entry.id);
        let reason: String = reason.to_string().chars().filter(|c| *c != '\0').take(REASON_CHARS_MAX).collect();
        let payload = entry.payload.as_deref().unwrap_or(entry.fields.as_bytes());
        let payload = payload.get(..PAYLOAD_BYTES_MAX).unwrap_or(payload);
        self.keep_failure(&id, &reason, payload).await;
    }

    async fn keep_failure(&self, id: &str, reason: &str, payload: &[u8]) {
        tracing::error!(%id, %reason, "usage is moved aside");
        let mut back_off = WRITE_BACK_OFF_MIN;
        while let Err(error) = insert_failure(&self.store, id, reason, payload).await {
            self.note_retry(&error);
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(WRITE_BACK_OFF_MAX);
        }
        self.metrics.failures.inc();
    }

    fn note_retry(&self, error: &StoreError) {
        self.metrics.retries.inc();
        tracing::warn!(%error, "usage could not be written yet");
    }

    fn note(&self, written: Written, batches: &[Batch]) {
        self.metrics.events.inc_by(written.events);
        self.metrics.batches.inc_by(written.batches);
        self.metrics.duplicates.inc_by(written.duplicates);
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let expected = now_ms - PAST_MAX_MS..now_ms + FUTURE_MAX_MS;
        let skewed =
            batches.iter().flat_map(|batch| &batch.events).filter(|event| !expected.contains(&event.at_ms)).count();
        self.metrics.skewed.inc_by(u64::try_from(skewed).unwrap_or(u64::MAX));
    }
}

/// Whether the batch itself is at fault: what Postgres refuses about its values it refuses again.
fn is_for_ever(error: &StoreError) -> bool {
    match error {
        StoreError::Conflict { .. }
        | StoreError::Referenced { .. }
        | StoreError::Refused { .. }
        | StoreError::BadValue(_) => true,
        StoreError::Unavailable(_)
        // Counted or not: the batch's own row tells the next attempt.
        | StoreError::OutcomeUnknown(_)
        | StoreError::Retry
        | StoreError::RowCount { .. }
        | StoreError::BadRow(_)
        | StoreError::Settings(_)
        | StoreError::Statement(_) => false,
    }
}
