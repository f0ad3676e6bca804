//! One key's state in Redis, whichever algorithm its policy names, and what happens when the policy changes. Refuses to judge
//! messages.

use super::bucket::Bucket;
use super::fixed::FixedWindow;
use super::sliding::SlidingWindow;
use crate::policy::Algorithm;
use crate::terms::{LEASE_MAX_US, REFUND_AGE_MAX_US};
use crate::wire::{Ask, Refund};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    pub(super) revision: u64,
    /// Redis' time when this state began; what was granted before is none of its business.
    pub(super) born_us: u64,
    /// Tokens ever refunded.
    pub(super) credited: u64,
    pub(super) count: Count,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Bucket(Bucket),
    Fixed(FixedWindow),
    Sliding(SlidingWindow),
}

impl KeyState {
    pub(super) fn new(ask: &Ask, now_us: u64) -> KeyState {
        KeyState { revision: ask.revision, born_us: now_us, credited: 0, count: Count::new(ask, 0, 1, now_us) }
    }

    /// Follows a newer policy: the bucket keeps its filled fraction, rounded against the client. One that says the same under a
    /// later number changes nothing: a window would begin anew, and what was leased could not come back.
    pub(super) fn adopt(&mut self, ask: &Ask, now_us: u64) {
        if ask.revision <= self.revision {
            return;
        }
        if self.count.is_of(ask) {
            self.revision = ask.revision;
            return;
        }
        self.settle(now_us);
        let (used, of) = self.used();
        let count = Count::new(ask, used, of, now_us);
        *self = KeyState { revision: ask.revision, born_us: now_us, credited: self.credited, count };
    }

    pub(super) fn settle(&mut self, now_us: u64) {
        let back = match &mut self.count {
            Count::Bucket(bucket) => bucket.settle(now_us),
            Count::Fixed(window) => window.settle(now_us),
            Count::Sliding(window) => window.settle(now_us),
        };
        if back {
            // Redis' clock was set back: what it granted before cannot be dated any more.
            self.born_us = now_us;
        }
    }

    pub(super) fn debit(&mut self, tokens: u32) {
        match &mut self.count {
            Count::Bucket(bucket) => bucket.debit(tokens),
            Count::Fixed(window) => window.debit(tokens),
            Count::Sliding(window) => window.debit(tokens),
        }
    }

    /// As `debit`, but may go below zero.
    pub(super) fn debit_debt(&mut self, tokens: u32) {
        match &mut self.count {
            Count::Bucket(bucket) => bucket.debit_debt(tokens),
            Count::Fixed(window) => window.debit(tokens),
            Count::Sliding(window) => window.debit(tokens),
        }
    }

    /// Tokens that were credited.
    pub(super) fn refund(&mut self, refund: &Refund, now_us: u64) -> u32 {
        let granted_us = refund.receipt.granted_us;
        let datable = granted_us >= self.born_us && granted_us <= now_us;
        let late = crate::mutant::is(crate::mutant::Mutant::RefundLate);
        if !late && (!datable || now_us - granted_us > REFUND_AGE_MAX_US) {
            return 0;
        }
        let credited = match &mut self.count {
            Count::Bucket(bucket) => bucket.refund(refund, self.credited, now_us),
            Count::Fixed(window) => window.refund(refund),
            Count::Sliding(window) => window.refund(refund),
        };
        self.credited += u64::from(credited);
        credited
    }

    /// Units left; negative while debts are repaid.
    pub fn level(&self) -> i64 {
        match &self.count {
            Count::Bucket(bucket) => bucket.level(),
            Count::Fixed(window) => window.level(),
            Count::Sliding(window) => window.level(),
        }
    }

    /// The level as it will be at `now_us` if nobody takes anything.
    pub fn level_at(&self, now_us: u64) -> i64 {
        let mut settled = self.clone();
        settled.settle(now_us);
        settled.level()
    }

    pub fn credited(&self) -> u64 {
        self.credited
    }

    pub(super) fn valid_us(&self, now_us: u64) -> u64 {
        match &self.count {
            Count::Bucket(_) | Count::Sliding(_) => LEASE_MAX_US,
            Count::Fixed(window) => window.valid_us(now_us),
        }
    }

    pub(super) fn wait_us(&self, now_us: u64) -> u64 {
        match &self.count {
            Count::Bucket(bucket) => bucket.wait_us(),
            Count::Fixed(window) => window.wait_us(now_us),
            Count::Sliding(window) => window.wait_us(now_us),
        }
    }

    pub(super) fn grows_us(&self, now_us: u64) -> u64 {
        match &self.count {
            Count::Bucket(_) => 0,
            Count::Fixed(window) => window.grows_us(now_us),
            Count::Sliding(window) => window.grows_us(now_us),
        }
    }

    /// When Redis may forget the key: it would be full, and no message that speaks of it can be under way.
    pub(super) fn expires_us(&self) -> u64 {
        match &self.count {
            Count::Bucket(bucket) => bucket.expires_us(),
            Count::Fixed(window) => window.expires_us(),
            Count::Sliding(window) => window.expires_us(),
        }
    }

    /// How much is used, as (used, of).
    fn used(&self) -> (u64, u64) {
        match &self.count {
            Count::Bucket(bucket) => bucket.used(),
            Count::Fixed(window) => window.used(),
            Count::Sliding(window) => window.used(),
        }
    }
}

impl Count {
    /// Whether it counts by the terms of this ask.
    fn is_of(&self, ask: &Ask) -> bool {
        let size = i64::from(ask.burst);
        match (self, ask.algorithm) {
            (Count::Bucket(bucket), Algorithm::TokenBucket) => {
                bucket.per_minute == i64::from(ask.per_minute) && bucket.burst == size
            }
            (Count::Fixed(window), Algorithm::FixedWindow) => window.limit == size,
            (Count::Sliding(window), Algorithm::SlidingWindow) => window.limit == size,
            _ => false,
        }
    }

    fn new(ask: &Ask, used: u64, of: u64, now_us: u64) -> Count {
        match ask.algorithm {
            Algorithm::TokenBucket => Count::Bucket(Bucket::new(ask.per_minute, ask.burst, used, of, now_us)),
            Algorithm::FixedWindow => Count::Fixed(FixedWindow::new(ask.burst, used, of, now_us)),
            Algorithm::SlidingWindow => Count::Sliding(SlidingWindow::new(ask.burst, used, of, now_us)),
        }
    }
}
