//! The sealed batches of one epoch on disk, oldest first, until they are acknowledged and a day has passed. A batch that was
//! offered to Redis never changes. Connects to nothing, and never forgets what was not acknowledged.

mod acknowledge;
mod compact;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use uuid::Uuid;

use self::acknowledge::Probe;
use self::segment::Segment;
use super::frame::{BatchHead, batch_frame};

/// How long an acknowledged batch is kept, should the database lose what it had committed.
const KEEP: Duration = Duration::from_secs(24 * 3_600);
/// From this share of the room on, acknowledged batches are not kept any longer.
const KEEP_PERCENT: u64 = 50;
/// From this share of the room on, batches that were never offered are compacted.
const COMPACT_PERCENT: u64 = 80;
/// Beyond this share of the room only compacted batches are taken.
const EVENTS_PERCENT: u64 = 90;
/// A batch is offered again after this, and then after twice as long each time.
const RESEND_AFTER: Duration = Duration::from_secs(2);
const RESEND_AFTER_MAX: Duration = Duration::from_secs(16);

/// The file that says up to which batch the database has them.
const ACKNOWLEDGED: &str = "acknowledged";

#[derive(Debug, Error)]
pub(super) enum SpoolError {
    #[error("usage.spool_bytes_max is reached")]
    Full,
    #[error(transparent)]
    Disk(#[from] io::Error),
}

pub(super) struct Spool {
    dir: PathBuf,
    pub(super) node: Uuid,
    pub(super) epoch: Uuid,
    /// A file each, by number. The last one is appended to.
    segments: VecDeque<Segment>,
    /// The next file, made ahead: the room in which sums are kept when the disk has no other.
    spare: Option<Segment>,
    /// By sequence.
    entries: VecDeque<Entry>,
    next_sequence: u64,
    /// The first that was never offered; all behind it were not either.
    next_offer: u64,
    /// Batches before it are on the disk, and not only on their way to it.
    synced_before: u64,
    acknowledged: Option<u64>,
    /// While Redis holds no acknowledgement though there was one.
    probe: Option<Probe>,
    /// As the newest batch has them.
    positions: Vec<u64>,
    low_watermark_ms: i64,
    is_closed: bool,
    /// From an earlier process: what it offered is not known, so nothing is compacted.
    is_inherited: bool,
    bytes_max: u64,
    /// Of the other epochs' spools in the same room.
    bytes_elsewhere: u64,
    unsynced: Unsynced,
}

/// What the disk has not confirmed.
#[derive(Default)]
pub(super) struct Unsynced {
    pub(super) files: Vec<Arc<File>>,
    /// Files were made or renamed in it.
    pub(super) dir: Option<PathBuf>,
    before: u64,
}

/// One batch in the spool.
#[derive(Clone, Debug)]
struct Entry {
    sequence: u64,
    segment: u32,
    /// Of the payload, in its file.
    offset: u64,
    bytes: u32,
    events: u32,
    at_ms: i64,
    is_compacted: bool,
    offered: Option<Offered>,
}

#[derive(Clone, Debug)]
struct Offered {
    at: Instant,
    /// When there is no acknowledgement by then, it is looked after.
    wait: Duration,
    /// Its entry in the stream. None: the answer was lost, or an earlier process asked.
    id: Option<Box<str>>,
}

/// A batch's number, and its entry's id where it is known.
pub(super) type Overdue = (u64, Option<Box<str>>);

/// A batch to be sent; reading it needs no lock.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) sequence: u64,
    file: Arc<File>,
    offset: u64,
    bytes: u32,
}

impl Outgoing {
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        segment::read_at(&self.file, self.offset, self.bytes)
    }
}

/// What is sealed into a batch.
pub(super) struct Sealed<'a> {
    pub(super) payload: &'a [u8],
    pub(super) events: u32,
    pub(super) at_ms: i64,
    pub(super) low_watermark_ms: i64,
    pub(super) is_compacted: bool,
    pub(super) closes_epoch: bool,
    pub(super) positions: &'a [u64],
}

