//! Whose a slot is that serves one key after another: any thread that finds it asks. Refuses to know keys: a number stands for
//! whatever a taker has to agree with.

use super::{Slot, Take};
use crate::sync::{AtomicU64, Ordering};

/// That of a slot which serves nobody.
const VACANT: u64 = 0;

/// Stands beside its slot.
#[derive(Debug)]
pub struct Stamp(AtomicU64);

/// The slot has another stamp: nothing was taken for the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// As in `Take::Admitted`: whoever is served now has to be looked at.
    pub wake: bool,
}

impl Default for Stamp {
    fn default() -> Self {
        Stamp(AtomicU64::new(VACANT))
    }
}

impl Stamp {
    #[inline]
    pub fn is(&self, number: u64) -> bool {
        self.0.load(Ordering::Acquire) == number
    }

    /// `number`: not 0. For another key: after the former one was closed, and before the slot gets anything that could be taken. For
    /// other terms of the same key whenever they hold.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Release);
    }

    /// From here on nobody is served.
    pub fn clear(&self) {
        self.set(VACANT);
    }

    /// `Slot::take` for one who agrees with the stamp.
    #[inline]
    pub fn take(&self, slot: &Slot, number: u64, now_ns: u64) -> Result<Take, Stale> {
        if !self.is(number) {
            return Err(Stale { wake: false });
        }
        let take = slot.take(now_ns);
        // Meanwhile it may have got another stamp, and that was another key's token, or one under older terms: it counts as spent, which
        // errs on the safe side, and admits nobody. Tokens are put in after their stamp, so who took one sees at least that.
        if !self.is(number) {
            return Err(Stale { wake: matches!(take, Take::Admitted { wake: true, .. }) });
        }
        Ok(take)
    }
}
