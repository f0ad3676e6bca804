//! The sliding window: grants of the last minute in thirteen sub-windows, the oldest counted in full. They reach back by the
//! life of a lease as well, so that what is *spent* in any true minute stays within the limit, not only what is granted.
//! Refuses to weight the oldest sub-window, which would admit up to twice the limit.

use super::bucket::{USED_BURSTS_MAX, rebase};
use super::fixed::WINDOW_US;
use crate::terms::{LEASE_MAX_US, UNITS};
use crate::wire::Refund;

/// Twelve whole sub-windows and the one that is leaving.
const SUBS: usize = 13;
const SUBS_WHOLE: u64 = 12;
/// A minute and the life of a lease, in twelve parts.
const SUB_US: u64 = (WINDOW_US + LEASE_MAX_US).div_ceil(SUBS_WHOLE);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlidingWindow {
    pub(super) limit: i64,
    /// The newest sub-window, since Redis' epoch.
    pub(super) head: u64,
    /// By age, the newest first.
    pub(super) counts: [i64; SUBS],
}

impl SlidingWindow {
    pub(super) fn new(limit: u32, used: u64, of: u64, now_us: u64) -> SlidingWindow {
        let limit = i64::from(limit);
        let mut counts = [0; SUBS];
        if let Some(newest) = counts.first_mut() {
            *newest = rebase(used, of, limit);
        }
        SlidingWindow { limit, head: now_us / SUB_US, counts }
    }

    /// Lets time pass; whether the clock was set back: then the counts move back with it.
    pub(super) fn settle(&mut self, now_us: u64) -> bool {
        let head = now_us / SUB_US;
        let back = head < self.head;
        let steps = usize::try_from(head.saturating_sub(self.head)).unwrap_or(SUBS).min(SUBS);
        self.counts.rotate_right(steps % SUBS);
        self.counts.iter_mut().take(steps).for_each(|count| *count = 0);
        self.head = head;
        back
    }

    pub(super) fn debit(&mut self, tokens: u32) {
        if let Some(newest) = self.counts.first_mut() {
            *newest = (*newest + i64::from(tokens)).min(USED_BURSTS_MAX * self.limit);
        }
    }

    /// Out of the sub-window that it was counted in, while that counts.
    pub(super) fn refund(&mut self, refund: &Refund) -> u32 {
        let age = self.head.checked_sub(refund.receipt.granted_us / SUB_US);
        let count = age.and_then(|age| usize::try_from(age).ok()).and_then(|age| self.counts.get_mut(age));
        let Some(count) = count else { return 0 };
        let tokens = i64::from(refund.tokens).min(*count).max(0);
        *count -= tokens;
        u32::try_from(tokens).unwrap_or(0)
    }

    pub(super) fn level(&self) -> i64 {
        (self.limit - self.used_tokens()).max((1 - USED_BURSTS_MAX) * self.limit) * UNITS
    }

    /// Until enough of the oldest sub-windows have left.
    pub(super) fn wait_us(&self, now_us: u64) -> u64 {
        let mut over = 1 + self.used_tokens() - self.limit;
        if over <= 0 {
            return 0;
        }
        for (age, count) in self.oldest_first() {
            over -= count;
            if over <= 0 {
                return self.leaves_us(age).saturating_sub(now_us);
            }
        }
        WINDOW_US
    }

    /// Until the oldest sub-window that counts anything has left.
    pub(super) fn grows_us(&self, now_us: u64) -> u64 {
        let oldest = self.oldest_first().find(|(_, count)| *count > 0);
        oldest.map_or(0, |(age, _)| self.leaves_us(age).saturating_sub(now_us))
    }

    fn oldest_first(&self) -> impl Iterator<Item = (u64, i64)> {
        (0..=SUBS_WHOLE).rev().zip(self.counts.into_iter().rev())
    }

    /// A sub-window of this age leaves when the head is SUBS past it.
    fn leaves_us(&self, age: u64) -> u64 {
        (self.head - age.min(self.head) + SUBS_WHOLE + 1) * SUB_US
    }

    pub(super) fn expires_us(&self) -> u64 {
        (self.head + 2 * SUBS_WHOLE) * SUB_US
    }

    pub(super) fn used(&self) -> (u64, u64) {
        let used = self.used_tokens().min(USED_BURSTS_MAX * self.limit);
        (used.max(0).unsigned_abs(), self.limit.unsigned_abs())
    }

    pub(super) fn used_tokens(&self) -> i64 {
        self.counts.iter().sum()
    }
}
