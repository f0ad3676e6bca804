//! Makes room: batches that were never offered to anybody become sums of a quarter of an hour, whole files at a time, the oldest
//! first. Their numbers stay, so that no number is missing; their content may change because nobody has seen it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use prost::Message as _;
use snapshot::wire::{UsageBatch, UsageRow};

use super::segment::{self, Segment, unfinished_path};
use super::{COMPACT_PERCENT, Entry, Spool, SpoolError};
use crate::usage::frame::{BatchHead, Found, Frame, batch_frame, next_frame, start_frame};
use crate::usage::rows::Rows;
use crate::usage::seal::{BATCH_EVENTS_MAX, BATCH_ROWS_MAX};

/// Files that become one in one go: it takes a fraction of a second, while the rings go on taking events.
const SEGMENTS_MAX: usize = 4;

/// What one compaction did.
#[derive(Debug)]
pub(in crate::usage) struct Compacted {
    pub(in crate::usage) events: u64,
    pub(in crate::usage) rows: u64,
    /// Whether the disk confirmed that the new content took the old one's place.
    pub(in crate::usage) synced: io::Result<()>,
}

impl Spool {
    pub(in crate::usage) fn wants_compaction(&self) -> bool {
        self.bytes_everywhere() >= self.percent(COMPACT_PERCENT)
    }

    /// None: there is nothing that may still change and would become smaller. After an error nothing has changed.
    pub(in crate::usage) fn compact(&mut self) -> Result<Option<Compacted>, SpoolError> {
        let Some(chosen) = self.choose() else { return Ok(None) };
        let Some(first) = self.segments.get(chosen.start).map(|segment| segment.number) else { return Ok(None) };
        let (heads, rows, events) = self.read_rows(chosen.clone())?;
        let dir = File::open(&self.dir)?;
        let (file, entries) = self.write_compacted(first, &heads, &rows)?;
        let replacement = Segment::existing(first, file, heads.last().map(|head| head.sequence))?;
        fs::rename(unfinished_path(&self.dir), segment::path(&self.dir, first))?;

        // From here on the old content is gone, and so nothing may fail any more. A crash before the files behind the first are
        // removed leaves batches in them whose numbers stand in the first already, which recovery leaves out.
        let synced = dir.sync_all();
        let from = chosen.start;
        for old in self.segments.drain(chosen).skip(1) {
            // What cannot be removed now is removed by recovery; what a lost rename would bring back must be whole.
            if synced.is_ok() {
                drop(old.remove(&self.dir));
            }
        }
        self.segments.insert(from, replacement);
        for entry in entries {
            let index = self.index(entry.sequence);
            if let Some(place) = self.entries.get_mut(index) {
                *place = entry;
            }
        }
        Ok(Some(Compacted { events, rows: u64::try_from(rows.len()).unwrap_or(u64::MAX), synced }))
    }

    /// The oldest files in a row, not the one that is appended to, of which nothing was offered and something is not compacted.
    fn choose(&self) -> Option<std::ops::Range<usize>> {
        if self.is_inherited {
            return None;
        }
        let closed = self.segments.len().saturating_sub(1);
        let first = self.segments.iter().take(closed).position(|segment| self.may_shrink(segment))?;
        let more = self.segments.iter().take(closed).skip(first).take(SEGMENTS_MAX);
        let count = more.take_while(|segment| self.may_shrink(segment)).count();
        Some(first..first + count)
    }

    fn may_shrink(&self, segment: &Segment) -> bool {
        let first = self.entries.partition_point(|entry| entry.segment < segment.number);
        let of_it = self.entries.iter().skip(first).take_while(|entry| entry.segment == segment.number);
        let mut of_it = of_it.peekable();
        let is_fresh = of_it
            .peek()
            .is_some_and(|first| first.sequence >= self.next_offer && first.sequence >= self.first_unacknowledged());
        is_fresh && of_it.any(|entry| !entry.is_compacted && entry.events > 0)
    }

    fn read_rows(&self, chosen: std::ops::Range<usize>) -> Result<(Vec<BatchHead>, Vec<UsageRow>, u64), SpoolError> {
        let (mut heads, mut rows, mut events) = (Vec::new(), Rows::default(), 0u64);
        for segment in self.segments.range(chosen) {
            let bytes = fs::read(segment::path(&self.dir, segment.number))?;
            let mut at = 0;
            while let Found::Whole(frame, taken) = next_frame(bytes.get(at..).unwrap_or_default()) {
                if let Frame::Batch(head, payload) = frame {
                    let batch = UsageBatch::decode(payload).map_err(io::Error::other)?;
                    batch.events.iter().for_each(|event| rows.add_event(event));
                    batch.rows.iter().for_each(|row| rows.add_row(row));
                    events = events.saturating_add(u64::from(head.events));
                    heads.push(head);
                }
                at += taken;
            }
            if u64::try_from(at).ok() != Some(segment.bytes()) {
                return Err(SpoolError::Disk(io::Error::other("a batch of the spool is damaged")));
            }
        }
        Ok((heads, rows.to_wire(), events))
    }

    /// Every number, the first ones with the rows, the others empty. Whole on the disk when it returns.
    fn write_compacted(
        &self,
        segment: u32,
        heads: &[BatchHead],
        rows: &[UsageRow],
    ) -> Result<(File, Vec<Entry>), SpoolError> {
        let mut bytes = start_frame(self.node, self.epoch);
        let mut entries = Vec::with_capacity(heads.len());
        let mut rest = rows.chunks(BATCH_EVENTS_MAX + BATCH_ROWS_MAX);
        for head in heads {
            let rows = rest.next().unwrap_or_default();
            let counted = rows.iter().map(|row| row.count).fold(0u64, u64::saturating_add);
            let batch = UsageBatch {
                node_id: self.node.as_bytes().to_vec(),
                epoch: self.epoch.as_bytes().to_vec(),
                sequence: head.sequence,
                events: Vec::new(),
                rows: rows.to_vec(),
                low_watermark_ms: head.low_watermark_ms,
                closes_epoch: head.closes_epoch,
            };
            let payload = batch.encode_to_vec();
            let head =
                BatchHead { is_compacted: true, events: u32::try_from(counted).unwrap_or(u32::MAX), ..head.clone() };
            bytes.extend_from_slice(&batch_frame(&head, &payload));
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_sub(u64::from(length));
            entries.push(Entry { offset, bytes: length, ..Entry::of(&head, segment) });
        }
        // There are never more rows than there were events and rows, so the numbers suffice; but a loss must be impossible.
        if rest.next().is_some() {
            return Err(SpoolError::Disk(io::Error::other("the compacted rows do not fit into their batches")));
        }
        let path = unfinished_path(&self.dir);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync_data()).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok((file, entries))
    }
}
