//! Where the keys of some ids are: for each id two bytes of its hash and the first four of its key's tag, in order. What it
//! names is a candidate; whether it is the one, the key's own record says.

use uuid::Uuid;

use super::super::shards::SHARD_BITS;
use super::record::KeyTag;

/// Of an entry, in memory and on disk.
pub(crate) const ID_ENTRY_BYTES: usize = 6;

/// Two bytes of the id's hash, four of the tag.
pub(crate) type IdEntry = [u8; ID_ENTRY_BYTES];

#[derive(Clone, Default)]
pub(crate) struct Ids {
    entries: Box<[IdEntry]>,
}

/// An id's place: the shard, and 32 bits of which the entries keep the first 16.
#[derive(Clone, Copy)]
pub(crate) struct IdPlace {
    pub(crate) shard: usize,
    pub(crate) hash: u32,
}

impl IdPlace {
    /// Ids are UUIDs of the control plane: no client chooses them, so the hash needs no secret and can go to disk.
    pub(crate) fn of(id: &Uuid) -> IdPlace {
        /// 2⁶⁴ / φ, odd: spreads ids that differ in few bits (Knuth, vol. 3, §6.4).
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let (high, low) = id.as_u64_pair();
        let mixed = (high.rotate_left(32) ^ low).wrapping_mul(GOLDEN);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let shard = usize::try_from(mixed >> (u64::BITS - SHARD_BITS)).unwrap_or(0);
        // 32 bits always fit.
        IdPlace { shard, hash: u32::try_from((mixed >> 8) & u64::from(u32::MAX)).unwrap_or(0) }
    }

    pub(crate) fn entry(self, tag: &KeyTag) -> IdEntry {
        entry_of(self.hash, tag.prefix())
    }
}

pub(crate) fn entry_of(hash: u32, prefix: [u8; 4]) -> IdEntry {
    let ([a, b, ..], [c, d, e, f]) = (hash.to_be_bytes(), prefix);
    [a, b, c, d, e, f]
}

impl Ids {
    /// None: they are not in order.
    pub(crate) fn of_sorted(entries: Vec<IdEntry>) -> Option<Ids> {
        entries.is_sorted().then(|| Ids { entries: entries.into_boxed_slice() })
    }

    pub(crate) fn entries(&self) -> &[IdEntry] {
        &self.entries
    }

    /// The tags' beginnings that an id may have.
    pub(crate) fn candidates(&self, hash: u32) -> impl Iterator<Item = [u8; 4]> {
        let from = self.entries.partition_point(|entry| *entry < entry_of(hash, [0; 4]));
        let last = entry_of(hash, [0xFF; 4]);
        let rest = self.entries.get(from..).unwrap_or_default();
        rest.iter().take_while(move |entry| **entry <= last).map(|[_, _, tag @ ..]| *tag)
    }

    pub(crate) fn with(&self, entry: IdEntry) -> Ids {
        let (before, after) = self.split_at(entry);
        Ids { entries: [before, &[entry], after].concat().into_boxed_slice() }
    }

    /// Without one such entry: two keys may have an equal one.
    pub(crate) fn without(&self, entry: IdEntry) -> Ids {
        let (before, after) = self.split_at(entry);
        let after = match after.split_first() {
            Some((same, rest)) if *same == entry => rest,
            _ => after,
        };
        Ids { entries: [before, after].concat().into_boxed_slice() }
    }

    fn split_at(&self, entry: IdEntry) -> (&[IdEntry], &[IdEntry]) {
        let at = self.entries.partition_point(|other| *other < entry);
        self.entries.split_at_checked(at).unwrap_or_default()
    }
}
