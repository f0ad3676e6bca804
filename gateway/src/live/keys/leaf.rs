//! The keys of one shard, in the order of their tags and without a gap, with the places where short runs of them begin: a
//! look-up reads one place and one run. Never changes: a change makes the next leaf.

use super::record::{KeyRecord, KeyTag};

/// Keys of one shard, so that places fit into 16 bits: with 4,096 shards 268 million keys.
pub(crate) const LEAF_KEYS_MAX: usize = u16::MAX as usize;
/// Keys of a run, as a mean: places cost two bytes each, and a run of three is two or three cache lines.
const RUN_KEYS: usize = 3;

#[derive(Clone, Default)]
pub(crate) struct Leaf {
    records: Box<[KeyRecord]>,
    /// Where each run begins, and where the last one ends; nothing in an empty leaf.
    starts: Box<[u16]>,
}

impl Leaf {
    /// None: the records are too many, or not in strictly rising order.
    pub(crate) fn of_sorted(records: Vec<KeyRecord>) -> Option<Leaf> {
        if records.len() > LEAF_KEYS_MAX || !records.is_sorted_by(|one, next| one.tag < next.tag) {
            return None;
        }
        let starts = starts_of(&records);
        Some(Leaf { records: records.into_boxed_slice(), starts })
    }

    pub(crate) fn records(&self) -> &[KeyRecord] {
        &self.records
    }

    /// Of its arrays.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.records) + size_of_val(&*self.starts)
    }

    pub(crate) fn find(&self, tag: &KeyTag) -> Option<&KeyRecord> {
        let runs = self.starts.len().checked_sub(1)?;
        let run = run_of(tag, runs);
        let (from, to) = (*self.starts.get(run)?, *self.starts.get(run + 1)?);
        self.records.get(usize::from(from)..usize::from(to))?.iter().find(|record| record.tag == *tag)
    }

    /// Those whose tag begins so: as a rule one.
    pub(crate) fn with_prefix(&self, prefix: [u8; 4]) -> impl Iterator<Item = &KeyRecord> {
        let from = self.records.partition_point(|record| record.tag.prefix() < prefix);
        let rest = self.records.get(from..).unwrap_or_default();
        rest.iter().take_while(move |record| record.tag.prefix() == prefix)
    }

    /// With the record added, in place of one with the same tag. None: there is no room.
    pub(crate) fn with(&self, record: KeyRecord) -> Option<Leaf> {
        let at = self.records.partition_point(|other| other.tag < record.tag);
        let (before, after) = self.records.split_at_checked(at)?;
        let after = match after.split_first() {
            Some((same, rest)) if same.tag == record.tag => rest,
            _ => after,
        };
        Leaf::of_sorted([before, &[record], after].concat())
    }

    pub(crate) fn without(&self, tag: &KeyTag) -> Leaf {
        let at = self.records.partition_point(|other| other.tag < *tag);
        let (before, after) = self.records.split_at_checked(at).unwrap_or_default();
        let after = match after.split_first() {
            Some((same, rest)) if same.tag == *tag => rest,
            _ => after,
        };
        let records = [before, after].concat();
        Leaf { starts: starts_of(&records), records: records.into_boxed_slice() }
    }
}

fn starts_of(records: &[KeyRecord]) -> Box<[u16]> {
    if records.is_empty() {
        return Box::default();
    }
    let runs = records.len().div_ceil(RUN_KEYS);
    let mut starts = Vec::with_capacity(runs + 1);
    for (at, record) in (0u16..).zip(records) {
        while starts.len() <= run_of(&record.tag, runs) {
            starts.push(at);
        }
    }
    let end = u16::try_from(records.len()).unwrap_or(u16::MAX);
    starts.resize(runs + 1, end);
    starts.into_boxed_slice()
}

/// In the order of the tags, and below `runs`.
fn run_of(tag: &KeyTag, runs: usize) -> usize {
    let share = u128::from(tag.rank()) * (runs as u128);
    usize::try_from(share >> u64::BITS).unwrap_or(0)
}
