//! Request ids: UUIDv7, unique and in the order of time. They are no secrets, so they cost no system call.

use std::cell::Cell;

use uuid::{Builder, Uuid};

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

/// A new id for a request that came at `unix_ms`.
pub(super) fn new(unix_ms: i64) -> Uuid {
    let mut random = [0u8; 10];
    let (high, low) = (next().to_le_bytes(), next().to_le_bytes());
    for (to, from) in random.iter_mut().zip(high.iter().chain(&low)) {
        *to = *from;
    }
    Builder::from_unix_timestamp_millis(u64::try_from(unix_ms).unwrap_or(0), &random).into_uuid()
}

/// SplitMix64 (Steele, Lea, Flood 2014): each thread walks from its own random place.
fn next() -> u64 {
    STATE.with(|state| {
        let now = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(now);
        let mixed = (now ^ (now >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

fn seed() -> u64 {
    let mut bytes = [0u8; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Addresses and time of this thread: unlike enough for ids that only logs read.
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::thread::current().id()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_version_7_and_never_the_same() {
        let ids: HashSet<Uuid> = (0..10_000).map(|_| new(1_700_000_000_000)).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert!(new(1_700_000_000_000) < new(1_700_000_000_001));
    }
}
