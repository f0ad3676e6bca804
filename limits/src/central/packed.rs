//! The model's states as the bytes that the script keeps of them, to hold the two against each other. Only for tests.

use super::key::Count;
use super::{Group, LinkState};

const NONE: u8 = 3;
/// When Redis drops the state: its own affair.
const UNTOLD: [u8; 8] = [0; 8];
const UNTOLD_AT: usize = 50;

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
                let oldest = window.counts.iter().rposition(|count| *count > 0);
                let oldest = oldest.map_or(0, |age| head - i64::try_from(age).unwrap());
                (1, [oldest, window.limit, window.used_tokens(), head], Some(window.counts))
            }
            Some(Count::Fixed(window)) => {
                let number = i64::try_from(window.window).unwrap();
                (2, [window.limit, window.limit, window.granted, number], None)
            }
        };
        let mut bytes = vec![kind, u8::from(quota.is_some())];
        let number = |number: u64| i64::try_from(number).unwrap();
        let [revision, born_us, credited] =
            state.map_or([0; 3], |state| [state.revision, state.born_us, state.credited].map(number));
        let [period, spent, since_us] =
            quota.map_or([0; 3], |quota| [u64::from(quota.period), quota.used, quota.since_us].map(number));
        let [per_minute, burst, used, mark] = numbers;
        let put = |bytes: &mut Vec<u8>, number: i64| bytes.extend(exact(number).to_le_bytes());
        [revision, born_us, per_minute, burst, period, since_us].into_iter().for_each(|number| put(&mut bytes, number));
        bytes.extend(UNTOLD);
        [credited, used, mark, spent].into_iter().for_each(|number| put(&mut bytes, number));
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

/// Without what the model does not know.
pub(crate) fn without_life(mut state: Vec<u8>) -> Vec<u8> {
    if let Some(life) = state.get_mut(UNTOLD_AT..UNTOLD_AT + UNTOLD.len()) {
        life.copy_from_slice(&UNTOLD);
    }
    state
}
