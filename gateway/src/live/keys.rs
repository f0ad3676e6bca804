//! All keys, flat: found by the tag of their digest in one or two cache misses, and by their id for a removal. Copies share
//! what they have in common; a change makes two leaves anew. Knows no subscription and judges no key.

mod bulk;
mod ids;
mod leaf;
mod record;
#[cfg(test)]
mod tests;

use uuid::Uuid;

pub(crate) use self::bulk::KeyBuilder;
pub(crate) use self::ids::{ID_ENTRY_BYTES, IdPlace, Ids};
use self::leaf::LEAF_KEYS_MAX;
pub(crate) use self::leaf::Leaf;
pub use self::record::KeyTag;
pub(crate) use self::record::{KEY_RECORD_BYTES, KeyFields, KeyRecord};
use super::shards::{SHARD_BITS, SHARDS, Shards};

#[derive(Clone)]
pub(crate) struct KeyTable {
    tags: Shards<Leaf>,
    ids: Shards<Ids>,
    len: usize,
}

/// The shard has no room for one more.
#[derive(Debug)]
pub(crate) struct ShardIsFull;

impl KeyTable {
    pub(crate) fn new() -> KeyTable {
        KeyTable { tags: Shards::filled_with(Leaf::default()), ids: Shards::filled_with(Ids::default()), len: 0 }
    }

    /// None: there are not as many leaves as shards, or as many ids as keys.
    pub(crate) fn of_leaves(leaves: Vec<Leaf>, ids: Vec<Ids>) -> Option<KeyTable> {
        let len = leaves.iter().map(|leaf| leaf.records().len()).sum();
        let ids_len: usize = ids.iter().map(|ids| ids.entries().len()).sum();
        if leaves.len() != SHARDS || ids.len() != SHARDS || len != ids_len {
            return None;
        }
        let mut table = KeyTable::new();
        table.len = len;
        for (shard, leaf) in leaves.into_iter().enumerate().filter(|(_, leaf)| !leaf.records().is_empty()) {
            table.tags.set(shard, leaf);
        }
        for (shard, ids) in ids.into_iter().enumerate().filter(|(_, ids)| !ids.entries().is_empty()) {
            table.ids.set(shard, ids);
        }
        Some(table)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, tag: &KeyTag) -> Option<&KeyRecord> {
        self.tags.get(tag.shard()).find(tag)
    }

    pub(crate) fn by_id(&self, id: &Uuid) -> Option<&KeyRecord> {
        let place = IdPlace::of(id);
        let mut candidates = self.ids.get(place.shard).candidates(place.hash);
        candidates.find_map(|prefix| self.find_prefixed(prefix, id))
    }

    /// Puts a key in, or changes nothing. Answers what had its id, and what had its tag: neither is there any more.
    pub(crate) fn put(&mut self, record: KeyRecord) -> Result<[Option<KeyRecord>; 2], ShardIsFull> {
        let shard = record.tag.shard();
        if self.tags.get(shard).records().len() >= LEAF_KEYS_MAX {
            return Err(ShardIsFull);
        }
        let of_id = self.remove(&record.id());
        let of_tag = self.get(&record.tag).map(KeyRecord::id).and_then(|id| self.remove(&id));
        let place = IdPlace::of(&record.id());
        self.tags.set(shard, self.tags.get(shard).with(record).ok_or(ShardIsFull)?);
        self.ids.set(place.shard, self.ids.get(place.shard).with(place.entry(&record.tag)));
        self.len += 1;
        Ok([of_id, of_tag])
    }

    pub(crate) fn remove(&mut self, id: &Uuid) -> Option<KeyRecord> {
        let record = *self.by_id(id)?;
        let (shard, place) = (record.tag.shard(), IdPlace::of(id));
        self.tags.set(shard, self.tags.get(shard).without(&record.tag));
        self.ids.set(place.shard, self.ids.get(place.shard).without(place.entry(&record.tag)));
        self.len -= 1;
        Some(record)
    }

    /// In the order of the tags.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.tags.iter()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &Ids> {
        self.ids.iter()
    }

    /// How many leaves are not shared with `other`: by tag, and by id.
    #[cfg(test)]
    pub(crate) fn leaves_apart(&self, other: &Self) -> (usize, usize) {
        (self.tags.leaves_apart(&other.tags), self.ids.leaves_apart(&other.ids))
    }

    fn find_prefixed(&self, prefix: [u8; 4], id: &Uuid) -> Option<&KeyRecord> {
        self.tags.get(shard_of_prefix(prefix)).with_prefix(prefix).find(|record| record.id() == *id)
    }
}

/// The shard of a tag that begins so.
fn shard_of_prefix(prefix: [u8; 4]) -> usize {
    let [a, b, ..] = prefix;
    usize::from(u16::from_be_bytes([a, b]) >> (u16::BITS - SHARD_BITS))
}
