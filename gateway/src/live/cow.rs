//! A map that is cheap to copy and cheap to change: a hash table in each of the shared shards, of which a change copies one.
//! Readers of an older copy see nothing. Knows nothing of what it holds.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use super::shards::Shards;

/// The leaf's own table uses the hash's top and bottom bits; the shards use these in between.
const SHARD_SHIFT: u32 = 32;

type Leaf<K, V, S> = HashMap<K, V, S>;

pub(crate) struct CowMap<K, V, S = RandomState> {
    shards: Shards<Leaf<K, V, S>>,
    hasher: S,
    len: usize,
}

impl<K, V, S: Clone> Clone for CowMap<K, V, S> {
    fn clone(&self) -> Self {
        CowMap { shards: self.shards.clone(), hasher: self.hasher.clone(), len: self.len }
    }
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Clone> CowMap<K, V, S> {
    pub(crate) fn new(hasher: S) -> CowMap<K, V, S> {
        CowMap { shards: Shards::filled_with(Leaf::with_hasher(hasher.clone())), hasher, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.shards.get(self.shard_of(key)).get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let shard = self.shard_of(&key);
        let before = self.shards.get_mut(shard).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Copies nothing where the key is not there.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let before = self.shards.get_mut(self.shard_of(key)).remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|leaf| leaf.iter())
    }

    /// Whether both are the same copy: nothing was changed in between.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.shards.is_same(&other.shards)
    }

    /// How many leaves are not shared with `other`.
    #[cfg(test)]
    pub(crate) fn leaves_apart(&self, other: &Self) -> usize {
        self.shards.leaves_apart(&other.shards)
    }

    fn shard_of(&self, key: &K) -> usize {
        let hash = self.hasher.hash_one(key) >> SHARD_SHIFT;
        // 32 bits always fit.
        usize::try_from(hash).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id_hash::IdState;

    #[test]
    fn a_change_copies_one_leaf_and_leaves_older_copies_alone() {
        let mut map = CowMap::new(IdState);
        for id in 0..100_000u64 {
            map.insert(id, id);
        }
        let before = map.clone();
        assert!(map.is_same(&before));
        map.insert(7, 0);
        map.remove(&8);
        assert_eq!(map.remove(&1_000_000), None);
        assert!(map.leaves_apart(&before) <= 2);
        assert_eq!((before.get(&7), before.get(&8), before.len()), (Some(&7), Some(&8), 100_000));
        assert_eq!((map.get(&7), map.get(&8), map.len(), map.iter().count()), (Some(&0), None, 99_999, 99_999));
    }

    #[test]
    fn sequential_ids_spread_over_the_leaves() {
        let mut map = CowMap::new(IdState);
        for id in 0..40_960u128 {
            map.insert(uuid::Uuid::from_u128(id), ());
        }
        let fullest = map.shards.iter().map(|leaf| leaf.len()).max().unwrap();
        assert!(fullest < 60, "ten are the mean, the fullest leaf has {fullest}");
    }

    #[test]
    fn texts_work_with_a_keyed_hasher() {
        let mut map: CowMap<String, u32> = CowMap::new(RandomState::new());
        assert_eq!(map.insert("a".into(), 1), None);
        assert_eq!(map.insert("a".into(), 2), Some(1));
        assert_eq!((map.get(&"a".to_owned()), map.get(&"b".to_owned()), map.len()), (Some(&2), None, 1));
    }
}
