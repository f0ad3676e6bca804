//! The fixed window: tokens granted for the present minute of Redis' clock, and void with it. Refuses to look further back.

use super::bucket::{USED_BURSTS_MAX, rebase};
use crate::terms::{LEASE_MAX_US, UNITS};
use crate::wire::Refund;

pub(super) const WINDOW_US: u64 = 60_000_000;
/// What a key outlives its window by.
const KEEP_US: u64 = 60_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FixedWindow {
    pub(super) limit: i64,
    /// Windows since Redis' epoch.
    pub(super) window: u64,
    pub(super) granted: i64,
}

impl FixedWindow {
    pub(super) fn new(limit: u32, used: u64, of: u64, now_us: u64) -> FixedWindow {
        let limit = i64::from(limit);
        FixedWindow { limit, window: now_us / WINDOW_US, granted: rebase(used, of, limit) }
    }

    /// Lets time pass; whether the clock was set back: then the count moves back with it.
    pub(super) fn settle(&mut self, now_us: u64) -> bool {
        let window = now_us / WINDOW_US;
        let back = window < self.window;
        if window > self.window {
            self.granted = 0;
        }
        self.window = window;
        back
    }

    pub(super) fn debit(&mut self, tokens: u32) {
        self.granted = (self.granted + i64::from(tokens)).min(USED_BURSTS_MAX * self.limit);
    }

    /// Only into the window that it was taken from.
    pub(super) fn refund(&mut self, refund: &Refund) -> u32 {
        if refund.receipt.granted_us / WINDOW_US != self.window {
            return 0;
        }
        let tokens = i64::from(refund.tokens).min(self.granted).max(0);
        self.granted -= tokens;
        u32::try_from(tokens).unwrap_or(0)
    }

    pub(super) fn level(&self) -> i64 {
        (self.limit - self.granted) * UNITS
    }

    pub(super) fn valid_us(&self, now_us: u64) -> u64 {
        self.end_us().saturating_sub(now_us).min(LEASE_MAX_US)
    }

    pub(super) fn wait_us(&self, now_us: u64) -> u64 {
        if self.granted < self.limit { 0 } else { self.end_us().saturating_sub(now_us) }
    }

    pub(super) fn grows_us(&self, now_us: u64) -> u64 {
        if self.granted > 0 { self.end_us().saturating_sub(now_us) } else { 0 }
    }

    pub(super) fn expires_us(&self) -> u64 {
        self.end_us() + KEEP_US
    }

    pub(super) fn used(&self) -> (u64, u64) {
        (self.granted.max(0).unsigned_abs(), self.limit.unsigned_abs())
    }

    fn end_us(&self) -> u64 {
        (self.window + 1) * WINDOW_US
    }
}
