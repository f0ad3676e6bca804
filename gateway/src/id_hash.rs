//! The hash of tables whose keys the control plane makes and no client chooses: ids, digests, numbers handed out one after the
//! other. Refuses to stand up to keys that somebody picked so that they collide.

use std::hash::{BuildHasher, Hasher};

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
