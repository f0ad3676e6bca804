//! A map that is cheap to copy and cheap to change: 64 × 64 shared leaves, of which a change copies one (and the two
//! arrays above it). Readers of an older copy see nothing. Knows nothing of what it holds.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

/// Children of each of the two inner levels: 4,096 leaves, so that of 10 million entries a change copies about 2,400.
const FANOUT: usize = 64;
const FANOUT_BITS: u32 = FANOUT.trailing_zeros();
/// The leaf's own table uses the hash's top and bottom bits; the shards use these in between.
const SHARD_SHIFT: u32 = 32;

type Leaf<K, V, S> = HashMap<K, V, S>;
type Branch<K, V, S> = Arc<[Arc<Leaf<K, V, S>>; FANOUT]>;

pub(crate) struct CowMap<K, V, S = RandomState> {
    root: Arc<[Branch<K, V, S>; FANOUT]>,
    hasher: S,
    len: usize,
}

/// For keys that are random already and that no client chooses: ids and digests, both made by the control plane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdState;

pub(crate) struct IdHasher(u64);

impl BuildHasher for IdState {
    type Hasher = IdHasher;
    fn build_hasher(&self) -> IdHasher {
        IdHasher(0)
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        // The last eight bytes: in a UUIDv7 the first ones are a time, in a digest all are random.
        if let Some(last) = bytes.last_chunk::<8>() {
            self.write_u64(u64::from_le_bytes(*last));
        }
    }

    fn write_u64(&mut self, value: u64) {
        /// 2^64 / φ, odd: spreads ids that differ in few bits (Knuth, vol. 3, §6.4).
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let mixed = (self.0 ^ value).wrapping_mul(GOLDEN);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn write_usize(&mut self, _length_prefix: usize) {}

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }
}

impl<K, V, S: Clone> Clone for CowMap<K, V, S> {
    fn clone(&self) -> Self {
        CowMap { root: Arc::clone(&self.root), hasher: self.hasher.clone(), len: self.len }
    }
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Clone> CowMap<K, V, S> {
    pub(crate) fn new(hasher: S) -> CowMap<K, V, S> {
        let leaf = Arc::new(Leaf::with_hasher(hasher.clone()));
        let branch: Branch<K, V, S> = Arc::new(std::array::from_fn(|_| Arc::clone(&leaf)));
        CowMap { root: Arc::new(std::array::from_fn(|_| Arc::clone(&branch))), hasher, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (high, low) = self.shard_of(key);
        self.root.get(high)?.get(low)?.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.leaf_mut(&key)?.insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Copies nothing where the key is not there.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let before = self.leaf_mut(key)?.remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter())
    }

    /// Whether both are the same copy: nothing was changed in between.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// How many leaves are not shared with `other`.
    #[cfg(test)]
    pub(crate) fn leaves_apart(&self, other: &Self) -> usize {
        let leaves = |map: &Self| -> Vec<Arc<Leaf<K, V, S>>> {
            map.root.iter().flat_map(|branch| branch.iter().cloned()).collect()
        };
        leaves(self).iter().zip(leaves(other)).filter(|(mine, theirs)| !Arc::ptr_eq(mine, theirs)).count()
    }

    /// `None` cannot happen: both places are below the fan-out.
    fn leaf_mut(&mut self, key: &K) -> Option<&mut Leaf<K, V, S>> {
        let (high, low) = self.shard_of(key);
        let branch = Arc::make_mut(&mut self.root).get_mut(high)?;
        Arc::make_mut(branch).get_mut(low).map(Arc::make_mut)
    }

    fn shard_of(&self, key: &K) -> (usize, usize) {
        let hash = self.hasher.hash_one(key) >> SHARD_SHIFT;
        // 32 bits always fit.
        let bits = usize::try_from(hash).unwrap_or(0);
        (bits % FANOUT, (bits >> FANOUT_BITS) % FANOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let fullest = map.root.iter().flat_map(|branch| branch.iter()).map(|leaf| leaf.len()).max().unwrap();
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
