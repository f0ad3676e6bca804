//! The newest snapshot of this process, and what changed lately: what the feed hands out. Holds records by entity and, of the
//! recent past, only which entity changed at which revision; so a delta is always made of current records, and a reader that
//! falls behind skips what was overwritten meanwhile. Does no I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use snapshot::record::EntityRef;
use snapshot::token::Token;
use snapshot::wire;
use tokio::sync::watch;

/// Changed entities that are remembered, at about 32 bytes each; whoever is further behind gets everything.
pub const HISTORY_CHANGES_MAX: usize = 10_000;
/// Largest delta, encoded, in bytes; a larger one is sent as a full snapshot, in chunks.
const DELTA_BYTES_MAX: usize = wire::FEED_MESSAGE_BYTES_MAX - 32 * 1024;
/// Wanted size of a chunk, in bytes; one larger record has a chunk of its own.
const CHUNK_BYTES_WANTED: usize = 512 * 1024;

pub type RecordMap = BTreeMap<EntityRef, Arc<wire::Record>>;

/// Shared between the builder, which writes, and the feed's sessions, which read.
pub struct Book {
    pages: Mutex<Pages>,
    newest: watch::Sender<Option<Token>>,
    full: Mutex<Weak<Full>>,
    /// When it was last known to be what the database says.
    looked_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Pages {
    token: Option<Token>,
    records: RecordMap,
    /// In order of revisions.
    history: VecDeque<(u64, EntityRef)>,
    /// The oldest revision from which a delta can be made.
    floor: u64,
}

/// A full snapshot, cut into chunks; the same bytes for the same records.
pub struct Full {
    pub token: Token,
    pub chunks: Vec<Bytes>,
    pub digests: Vec<[u8; 32]>,
}

/// What a reader needs next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// It has everything there is.
    Nothing,
    Delta(wire::Delta),
    /// Too far behind, or of another epoch.
    Full,
    /// It has a newer revision than this process: another control plane was faster.
    Ahead,
}

impl Default for Book {
    fn default() -> Self {
        let newest = watch::Sender::new(None);
        Book { pages: Mutex::default(), newest, full: Mutex::new(Weak::new()), looked_at: Mutex::default() }
    }
}

impl Book {
    /// Changes whenever there is a newer snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Option<Token>> {
        self.newest.subscribe()
    }

    /// Says that the book is as new as the database.
    pub fn note_look(&self) {
        *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago the book was as new as the database; `None` before the first build.
    pub fn age(&self) -> Option<Duration> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    pub fn newest(&self) -> Option<Token> {
        *self.newest.borrow()
    }

    /// Takes a whole snapshot. `history` says what changed before it, from revision `floor` on, in order.
    pub fn replace(&self, token: Token, records: RecordMap, history: Vec<(u64, EntityRef)>, floor: u64) {
        let mut pages = Pages { token: Some(token), records, history: history.into(), floor };
        pages.trim();
        *lock(&self.pages) = pages;
        self.newest.send_replace(Some(token));
    }

    /// Moves to `token`, of the same epoch: `None` removes a record. What is equal to what is there is no change. Answers how
    /// many records there are.
    pub fn advance(&self, token: Token, changed: BTreeMap<EntityRef, Option<wire::Record>>) -> usize {
        let mut pages = lock(&self.pages);
        for (entity, record) in changed {
            if pages.records.get(&entity).map(AsRef::as_ref) == record.as_ref() {
                continue;
            }
            match record {
                Some(record) => pages.records.insert(entity, Arc::new(record)),
                None => pages.records.remove(&entity),
            };
            pages.history.push_back((token.revision, entity));
        }
        pages.token = Some(token);
        pages.trim();
        let count = pages.records.len();
        drop(pages);
        self.newest.send_replace(Some(token));
        count
    }

    pub fn record(&self, entity: &EntityRef) -> Option<Arc<wire::Record>> {
        lock(&self.pages).records.get(entity).cloned()
    }

    /// Everything, as it is now.
    #[cfg(test)]
    pub(crate) fn records(&self) -> (Option<Token>, RecordMap) {
        let pages = lock(&self.pages);
        (pages.token, pages.records.clone())
    }

    /// What brings a reader from `have` to the newest snapshot.
    pub fn next(&self, have: Option<Token>) -> Next {
        let pages = lock(&self.pages);
        let (Some(have), Some(newest)) = (have, pages.token) else {
            return if pages.token.is_some() { Next::Full } else { Next::Nothing };
        };
        if have.epoch != newest.epoch {
            return Next::Full;
        }
        match have.revision.cmp(&newest.revision) {
            std::cmp::Ordering::Equal => Next::Nothing,
            std::cmp::Ordering::Greater => Next::Ahead,
            std::cmp::Ordering::Less if have.revision < pages.floor => Next::Full,
            std::cmp::Ordering::Less => pages.delta(have.revision, newest),
        }
    }

    /// The newest snapshot in chunks; made once for all who ask at the same time. Takes time in proportion to the snapshot.
    pub fn full(&self) -> Option<Arc<Full>> {
        let mut cached = lock(&self.full);
        let (token, records) = {
            let pages = lock(&self.pages);
            let token = pages.token?;
            if let Some(full) = cached.upgrade().filter(|full| full.token == token) {
                return Some(full);
            }
            (token, pages.records.values().cloned().collect::<Vec<_>>())
        };
        let chunks = encode_chunks(&records);
        let digests = chunks.iter().map(|chunk| Sha256::digest(chunk).into()).collect();
        let full = Arc::new(Full { token, chunks, digests });
        *cached = Arc::downgrade(&full);
        Some(full)
    }
}

impl Pages {
    fn trim(&mut self) {
        while self.history.len() > HISTORY_CHANGES_MAX {
            if let Some((revision, _)) = self.history.pop_front() {
                self.floor = self.floor.max(revision);
            }
        }
    }

    fn delta(&self, from: u64, newest: Token) -> Next {
        let start = self.history.partition_point(|(revision, _)| *revision <= from);
        let entities: BTreeSet<EntityRef> = self.history.range(start..).map(|(_, entity)| *entity).collect();
        let mut bytes = 0;
        let mut changes = Vec::with_capacity(entities.len());
        for entity in entities {
            let change = match self.records.get(&entity) {
                Some(record) => wire::change::Change::Put(wire::Record::clone(record)),
                None => wire::change::Change::Remove(entity.into()),
            };
            let change = wire::Change { change: Some(change) };
            bytes += change.encoded_len() + 8;
            if bytes > DELTA_BYTES_MAX {
                return Next::Full;
            }
            changes.push(change);
        }
        Next::Delta(wire::Delta { epoch: newest.epoch.as_bytes().to_vec(), from, to: newest.revision, changes })
    }
}

/// Cuts records into encoded `Records`, in their order.
fn encode_chunks(records: &[Arc<wire::Record>]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let (mut buffer, mut count) = (Vec::new(), 0);
    for record in records {
        let is_full = count == wire::CHUNK_RECORDS_MAX || buffer.len() + record.encoded_len() > CHUNK_BYTES_WANTED;
        if count > 0 && is_full {
            chunks.push(Bytes::from(std::mem::take(&mut buffer)));
            count = 0;
        }
        // The bytes of `Records { records }`, without a copy of each record.
        prost::encoding::message::encode(1, record.as_ref(), &mut buffer);
        count += 1;
    }
    if count > 0 {
        chunks.push(Bytes::from(buffer));
    }
    chunks
}

/// A writer that panicked left whole values behind: each change of the pages is a whole one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
