//! A table from many keys at once: collected shard by shard as they come, put in order at the end. Different keys that share an
//! id or a tag are let go together: nobody can say which of them holds.

use uuid::Uuid;

use super::ids::{IdPlace, Ids, entry_of};
use super::leaf::{LEAF_KEYS_MAX, Leaf};
use super::record::KeyRecord;
use super::{KeyTable, SHARDS, shard_of_prefix};

/// By how much of its length a full shard grows: what is not used goes when it is put in order.
const GROWTH_PART: usize = 4;
const GROWTH_MIN: usize = 8;

/// Keys that are not in the table.
#[derive(Default)]
pub(crate) struct Dropped {
    /// A later record of the same key is there.
    pub(crate) replaced: Vec<KeyRecord>,
    /// Twins, and those beyond a shard's room.
    pub(crate) refused: Vec<KeyRecord>,
}

pub(crate) struct KeyBuilder {
    shards: Vec<Vec<KeyRecord>>,
}

impl KeyBuilder {
    pub(crate) fn new() -> KeyBuilder {
        KeyBuilder { shards: vec![Vec::new(); SHARDS] }
    }

    pub(crate) fn push(&mut self, record: KeyRecord) {
        let Some(shard) = self.shards.get_mut(record.tag.shard()) else { return };
        if shard.len() == shard.capacity() {
            shard.reserve_exact(shard.len() / GROWTH_PART + GROWTH_MIN);
        }
        shard.push(record);
    }

    pub(crate) fn finish(self) -> (KeyTable, Dropped) {
        let mut dropped = Dropped::default();
        let leaves: Vec<Leaf> = self.shards.into_iter().map(|shard| leaf_of(shard, &mut dropped)).collect();
        let (ids, twins) = ids_of(&leaves);
        // The counts agree: both are made of the same leaves.
        let mut table = KeyTable::of_leaves(leaves, ids).unwrap_or_else(KeyTable::new);
        for id in twins {
            dropped.refused.extend(std::iter::from_fn(|| table.remove(&id)));
        }
        (table, dropped)
    }
}

fn leaf_of(mut records: Vec<KeyRecord>, dropped: &mut Dropped) -> Leaf {
    // Stable: of a key that came twice the later record holds.
    records.sort_by_key(|record| record.tag);
    let mut kept: Vec<KeyRecord> = Vec::with_capacity(records.len());
    for run in records.chunk_by(|one, next| one.tag == next.tag) {
        let Some((last, before)) = run.split_last() else { continue };
        if before.iter().any(|other| other.id() != last.id()) {
            dropped.refused.extend_from_slice(run);
        } else if kept.len() == LEAF_KEYS_MAX {
            dropped.refused.push(*last);
            dropped.replaced.extend_from_slice(before);
        } else {
            kept.push(*last);
            dropped.replaced.extend_from_slice(before);
        }
    }
    Leaf::of_sorted(kept).unwrap_or_default()
}

/// The ids' shards, and the ids that several keys have.
fn ids_of(leaves: &[Leaf]) -> (Vec<Ids>, Vec<Uuid>) {
    let mut shards: Vec<Vec<(u32, [u8; 4])>> = vec![Vec::new(); SHARDS];
    for record in leaves.iter().flat_map(Leaf::records) {
        let place = IdPlace::of(&record.id());
        if let Some(shard) = shards.get_mut(place.shard) {
            shard.push((place.hash, record.tag.prefix()));
        }
    }
    let mut twins = Vec::new();
    let ids = shards.into_iter().map(|mut shard| {
        shard.sort_unstable();
        // Equal in 44 bits of the hash: either twins, or a rare chance.
        for pair in shard.windows(2) {
            let [(one, first), (other, second)] = pair else { continue };
            if one == other {
                twins.extend(twins_at(leaves, *first, *second));
            }
        }
        let entries = shard.into_iter().map(|(hash, prefix)| entry_of(hash, prefix));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_unstable();
        Ids::of_sorted(entries).unwrap_or_default()
    });
    let ids = ids.collect();
    (ids, twins)
}

/// The ids that two keys have whose tags begin in one of these ways.
fn twins_at(leaves: &[Leaf], first: [u8; 4], second: [u8; 4]) -> Vec<Uuid> {
    let other = (first != second).then_some(second);
    let mut ids: Vec<Uuid> = [first].into_iter().chain(other).flat_map(|prefix| ids_at(leaves, prefix)).collect();
    ids.sort_unstable();
    ids.windows(2).filter(|pair| pair.first() == pair.last()).filter_map(|pair| pair.first().copied()).collect()
}

fn ids_at(leaves: &[Leaf], prefix: [u8; 4]) -> impl Iterator<Item = Uuid> {
    leaves.get(shard_of_prefix(prefix)).into_iter().flat_map(move |leaf| leaf.with_prefix(prefix)).map(KeyRecord::id)
}
