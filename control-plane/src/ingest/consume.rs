//! One consumer's loop: read, count, acknowledge. An entry leaves the stream only after Postgres has committed it, or has
//! stored it among the failures.

use std::convert::Infallible;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::event::{Parsed, Refused, parse_entry};
use super::metrics::IngestMetrics;
use super::stream::{Entry, StreamError, UsageStream};
use super::write::{Written, write_batches};
use crate::domain::usage::{Batch, BatchId};
use crate::store::usage::{Reached, insert_failure};
use crate::store::{Store, StoreError};

/// How often abandoned entries are looked for.
const CLAIM_INTERVAL: Duration = Duration::from_secs(10);
/// Pause before a write is tried again, doubled up to the maximum.
const WRITE_BACK_OFF_MIN: Duration = Duration::from_millis(100);
const WRITE_BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// Requests counted in one transaction, unless a single batch has more. The more, the fewer cells are written for each; and each
/// statement must end within its time.
const MERGE_EVENTS_MAX: usize = 100_000;
/// As `ingest_failures.reason` holds it, in characters.
const REASON_CHARS_MAX: usize = 2_000;
/// As much of a payload is kept, in bytes: all of one that a gateway could have sent.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) struct Consumer {
    store: Store,
    stream: UsageStream,
    metrics: IngestMetrics,
    abandoned_after: Duration,
    log_one_in: u64,
    progressed: bool,
}

impl Consumer {
    pub(super) fn new(
        store: Store,
        stream: UsageStream,
        metrics: IngestMetrics,
        abandoned_after: Duration,
        log_one_in: u64,
    ) -> Consumer {
        Consumer { store, stream, metrics, abandoned_after, log_one_in, progressed: false }
    }

    /// Connects and consumes; ends with what the stream failed with.
    pub(super) async fn consume(&mut self) -> Result<Infallible, StreamError> {
        self.stream.open().await?;
        self.metrics.up.set(1);
        self.progressed = true;
        let mut claim_at = Instant::now();
        while self.take_pending().await? > 0 {}
        loop {
            if Instant::now() >= claim_at {
                self.take_abandoned().await?;
                claim_at = Instant::now() + CLAIM_INTERVAL;
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
        let mut reached = Vec::new();
        for merge in merges(good) {
            reached.extend(self.write(merge).await);
        }
        // Off the stream before it is acknowledged to the gateway: what is lost between the two is sent and acknowledged again.
        self.stream.remove(&ids).await?;
        self.stream.acknowledge(&reached).await
    }

    /// Ends only when all of it is in Postgres: nothing is acknowledged before. Answers what may be acknowledged.
    async fn write(&self, merge: Vec<(Entry, Batch)>) -> Vec<Reached> {
        let (entries, batches): (Vec<Entry>, Vec<Batch>) = merge.into_iter().unzip();
        match write_batches(&self.store, &batches, self.log_one_in).await {
            Ok(written) => self.note(written),
            // One by one, so that a single bad or slow batch holds up no other.
            Err(error) => {
                self.note_retry(&error);
                let mut reached = Vec::new();
                for (entry, batch) in entries.iter().zip(&batches) {
                    reached.extend(self.write_one(entry, batch).await);
                }
                reached
            }
        }
    }

    async fn write_one(&self, entry: &Entry, batch: &Batch) -> Vec<Reached> {
        let mut back_off = WRITE_BACK_OFF_MIN;
        loop {
            match write_batches(&self.store, std::slice::from_ref(batch), self.log_one_in).await {
                Ok(written) => return self.note(written),
                Err(error) if is_for_ever(&error) => {
                    self.move_aside(entry, error).await;
                    return Vec::new();
                }
                Err(error) => self.note_retry(&error),
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(WRITE_BACK_OFF_MAX);
        }
    }

    /// Named by its batch, so that it is kept once however often the batch comes.
    async fn move_event_aside(&self, batch: BatchId, refused: Refused) {
        let Refused { what, index, field, payload } = refused;
        let BatchId { producer, sequence } = batch;
        let name = format!("{} {}/{}/{sequence} {what} {index}", self.stream.name, producer.node, producer.epoch);
        let reason = format!("{what} {index}: {field} is missing or not valid");
        self.keep_failure(&name, &reason, &payload).await;
    }

    /// Ends only when the entry is among the failures. Named by what it holds: its gateway sends it again until it is counted.
    async fn move_aside(&self, entry: &Entry, reason: impl std::fmt::Display + Send) {
        let payload = entry.payload.as_deref().unwrap_or(entry.fields.as_bytes());
        let payload = payload.get(..PAYLOAD_BYTES_MAX).unwrap_or(payload);
        let digest: String = Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{} sha256:{digest}", self.stream.name);
        let reason: String = reason.to_string().chars().filter(|c| *c != '\0').take(REASON_CHARS_MAX).collect();
        self.keep_failure(&name, &reason, payload).await;
    }

    async fn keep_failure(&self, name: &str, reason: &str, payload: &[u8]) {
        let mut back_off = WRITE_BACK_OFF_MIN;
        let is_new = loop {
            match insert_failure(&self.store, name, reason, payload).await {
                Ok(is_new) => break is_new,
                Err(error) => self.note_retry(&error),
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(WRITE_BACK_OFF_MAX);
        };
        if is_new {
            tracing::error!(%name, %reason, "usage is moved aside");
            self.metrics.failures.inc();
        }
    }

    fn note_retry(&self, error: &StoreError) {
        self.metrics.retries.inc();
        tracing::warn!(%error, "usage could not be written yet");
    }

    fn note(&self, written: Written) -> Vec<Reached> {
        self.metrics.events.inc_by(written.events);
        self.metrics.batches.inc_by(written.batches);
        self.metrics.duplicates.inc_by(written.duplicates);
        self.metrics.skewed.inc_by(written.skewed);
        written.reached
    }
}

/// Groups that are counted in one transaction each.
fn merges(entries: Vec<(Entry, Batch)>) -> Vec<Vec<(Entry, Batch)>> {
    let (mut all, mut merge, mut size) = (Vec::new(), Vec::new(), 0);
    for (entry, batch) in entries {
        let more = batch.events.len() + batch.compacted.len();
        if size + more > MERGE_EVENTS_MAX && !merge.is_empty() {
            all.push(std::mem::take(&mut merge));
            size = 0;
        }
        size += more;
        merge.push((entry, batch));
    }
    if !merge.is_empty() {
        all.push(merge);
    }
    all
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
