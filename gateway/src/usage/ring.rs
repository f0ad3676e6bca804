//! A ring of records between one writer and one reader, over words that may be a file's. A record is there when its first word
//! is; nothing is ever written over what was not released. Knows no file, no clock, no thread.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::record::{BODY_WORDS, Record, WORDS, commit_word};

/// Apart by more than a cache line, so that the writer does not pay for the reader's stores.
#[repr(align(128))]
struct Apart(AtomicU64);

pub(super) struct Ring<W> {
    words: W,
    /// Records that fit.
    capacity: u64,
    /// Records written so far. For the reader of this process; it is not in the file.
    head: Apart,
    /// Records that may be written over.
    released: Apart,
    has_writer: AtomicBool,
}

/// The one that may write.
pub(super) struct Writer<W: AsRef<[AtomicU64]>> {
    ring: Arc<Ring<W>>,
    head: u64,
    /// Word at which record `head` begins: kept, for a division costs more than all the rest of a push.
    next: usize,
    /// What was released when it was last looked at.
    released: u64,
}

impl<W: AsRef<[AtomicU64]>> Ring<W> {
    /// `words`: zeros, or what an earlier ring of nobody's left.
    pub(super) fn new(words: W) -> Ring<W> {
        let capacity = u64::try_from(words.as_ref().len() / WORDS).unwrap_or(0);
        let zero = || Apart(AtomicU64::new(0));
        Ring { words, capacity, head: zero(), released: zero(), has_writer: AtomicBool::new(false) }
    }

    /// None: somebody writes already.
    pub(super) fn writer(self: &Arc<Self>) -> Option<Writer<W>> {
        if self.has_writer.swap(true, Ordering::AcqRel) {
            return None;
        }
        let head = self.head.0.load(Ordering::Acquire);
        let next = self.start(head).unwrap_or_default();
        Some(Writer { ring: self.clone(), head, next, released: self.released.0.load(Ordering::Acquire) })
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Records written so far: each of them can be read.
    pub(super) fn head(&self) -> u64 {
        self.head.0.load(Ordering::Acquire)
    }

    /// From now on the records before `index` may be written over.
    pub(super) fn release(&self, index: u64) {
        self.released.0.store(index, Ordering::Release);
    }

    /// Records that were not released.
    pub(super) fn held(&self) -> u64 {
        self.head().saturating_sub(self.released.0.load(Ordering::Acquire))
    }

    /// None: record `index` is not there, or not whole.
    pub(super) fn read(&self, index: u64) -> Option<Record> {
        let [commit, body @ ..] = self.words.as_ref().get(self.start(index)?..)?.first_chunk::<WORDS>()?;
        let commit = commit.load(Ordering::Acquire);
        let mut values = [0; BODY_WORDS];
        for (value, word) in values.iter_mut().zip(body) {
            *value = u64::from_le(word.load(Ordering::Relaxed));
        }
        (u64::from_le(commit) == commit_word(index, &values)).then(|| Record::from_words(&values))
    }

    /// The word at which a record begins. None: the ring has no room at all.
    fn start(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_rem(self.capacity)?).ok()?.checked_mul(WORDS)
    }

    #[inline]
    fn write(&self, start: usize, index: u64, record: &Record) {
        let words = self.words.as_ref().get(start..).and_then(<[AtomicU64]>::first_chunk::<WORDS>);
        let Some([commit, body @ ..]) = words else { return };
        let values = record.to_words();
        for (word, value) in body.iter().zip(values) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
        // Last: whoever finds it finds all the others.
        commit.store(commit_word(index, &values).to_le(), Ordering::Release);
    }
}

impl<W: AsRef<[AtomicU64]>> Writer<W> {
    /// False: there are `fill_max` records that were not released, and nothing was written.
    #[inline]
    pub(super) fn push(&mut self, record: &Record, fill_max: u64) -> bool {
        let fill_max = fill_max.min(self.ring.capacity);
        if self.head.wrapping_sub(self.released) >= fill_max {
            self.released = self.ring.released.0.load(Ordering::Acquire);
            if self.head.wrapping_sub(self.released) >= fill_max {
                return false;
            }
        }
        self.ring.write(self.next, self.head, record);
        self.head += 1;
        self.next += WORDS;
        if self.next + WORDS > self.ring.words.as_ref().len() {
            self.next = 0;
        }
        self.ring.head.0.store(self.head, Ordering::Release);
        true
    }

    pub(super) fn capacity(&self) -> u64 {
        self.ring.capacity
    }
}

impl<W: AsRef<[AtomicU64]>> Drop for Writer<W> {
    fn drop(&mut self) {
        self.ring.has_writer.store(false, Ordering::Release);
    }
}

/// What a dead process left in a ring.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// Each with its index, in order.
    pub(super) records: Vec<(u64, Record)>,
    /// Records that must have been there, as later ones are, and are not whole: a fault of the disk, or of its power.
    pub(super) broken: u64,
}

impl Leftovers {
    /// What somebody else knows of the same ring fills the gaps.
    pub(super) fn with(self, more: BTreeMap<u64, Record>, from: u64) -> Leftovers {
        let mut all: BTreeMap<u64, Record> = more.into_iter().filter(|(index, _)| *index >= from).collect();
        all.extend(self.records);
        let behind_last = all.last_key_value().map_or(from, |(last, _)| last.saturating_add(1));
        let found = u64::try_from(all.len()).unwrap_or(u64::MAX);
        Leftovers { broken: (behind_last - from).saturating_sub(found), records: all.into_iter().collect() }
    }
}

/// Reads what was written at `from` and behind it. `bytes` is the whole file.
pub(super) fn leftovers(bytes: &[u8], from: u64) -> Leftovers {
    let capacity = bytes.len() / (WORDS * size_of::<u64>());
    let mut found = Leftovers::default();
    let mut missing = 0;
    for index in from..from.saturating_add(u64::try_from(capacity).unwrap_or(0)) {
        match whole_record(bytes, capacity, index) {
            Some(record) => {
                found.records.push((index, record));
                found.broken += std::mem::take(&mut missing);
            }
            None => missing += 1,
        }
    }
    found
}

fn whole_record(bytes: &[u8], capacity: usize, index: u64) -> Option<Record> {
    let place = usize::try_from(index).ok()?.checked_rem(capacity)?;
    let bytes = bytes.chunks_exact(WORDS * size_of::<u64>()).nth(place)?;
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(size_of::<u64>())) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    let [commit, body @ ..] = words;
    (commit == commit_word(index, &body)).then(|| Record::from_words(&body))
}
