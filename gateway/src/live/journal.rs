//! The changes since the last look of whoever keeps the snapshot on disk, as bytes and in order. Bounded: beyond the bound they
//! are forgotten together, and the whole snapshot has to be written.

use std::collections::VecDeque;
use std::sync::Arc;

use ::snapshot::token::Token;
use ::snapshot::wire;
use prost::Message as _;

/// Bytes of changes that wait for the disk: minutes of a thousand changes a second.
pub const JOURNAL_BYTES_MAX: usize = 32 << 20;

/// One change of the feed as it was taken in: an encoded `Delta`.
#[derive(Debug, PartialEq, Eq)]
pub struct JournalEntry {
    pub from: Token,
    pub to: Token,
    pub delta: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<Arc<JournalEntry>>,
    bytes: usize,
}

impl JournalEntry {
    pub(crate) fn new(from: Token, to: Token, changes: &[wire::Change]) -> JournalEntry {
        let epoch = to.epoch.as_bytes().to_vec();
        let mut delta =
            wire::Delta { epoch, from: from.revision, to: to.revision, changes: Vec::new() }.encode_to_vec();
        // The bytes of `Delta { changes }`, without a copy of each change.
        for change in changes {
            prost::encoding::message::encode(4, change, &mut delta);
        }
        JournalEntry { from, to, delta }
    }
}

impl Journal {
    /// None: what is served now does not follow from what was served before by a change.
    pub(super) fn add(&mut self, entry: Option<Arc<JournalEntry>>) {
        match entry {
            Some(entry) if self.bytes + entry.delta.len() <= JOURNAL_BYTES_MAX => {
                self.bytes += entry.delta.len();
                self.entries.push_back(entry);
            }
            _ => *self = Journal::default(),
        }
    }

    /// In order. That they follow on what is on disk, their tokens say.
    pub(super) fn entries(&self) -> Vec<Arc<JournalEntry>> {
        self.entries.iter().cloned().collect()
    }

    /// Those up to this token are on disk.
    pub(super) fn forget(&mut self, token: Token) {
        let is_saved = |entry: &Arc<JournalEntry>| entry.to.epoch == token.epoch && entry.to.revision <= token.revision;
        while self.entries.front().is_some_and(is_saved) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| entry.delta.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{plan, put, token};
    use super::*;

    fn entry(from: u64, to: u64) -> Arc<JournalEntry> {
        Arc::new(JournalEntry::new(token(from), token(to), &[put(plan(1, 60)), put(plan(2, 60))]))
    }

    #[test]
    fn an_entry_is_the_delta_that_the_feed_sent() {
        let delta = wire::Delta::decode(entry(3, 5).delta.as_slice()).unwrap();
        let epoch = token(3).epoch.as_bytes().to_vec();
        assert_eq!(delta, wire::Delta { epoch, from: 3, to: 5, changes: vec![put(plan(1, 60)), put(plan(2, 60))] });
    }

    #[test]
    fn what_is_on_disk_is_forgotten_and_a_whole_snapshot_forgets_all() {
        let mut journal = Journal::default();
        for at in 1..5 {
            journal.add(Some(entry(at, at + 1)));
        }
        journal.forget(token(3));
        assert_eq!(journal.entries(), [entry(3, 4), entry(4, 5)]);
        assert_eq!(journal.bytes, 2 * entry(3, 4).delta.len());
        journal.add(None);
        assert_eq!((journal.entries().len(), journal.bytes), (0, 0));
    }

    #[test]
    fn beyond_its_bound_nothing_is_kept() {
        let mut journal = Journal::default();
        let large = |at: u64| JournalEntry { from: token(at), to: token(at + 1), delta: vec![0; 11 << 20] };
        for at in 0..2 {
            journal.add(Some(Arc::new(large(at))));
        }
        journal.add(Some(Arc::new(large(2))));
        assert_eq!((journal.entries().len(), journal.bytes), (0, 0), "the third makes the whole cheaper");
    }
}
