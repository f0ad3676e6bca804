//! What the rings hold and no batch does yet, once more, in a file that the disk confirms many times a second: for the day the
//! machine loses its power. (The rings' own pages reach the disk when the kernel likes; to wait for them there would make
//! requests wait.) Read by a successor alone.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::fs::{FallocateFlags, fallocate};

use super::record::{BODY_WORDS, Record, commit_word};
use crate::lock::lock;

/// Below an epoch's directory.
const NAME: &str = "unsealed.journal";
/// Records between two batches; when there are as many, a batch is due.
const RECORDS_MAX: usize = 32_768;
/// A record here: its place, its checksum, its words. 104 bytes.
const ENTRY_BYTES: usize = (2 + BODY_WORDS) * size_of::<u64>();
/// Room for two times that, 6.8 MB: the second begins where the first ended, unless the disk has the batch that holds it.
const FILE_BYTES: usize = 2 * RECORDS_MAX * ENTRY_BYTES;
/// A place is a ring's number and, in so many bits, the record's index.
const INDEX_BITS: u32 = 48;

/// The collector's end.
pub(super) struct Journal {
    shared: Arc<JournalFile>,
    /// What was read since the last batch, encoded.
    unsealed: Vec<u8>,
    /// Bytes of it that are in the file, from `base` on.
    written: usize,
    base: usize,
}

/// What the disk's thread needs of it.
pub(super) struct JournalFile {
    file: File,
    /// Something was written that the disk has not confirmed.
    is_dirty: AtomicBool,
    /// Events that are in the journal or in a batch, since the process began.
    stored: AtomicU64,
    /// When the oldest event may have happened that is stored and not confirmed.
    exposed_since: Mutex<Option<Instant>>,
}

/// The state of things when a sync began.
pub(super) struct Covered {
    pub(super) events: u64,
    pub(super) since: Option<Instant>,
}

impl Journal {
    /// Errors: the disk has no room.
    pub(super) fn create(dir: &Path) -> io::Result<Journal> {
        let file = File::options().read(true).write(true).create_new(true).open(dir.join(NAME))?;
        fallocate(&file, FallocateFlags::empty(), 0, u64::try_from(FILE_BYTES).unwrap_or(u64::MAX))?;
        let (is_dirty, stored) = (AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(JournalFile { file, is_dirty, stored, exposed_since: Mutex::new(None) });
        Ok(Journal { shared, unsealed: Vec::with_capacity(RECORDS_MAX * ENTRY_BYTES), written: 0, base: 0 })
    }

    pub(super) fn shared(&self) -> Arc<JournalFile> {
        self.shared.clone()
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsealed.len() >= RECORDS_MAX * ENTRY_BYTES
    }

    /// Not more than `is_full` allows.
    pub(super) fn add(&mut self, ring: usize, index: u64, record: &Record) {
        let words = record.to_words();
        let place = place_of(ring, index);
        let head = [place, commit_word(place, &words)].map(u64::to_le_bytes);
        self.unsealed.extend_from_slice(head.as_flattened());
        self.unsealed.extend_from_slice(words.map(u64::to_le_bytes).as_flattened());
    }

    /// A batch holds all that was added. `events`: since the process began.
    pub(super) fn sealed(&mut self, events: u64, since: Instant) {
        self.base += std::mem::take(&mut self.written);
        self.unsealed.clear();
        self.shared.note(events, since);
    }

    /// Writes what is new. `are_batches_synced`: nothing of what the file holds is needed any more, where a batch has it.
    /// `since`: when the oldest of it may have happened. Answers whether the disk's thread has something to do.
    pub(super) fn write(&mut self, are_batches_synced: bool, events: u64, since: Instant) -> io::Result<bool> {
        if self.written == 0 && are_batches_synced {
            self.base = 0;
        }
        let fresh = self.unsealed.get(self.written..).unwrap_or_default();
        if fresh.is_empty() {
            return Ok(false);
        }
        if self.base + self.unsealed.len() > FILE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let offset = u64::try_from(self.base + self.written).unwrap_or(u64::MAX);
        self.shared.file.write_all_at(fresh, offset)?;
        self.written = self.unsealed.len();
        self.shared.is_dirty.store(true, Ordering::Release);
        self.shared.note(events, since);
        Ok(true)
    }
}

impl JournalFile {
    fn note(&self, events: u64, since: Instant) {
        lock(&self.exposed_since).get_or_insert(since);
        self.stored.store(events, Ordering::Release);
    }

    /// Asked before a sync, it says what the sync covers.
    pub(super) fn cover(&self) -> Covered {
        let events = self.stored.load(Ordering::Acquire);
        Covered { events, since: lock(&self.exposed_since).take() }
    }

    /// Whether something was written since the last question.
    pub(super) fn take_dirty(&self) -> bool {
        self.is_dirty.swap(false, Ordering::AcqRel)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn place_of(ring: usize, index: u64) -> u64 {
    u64::try_from(ring).unwrap_or(u64::MAX) << INDEX_BITS | index & ((1 << INDEX_BITS) - 1)
}

/// Of each ring, the records by their index.
pub(super) type Journaled = BTreeMap<usize, BTreeMap<u64, Record>>;

/// What an ended process left, the long sealed among it.
pub(super) fn read(dir: &Path) -> io::Result<Journaled> {
    match std::fs::read(dir.join(NAME)) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Journaled::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn parse(bytes: &[u8]) -> Journaled {
    let mut all = Journaled::new();
    for entry in bytes.chunks_exact(ENTRY_BYTES) {
        let mut words = entry.chunks_exact(size_of::<u64>()).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let (place, commit) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        let mut body = [0; BODY_WORDS];
        body.iter_mut().zip(words).for_each(|(word, read)| *word = read);
        if commit == commit_word(place, &body) {
            let ring = usize::try_from(place >> INDEX_BITS).unwrap_or(usize::MAX);
            all.entry(ring).or_default().insert(place & ((1 << INDEX_BITS) - 1), Record::from_words(&body));
        }
    }
    all
}
