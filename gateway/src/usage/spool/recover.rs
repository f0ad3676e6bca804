//! Reads a spool that an earlier process left: every whole batch, in order, once. A frame that was not written to its end is
//! not there; one that was changed since is left out, and its number stays a gap that everybody can see.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::segment::{self, Segment, unfinished_path};
use super::{ACKNOWLEDGED, Entry, Offered, Spool, SpoolError};
use crate::usage::frame::{Found, Frame, next_frame};

/// What was found beside whole batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::usage) struct Damage {
    /// Frames that were changed after they were written.
    pub(in crate::usage) frames: u64,
}

impl Spool {
    /// None: the directory holds no file, so no ring that could have been used either. New batches go into a file of their own.
    /// `node`: whose it is where no file says it.
    pub(in crate::usage) fn recover(
        dir: &Path,
        node: Uuid,
        epoch: Uuid,
        bytes_max: u64,
    ) -> Result<Option<(Spool, Damage)>, SpoolError> {
        drop(fs::remove_file(unfinished_path(dir)));
        let mut spool = Spool::empty(dir, node, epoch, bytes_max);
        let mut damage = Damage::default();
        for number in segment::numbers(dir)? {
            let path = segment::path(dir, number);
            let bytes = fs::read(&path)?;
            let before = spool.entries.len();
            let found = spool.read_segment(number, &bytes, &mut damage);
            spool.node = found.unwrap_or(spool.node);
            let last = spool.entries.back().filter(|_| spool.entries.len() > before).map(|entry| entry.sequence);
            if last.is_none() && found.is_some() && !spool.entries.is_empty() {
                // Its batches were compacted into an earlier file, or it never held any.
                fs::remove_file(path)?;
                continue;
            }
            let file = File::options().read(true).write(true).open(path)?;
            spool.segments.push_back(Segment::existing(number, file, last)?);
        }
        if spool.segments.is_empty() {
            return Ok(None);
        }
        spool.is_inherited = true;
        let told = fs::read_to_string(dir.join(ACKNOWLEDGED)).ok().and_then(|text| text.parse().ok());
        spool.acknowledged = told.filter(|sequence| *sequence < spool.next_sequence);
        spool.next_offer = spool.next_sequence;
        spool.synced_before = spool.next_sequence;
        Ok(Some((spool, damage)))
    }

    /// Answers with the node, where the file says it.
    fn read_segment(&mut self, number: u32, bytes: &[u8], damage: &mut Damage) -> Option<Uuid> {
        let (mut at, mut owner) = (0, None);
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let taken = match next_frame(rest) {
                Found::End => return owner,
                Found::Damaged(taken) => {
                    damage.frames += 1;
                    taken
                }
                Found::Whole(Frame::Start { node, epoch }, taken) => {
                    if epoch != self.epoch {
                        return owner;
                    }
                    owner = Some(node);
                    taken
                }
                Found::Whole(Frame::Batch(head, payload), taken) => {
                    // What stands in an earlier file already was compacted there.
                    if head.sequence >= self.next_sequence {
                        let end = u64::try_from(at + taken).unwrap_or(u64::MAX);
                        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                        let offset = end.saturating_sub(u64::from(length));
                        let entry = Entry { offset, bytes: length, ..Entry::of(&head, number) };
                        self.take_in(head, Entry { offered: Some(asked_before()), ..entry });
                    }
                    taken
                }
            };
            at += taken;
        }
    }
}

/// An earlier process may have offered it or not: it is due at once.
fn asked_before() -> Offered {
    Offered { at: Instant::now(), wait: Duration::ZERO, id: None }
}
