//! Where a subscription's slot is found in nanoseconds, by any thread. Refuses to know what a slot holds, and when it may be freed.
//!
//! A look-up holds one of many shards as a reader, for as long as the look takes: nothing that waits belongs there.

use std::sync::Arc;

use dashmap::DashMap;

use super::entry::Entry;
use crate::id_hash::IdState;

/// Growth and changes hold up one of them at a time. A power of two, as the map wants it.
const SHARDS: usize = 1_024;

#[derive(Debug)]
pub(super) struct Arena {
    entries: DashMap<u64, Arc<Entry>, IdState>,
}

impl Arena {
    pub(super) fn new() -> Arena {
        Arena { entries: DashMap::with_hasher_and_shard_amount(IdState, SHARDS) }
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
