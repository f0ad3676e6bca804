//! Where a subscription's entry is found in nanoseconds, by any thread and without a lock: a key leads through a tree of numbers to a
//! place, and the entries at the places stay where they are as long as the process lives. One that is given up serves another
//! key later; who has found one asks whose it is (`Entry::check` by its stamp, others by looking again). What was made stays: memory
//! is that of the most keys that were ever busy at a time. Refuses to know what an entry holds.

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use limits::slot::Slot;
use snapshot::record::METER_ID_MAX;

use super::entry::Entry;
use crate::lock::lock;

/// Children of a branch, numbers of a leaf, entries of a chunk.
const FAN: usize = 1 << FAN_BITS;
const FAN_BITS: u32 = 10;
/// Children of the root of numbers.
const ROOT: usize = 1 << 11;
/// Entries that there may be, 128 GiB of them.
const PLACES: u32 = 1 << (3 * FAN_BITS);

const _: () =
    assert!(METER_ID_MAX < 1 << (4 * FAN_BITS) && ROOT == 2 * FAN, "each lane of each meter id has its number");

type Branch<T, const N: usize = FAN> = Box<[OnceLock<T>; N]>;
type Leaf = Box<[AtomicU32; FAN]>;
/// Of `FAN` entries.
type Chunk = Arc<[Entry]>;

#[derive(Debug)]
pub(super) struct Arena {
    /// Places by the bits of the key, the highest first; 0: nowhere. Meter ids are given one after the other: leaves are full.
    numbers: Branch<Branch<Branch<Leaf>>, ROOT>,
    /// Entries by the bits of the place.
    chunks: Branch<Branch<Chunk>>,
    places: Mutex<Places>,
    taken: AtomicUsize,
}

#[derive(Debug, Default)]
struct Places {
    free: Vec<u32>,
    /// The last one that was made; 0 is none.
    last: u32,
}

/// An entry at its place.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    chunk: Chunk,
    place: u32,
}

impl Arena {
    pub(super) fn new() -> Arena {
        Arena { numbers: branch(), chunks: branch(), places: Mutex::default(), taken: AtomicUsize::new(0) }
    }

    /// Keys that have an entry.
    pub(super) fn len(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The entry of a key, as it was a moment ago.
    #[inline]
    pub(super) fn find(&self, key: u64) -> Option<&Entry> {
        let (chunk, place) = self.look_up(key)?;
        chunk.get(digit(u64::from(place), 0))
    }

    /// As `find`; keeps the entry's memory.
    pub(super) fn seat(&self, key: u64) -> Option<Seat> {
        let (chunk, place) = self.look_up(key)?;
        Some(Seat { chunk: Arc::clone(chunk), place })
    }

    /// An entry that is nobody's, for `bind`. None: there is no room, or no such key.
    pub(super) fn take(&self, key: u64) -> Option<Seat> {
        self.number_made(key)?;
        let mut places = lock(&self.places);
        let place = match places.free.pop() {
            Some(place) => place,
            None => {
                let next = places.last + 1;
                if next >= PLACES {
                    return None;
                }
                places.last = next;
                next
            }
        };
        let root = self.chunks.get(digit(u64::from(place), 2))?.get_or_init(branch);
        let chunk = root.get(digit(u64::from(place), 1))?.get_or_init(|| (0..FAN).map(|_| Entry::default()).collect());
        Some(Seat { chunk: Arc::clone(chunk), place })
    }

    /// From here on the key, for which it was taken, leads to this entry.
    pub(super) fn bind(&self, key: u64, seat: &Seat) {
        if let Some(number) = self.number(key)
            && number.swap(seat.place, Ordering::AcqRel) == 0
        {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From here on the key leads nowhere, and its entry may be taken for another one.
    pub(super) fn give_back(&self, key: u64, seat: &Seat) {
        if let Some(number) = self.number(key)
            && number.swap(0, Ordering::AcqRel) != 0
        {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
        lock(&self.places).free.push(seat.place);
    }

    #[inline]
    fn look_up(&self, key: u64) -> Option<(&Chunk, u32)> {
        let place = self.number(key)?.load(Ordering::Acquire);
        if place == 0 {
            return None;
        }
        let bits = u64::from(place);
        let chunk = self.chunks.get(digit(bits, 2))?.get()?.get(digit(bits, 1))?.get()?;
        Some((chunk, place))
    }

    #[inline]
    fn number(&self, key: u64) -> Option<&AtomicU32> {
        let key = lane_first(key)?;
        let high = self.numbers.get(root(key))?.get()?;
        high.get(digit(key, 2))?.get()?.get(digit(key, 1))?.get()?.get(digit(key, 0))
    }

    fn number_made(&self, key: u64) -> Option<&AtomicU32> {
        let key = lane_first(key)?;
        let high = self.numbers.get(root(key))?.get_or_init(branch);
        let low = high.get(digit(key, 2))?.get_or_init(branch);
        let leaf = low.get(digit(key, 1))?.get_or_init(|| Box::new([const { AtomicU32::new(0) }; FAN]));
        leaf.get(digit(key, 0))
    }
}

impl Deref for Seat {
    type Target = Entry;

    #[allow(clippy::indexing_slicing)] // A chunk has as many entries as a digit has values.
    fn deref(&self) -> &Entry {
        &self.chunk[digit(u64::from(self.place), 0)]
    }
}

/// For the core, which keeps the slot.
impl AsRef<Slot> for Seat {
    fn as_ref(&self) -> &Slot {
        self.slot()
    }
}

fn branch<T, const N: usize>() -> Branch<T, N> {
    Box::new([const { OnceLock::new() }; N])
}

/// A limit key is twice a meter id, or one more for its test keys, which few have: those get leaves of their own.
#[inline]
fn lane_first(key: u64) -> Option<u64> {
    let meter_id = key >> 1;
    (meter_id <= METER_ID_MAX).then_some((key & 1) << (FAN_BITS * 4) | meter_id)
}

#[inline]
fn digit(number: u64, nth: u32) -> usize {
    usize::try_from(number >> (FAN_BITS * nth)).unwrap_or_default() & (FAN - 1)
}

#[inline]
fn root(key: u64) -> usize {
    usize::try_from(key >> (FAN_BITS * 3)).unwrap_or(ROOT)
}
