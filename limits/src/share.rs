//! What a node allows itself while Redis does not answer: its part of the rate, from an empty bucket of its own, and how much
//! of that Redis has to hear of afterwards. Refuses to be the rule while Redis answers.

use crate::policy::Policy;
use crate::terms::{LEASE_MAX_US, Terms, UNITS, US_NS};

/// A bucket of B/N tokens that gains r/N. Counted in units × N, so that the N shares sum up to r exactly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// When the outage began that it is for.
    since_us: u64,
    /// When Redis was last found away.
    away_us: u64,
    level: u64,
    at_us: u64,
    capacity: u64,
    token: u64,
    /// Gain per microsecond.
    gain: u64,
    /// Spent since the last report.
    spent: u32,
}

impl Share {
    /// Empty at `since_ns`, the moment since when Redis has not answered.
    pub(crate) fn new(policy: &Policy, terms: &Terms, since_ns: u64) -> Share {
        let token = UNITS.unsigned_abs() * u64::from(terms.fleet);
        Share {
            since_us: since_ns / US_NS,
            away_us: since_ns / US_NS,
            level: 0,
            at_us: since_ns / US_NS,
            capacity: (UNITS.unsigned_abs() * u64::from(policy.burst())).max(token),
            token,
            gain: u64::from(policy.per_minute()),
            spent: 0,
        }
    }

    /// Under another policy or in another fleet it keeps its filled fraction, rounded against the client, and what is yet to be told.
    pub(crate) fn follow(&mut self, policy: &Policy, terms: &Terms, now_ns: u64) {
        self.settle(now_ns);
        let next = Share::new(policy, terms, now_ns);
        let level = u128::from(self.level) * u128::from(next.capacity) / u128::from(self.capacity);
        let level = u64::try_from(level).unwrap_or(0);
        let Share { since_us, away_us, at_us, spent, .. } = *self;
        *self = Share { since_us, away_us, level, at_us, spent, ..next };
    }

    /// Redis is away, since then. Each outage begins with an empty one; what is yet to be told stays.
    pub(crate) fn is_for(&mut self, since_ns: u64, now_ns: u64) {
        let since_us = since_ns / US_NS;
        if self.since_us != since_us {
            (self.since_us, self.at_us, self.level) = (since_us, since_us, 0);
        }
        self.away_us = now_ns / US_NS;
    }

    /// The outage is just over, and nobody has said what holds now.
    pub(crate) fn goes_on(&self, now_ns: u64) -> bool {
        now_ns / US_NS <= self.away_us.saturating_add(LEASE_MAX_US)
    }

    pub(crate) fn take(&mut self, now_ns: u64) -> bool {
        self.settle(now_ns);
        let admitted = self.level >= self.token;
        if admitted {
            self.level -= self.token;
            self.spent = self.spent.saturating_add(1);
        }
        admitted
    }

    /// Counts a request that was admitted without asking the share (`open`).
    pub(crate) fn take_anyway(&mut self, now_ns: u64) {
        self.settle(now_ns);
        self.level = self.level.saturating_sub(self.token);
        self.spent = self.spent.saturating_add(1);
    }

    /// Microseconds until there is a token.
    pub(crate) fn wait_us(&self) -> u64 {
        self.token.saturating_sub(self.level).div_ceil(self.gain.max(1))
    }

    pub(crate) fn is_owing(&self) -> bool {
        self.spent > 0
    }

    /// What Redis is to debit: all that was spent, but no more than what is missing here. The rest has flowed in meanwhile,
    /// in Redis as well, where it overflowed.
    pub(crate) fn report(&mut self, now_ns: u64) -> u32 {
        self.settle(now_ns);
        let missing = (self.capacity - self.level).div_ceil(self.token);
        let report = self.spent.min(u32::try_from(missing).unwrap_or(u32::MAX));
        self.spent = 0;
        report
    }

    fn settle(&mut self, now_ns: u64) {
        let now_us = (now_ns / US_NS).max(self.at_us);
        let gained = (now_us - self.at_us).saturating_mul(self.gain);
        self.level = self.level.saturating_add(gained).min(self.capacity);
        self.at_us = now_us;
    }
}
