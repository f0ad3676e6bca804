//! Where a subscription's slot is found in nanoseconds, by any thread. Refuses to know what a slot holds, and when it may be freed.
//!
//! A look-up holds one of many shards as a reader, for as long as the look takes: nothing that waits belongs there.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use dashmap::DashMap;

use super::entry::Entry;

/// Growth and changes hold up one of them at a time. A power of two, as the map wants it.
const SHARDS: usize = 1_024;

#[derive(Debug)]
pub(super) struct Arena {
    entries: DashMap<u64, Arc<Entry>, KeyState>,
}

impl Arena {
    pub(super) fn new() -> Arena {
        Arena { entries: DashMap::with_hasher_and_shard_amount(KeyState, SHARDS) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Looks at an entry where it is: no reference count is touched, which all threads would have to fight for.
    pub(super) fn with<R>(&self, key: u64, look: impl FnOnce(&Arc<Entry>) -> R) -> Option<R> {
        self.entries.get(&key).map(|entry| look(&entry))
    }

    /// Puts an entry in, in place of an older one of its key.
    pub(super) fn insert(&self, entry: Arc<Entry>) {
        self.entries.insert(entry.key(), entry);
    }

    pub(super) fn remove(&self, key: u64) {
        self.entries.remove(&key);
    }
}

/// For numbers that the control plane hands out one after the other, and no client chooses.
#[derive(Clone, Copy, Debug, Default)]
struct KeyState;

struct KeyHasher(u64);

impl BuildHasher for KeyState {
    type Hasher = KeyHasher;
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(0)
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        /// 2⁶⁴ / φ, odd: spreads numbers that follow each other (Knuth, vol. 3, §6.4).
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let mixed = (self.0 ^ value).wrapping_mul(GOLDEN);
        self.0 = mixed ^ (mixed >> 29);
    }

    /// The map uses the top bits and the bottom ones, each for another purpose.
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }
}
