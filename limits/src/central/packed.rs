//! The model's states as the bytes that the script keeps of them, to hold the two against each other. Only for tests.

use super::key::Count;
use super::{Group, LinkState};

const NONE: u8 = 3;

impl Group {
    /// What has to lie under the key's name; None: nothing.
    pub(crate) fn packed_state(&self, key: u64) -> Option<Vec<u8>> {
        let (state, quota) = (self.keys.get(&key), self.quotas.get(&key));
        if state.is_none() && quota.is_none() {
            return None;
        }
        let (kind, numbers, counts) = match state.map(|state| &state.count) {
            None => (NONE, [0, 0, 0, 0], None),
            Some(Count::Bucket(bucket)) => {
                let stamp = i64::try_from(bucket.stamp_us).unwrap();
                (0, [bucket.per_minute, bucket.burst, bucket.used, stamp], None)
            }
            Some(Count::Sliding(window)) => {
                let head = i64::try_from(window.head).unwrap();
                (1, [window.limit, window.limit, window.used_tokens(), head], Some(window.counts))
            }
            Some(Count::Fixed(window)) => {
                let number = i64::try_from(window.window).unwrap();
                (2, [window.limit, window.limit, window.granted, number], None)
            }
        };
        let mut bytes = vec![kind, u8::from(quota.is_some())];
        let number = |number: u64| i64::try_from(number).unwrap();
        let head = state.map_or([0; 3], |state| [state.revision, state.born_us, state.credited].map(number));
        let month = quota.map_or([0; 3], |quota| [u64::from(quota.period), quota.used, quota.since_us].map(number));
        let all = head.into_iter().chain(numbers).chain(month);
        all.for_each(|number| bytes.extend(exact(number).to_le_bytes()));
        for count in counts.iter().flatten() {
            bytes.extend(u32::try_from(*count).unwrap().to_le_bytes());
        }
        Some(bytes)
    }

    /// What has to lie under a node's name.
    pub(crate) fn packed_link(&self, node: u64) -> Option<Vec<u8>> {
        let LinkState { epoch, birth, send, debts, expires_us } = *self.links.get(&node)?;
        let number = |number: u64| exact(i64::try_from(number).unwrap()).to_le_bytes();
        Some([number(epoch), birth.to_le_bytes(), number(send), number(debts), number(expires_us)].concat())
    }
}

/// A double that holds the number exactly.
fn exact(number: i64) -> f64 {
    assert!(number.abs() < 1 << 53, "{number} is beyond what a double holds");
    // Two halves of at most 32 bits, each exact.
    f64::from(i32::try_from(number >> 32).unwrap()) * 4_294_967_296.0
        + f64::from(u32::try_from(number & 0xFFFF_FFFF).unwrap())
}
