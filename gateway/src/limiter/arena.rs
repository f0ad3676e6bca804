//! Where a subscription's slot is found in nanoseconds, by any thread, without a lock: a fixed table of small immutable lists, of
//! which a change replaces one. Refuses to know what a slot holds, and when it may be freed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

use super::entry::Entry;

/// Lists of the table, a megabyte of pointers: with a million active subscriptions a list holds eight.
const LISTS: usize = 1 << LISTS_BITS;
const LISTS_BITS: u32 = 17;

type List = Vec<(u64, Arc<Entry>)>;

#[derive(Debug)]
pub(super) struct Arena {
    lists: Box<[ArcSwapOption<List>]>,
    entries: AtomicUsize,
}

impl Arena {
    pub(super) fn new() -> Arena {
        Arena { lists: (0..LISTS).map(|_| ArcSwapOption::empty()).collect(), entries: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Looks at an entry where it is: no reference count is touched, which all threads would have to fight for.
    pub(super) fn with<R>(&self, key: u64, look: impl FnOnce(&Arc<Entry>) -> R) -> Option<R> {
        let list = self.list(key)?.load();
        let (_, entry) = list.as_ref()?.iter().find(|(present, _)| *present == key)?;
        Some(look(entry))
    }

    /// Puts an entry in, in place of an older one of its key.
    pub(super) fn insert(&self, entry: &Arc<Entry>) {
        let Some(list) = self.list(entry.key()) else { return };
        let before = list.rcu(|list| {
            let mut list = without(list.as_deref(), entry.key());
            list.push((entry.key(), Arc::clone(entry)));
            Some(Arc::new(list))
        });
        if !holds(before.as_deref(), entry.key()) {
            self.entries.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, key: u64) {
        let Some(list) = self.list(key) else { return };
        let before = list.rcu(|list| {
            let list = without(list.as_deref(), key);
            (!list.is_empty()).then(|| Arc::new(list))
        });
        if holds(before.as_deref(), key) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// None never happens: the number has as many bits as the table has places.
    fn list(&self, key: u64) -> Option<&ArcSwapOption<List>> {
        /// 2⁶⁴ / φ, odd: spreads numbers that follow each other (Knuth, vol. 3, §6.4).
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let place = key.wrapping_mul(GOLDEN) >> (u64::BITS - LISTS_BITS);
        self.lists.get(usize::try_from(place).ok()?)
    }
}

fn without(list: Option<&List>, key: u64) -> List {
    list.map_or_else(Vec::new, |list| list.iter().filter(|(present, _)| *present != key).cloned().collect())
}

fn holds(list: Option<&List>, key: u64) -> bool {
    list.is_some_and(|list| list.iter().any(|(present, _)| *present == key))
}