impl Spool {
    /// An empty one in a new directory. Errors: the disk has no room.
    pub(super) fn create(dir: &Path, node: Uuid, epoch: Uuid, bytes_max: u64) -> Result<Spool, SpoolError> {
        let mut spool = Spool::empty(dir, node, epoch, bytes_max);
        spool.open_segment()?;
        Ok(spool)
    }

    fn empty(dir: &Path, node: Uuid, epoch: Uuid, bytes_max: u64) -> Spool {
        Spool {
            dir: dir.to_owned(),
            node,
            epoch,
            segments: VecDeque::new(),
            spare: None,
            entries: VecDeque::new(),
            next_sequence: 0,
            next_offer: 0,
            synced_before: 0,
            acknowledged: None,
            probe: None,
            positions: Vec::new(),
            low_watermark_ms: 0,
            is_closed: false,
            is_inherited: false,
            bytes_max,
            bytes_elsewhere: 0,
            unsynced: Unsynced::default(),
        }
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn positions(&self) -> &[u64] {
        &self.positions
    }

    pub(super) fn low_watermark_ms(&self) -> i64 {
        self.low_watermark_ms
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum()
    }

    pub(super) fn set_bytes_elsewhere(&mut self, bytes: u64) {
        self.bytes_elsewhere = bytes;
    }

    fn percent(&self, percent: u64) -> u64 {
        self.bytes_max.saturating_mul(percent) / 100
    }

    fn bytes_everywhere(&self) -> u64 {
        self.bytes().saturating_add(self.bytes_elsewhere)
    }

    /// Events are not taken any more, only their sums: there is little room, or the disk gives no more.
    pub(super) fn wants_rows(&self) -> bool {
        self.spare.is_none() || self.bytes_everywhere() >= self.percent(EVENTS_PERCENT)
    }

    /// Adds a batch under the next number. When it returns, the batch survives this process. Errors: it is not there.
    pub(super) fn append(&mut self, sealed: &Sealed<'_>) -> Result<(), SpoolError> {
        let head = BatchHead {
            sequence: self.next_sequence,
            at_ms: sealed.at_ms,
            low_watermark_ms: sealed.low_watermark_ms,
            events: sealed.events,
            closes_epoch: sealed.closes_epoch,
            is_compacted: sealed.is_compacted,
            positions: sealed.positions.to_vec(),
        };
        let frame = batch_frame(&head, sealed.payload);
        let length = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        let limit = if sealed.is_compacted { self.bytes_max } else { self.percent(EVENTS_PERCENT) };
        // What an ended epoch still held is taken in whatever its size: it is less than its rings, which go then.
        if !self.is_inherited && self.bytes_everywhere().saturating_add(length) > limit {
            return Err(SpoolError::Full);
        }
        if self.segments.back().is_none_or(|segment| !segment.has_room(length)) {
            self.open_segment()?;
        }
        let Some(segment) = self.segments.back_mut() else { return Err(SpoolError::Full) };
        let end = segment.append(&frame)?;
        let bytes = u32::try_from(sealed.payload.len()).unwrap_or(u32::MAX);
        let entry = Entry { offset: end.saturating_sub(u64::from(bytes)), bytes, ..Entry::of(&head, segment.number) };
        let file = segment.note(head.sequence);
        self.unsynced.note(file);
        self.take_in(head, entry);
        Ok(())
    }

    fn take_in(&mut self, head: BatchHead, entry: Entry) {
        self.entries.push_back(entry);
        self.next_sequence = head.sequence.saturating_add(1);
        self.low_watermark_ms = head.low_watermark_ms;
        self.is_closed = head.closes_epoch;
        self.positions = head.positions;
    }

    fn open_segment(&mut self) -> Result<(), SpoolError> {
        let segment = match self.spare.take() {
            Some(spare) => spare.opened(),
            None => self.make_segment()?,
        };
        if let Some(full) = self.segments.back_mut() {
            full.close();
        }
        self.segments.push_back(segment);
        // Without it events become sums until it can be made.
        drop(self.prepare());
        Ok(())
    }

    /// Makes the next file ahead, where it is missing. Errors: the disk has no room.
    pub(super) fn prepare(&mut self) -> Result<(), SpoolError> {
        if self.spare.is_none() && !self.is_inherited {
            self.spare = Some(self.make_segment()?);
        }
        Ok(())
    }

    fn make_segment(&mut self) -> Result<Segment, SpoolError> {
        let number = self.segments.back().map_or(0, |segment| segment.number.saturating_add(1));
        let segment = Segment::create(&self.dir, number, self.node, self.epoch)?;
        self.unsynced.dir = Some(self.dir.clone());
        Ok(segment)
    }

    /// Whether the disk has every batch.
    pub(super) fn is_synced(&self) -> bool {
        self.synced_before == self.next_sequence
    }

    /// What must reach the disk before the batches so far may be offered. None: nothing.
    pub(super) fn take_unsynced(&mut self) -> Option<Unsynced> {
        if self.is_synced() {
            return None;
        }
        Some(Unsynced { before: self.next_sequence, ..std::mem::take(&mut self.unsynced) })
    }

    pub(super) fn synced(&mut self, synced: &Unsynced) {
        self.synced_before = self.synced_before.max(synced.before);
    }

    fn index(&self, sequence: u64) -> usize {
        self.entries.partition_point(|entry| entry.sequence < sequence)
    }

    fn first_unacknowledged(&self) -> u64 {
        self.acknowledged.map_or(0, |sequence| sequence.saturating_add(1))
    }

    /// The next batches that were never offered, up to `bytes_max` and `count_max`; from now on they are.
    pub(super) fn offer(&mut self, bytes_max: usize, count_max: usize, now: Instant) -> Vec<Outgoing> {
        let (mut outgoing, mut bytes) = (Vec::new(), 0);
        let first = self.index(self.next_offer.max(self.first_unacknowledged()));
        for entry in self.entries.iter_mut().skip(first) {
            let is_full = outgoing.len() >= count_max || bytes > bytes_max;
            if is_full || entry.sequence >= self.synced_before {
                break;
            }
            let Some(segment) = find(&self.segments, entry.segment) else { continue };
            bytes += usize::try_from(entry.bytes).unwrap_or(usize::MAX);
            outgoing.push(entry.outgoing(segment.file.clone()));
            entry.offered = Some(Offered { at: now, wait: RESEND_AFTER, id: None });
            self.next_offer = entry.sequence.saturating_add(1);
        }
        outgoing
    }

    /// Whether some batch was never offered.
    pub(super) fn has_unoffered(&self) -> bool {
        self.next_offer.max(self.first_unacknowledged()) < self.next_sequence
    }

    /// Lets go of what is acknowledged and old enough, or in the way. Answers whether anything is left.
    pub(super) fn free(&mut self) -> bool {
        let first_kept = self.first_unacknowledged();
        while self.segments.len() > 1 || self.is_closed {
            let is_in_the_way = self.bytes_everywhere() > self.percent(KEEP_PERCENT);
            let Some(oldest) = self.segments.front() else { break };
            let is_done = oldest.last.is_none_or(|last| last < first_kept);
            let is_old = SystemTime::now().duration_since(oldest.modified).is_ok_and(|age| age > KEEP);
            if !is_done || !(is_old || is_in_the_way) {
                break;
            }
            // What cannot be removed now is found by the successor.
            drop(oldest.remove(&self.dir));
            let number = oldest.number;
            self.segments.pop_front();
            self.entries.retain(|entry| entry.segment != number);
        }
        !self.segments.is_empty()
    }
}

impl Unsynced {
    fn note(&mut self, file: Arc<File>) {
        if !self.files.iter().any(|noted| Arc::ptr_eq(noted, &file)) {
            self.files.push(file);
        }
    }
}

impl Entry {
    /// Its place is the caller's to fill in.
    fn of(head: &BatchHead, segment: u32) -> Entry {
        Entry {
            sequence: head.sequence,
            segment,
            offset: 0,
            bytes: 0,
            events: head.events,
            at_ms: head.at_ms,
            is_compacted: head.is_compacted,
            offered: None,
        }
    }

    fn outgoing(&self, file: Arc<File>) -> Outgoing {
        Outgoing { sequence: self.sequence, file, offset: self.offset, bytes: self.bytes }
    }
}

fn find(segments: &VecDeque<Segment>, number: u32) -> Option<&Segment> {
    segments.get(segments.partition_point(|segment| segment.number < number)).filter(|found| found.number == number)
}
