//! A node's side of the monthly quota: what Redis said is left, and what may still be spent when Redis has lost the count.
//! Refuses to count requests: Redis and the billing record do.

use crate::terms::MS_NS;
use crate::wire::{QuotaAsk, QuotaLeft};

/// How soon a client may ask again when the count is lost and the node's share of the last remainder is spent.
const RETRY_NS: u64 = 1_000 * MS_NS;
/// A used-up quota is asked about again this often: the reconciliation with billing may have corrected it.
const RECHECK_NS: u64 = 60_000 * MS_NS;

/// The quota of the present period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonthTerms {
    pub period: u32,
    pub included: u64,
    pub hard: bool,
    /// When the period ends, in local monotonic time.
    pub ends_ns: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Month {
    terms: MonthTerms,
    /// What Redis told last.
    left: Option<i64>,
    told_at_ns: u64,
    /// What this node may spend by itself: its part of the last remainder known.
    alone: Option<i64>,
    spent_alone: i64,
}

impl Month {
    /// The same month under other terms, or a new one. Another number of included requests changes what is left by as much.
    pub(super) fn follow(before: Option<Month>, terms: MonthTerms) -> Month {
        match before {
            Some(month) if month.terms.period == terms.period => {
                let more = signed(terms.included).saturating_sub(signed(month.terms.included));
                let moved = |left: Option<i64>| left.map(|left| left.saturating_add(more));
                Month { terms, left: moved(month.left), alone: moved(month.alone), ..month }
            }
            _ => Month { terms, left: None, told_at_ns: 0, alone: None, spent_alone: 0 },
        }
    }

    pub(super) fn ask(&self) -> QuotaAsk {
        QuotaAsk { period: self.terms.period, included: self.terms.included, hard: self.terms.hard }
    }

    /// How long the quota refuses everything that Redis has not granted, before it is worth asking again.
    pub(super) fn refuses(&self, now_ns: u64) -> Option<u64> {
        if !self.terms.hard || now_ns >= self.terms.ends_ns {
            return None;
        }
        let recheck_ns = self.told_at_ns.saturating_add(RECHECK_NS);
        if self.is_used_up() {
            return self.terms.ends_ns.min(recheck_ns).checked_sub(now_ns).filter(|left| *left > 0);
        }
        self.alone.is_some_and(|alone| alone < 1).then_some(RETRY_NS)
    }

    /// As `refuses`, while Redis does not answer: the node spends its part of the last remainder and no more.
    pub(super) fn refuses_alone(&self, fleet: u32, now_ns: u64) -> Option<u64> {
        let bound = self.terms.hard && now_ns < self.terms.ends_ns;
        (bound && self.alone.unwrap_or_else(|| self.share(fleet)) < 1).then_some(RETRY_NS)
    }

    pub(super) fn known_left(&self) -> Option<i64> {
        self.left.or(self.alone)
    }

    /// When to ask whether a lost count is back, without asking for tokens.
    pub(super) fn probe_at_ns(&self) -> Option<u64> {
        self.alone.filter(|alone| *alone < 1).map(|_| self.told_at_ns.saturating_add(RETRY_NS))
    }

    pub(super) fn answered(&mut self, quota: QuotaLeft, granted: u32, fleet: u32, now_ns: u64) {
        self.told_at_ns = now_ns;
        match quota {
            QuotaLeft::Left(left) => (self.left, self.alone) = (Some(left), None),
            QuotaLeft::Unseeded => {
                self.start_alone(fleet);
                self.spend_alone(granted);
            }
        }
    }

    /// Redis has said so: nothing is left.
    pub(super) fn is_used_up(&self) -> bool {
        self.left.is_some_and(|left| left < 1)
    }

    /// Redis has lost the count.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Counts what was admitted without Redis' count.
    pub(super) fn spend_alone(&mut self, tokens: u32) {
        self.spent_alone = self.spent_alone.saturating_add(i64::from(tokens));
        self.alone = self.alone.map(|alone| alone.saturating_sub(i64::from(tokens)));
    }

    pub(super) fn reported(&mut self) {
        self.spent_alone = 0;
    }

    fn start_alone(&mut self, fleet: u32) {
        let share = self.share(fleet);
        self.left = None;
        self.alone.get_or_insert(share);
    }

    /// This node's part of what was left, less what it has spent of it. A month of which nothing was ever heard counts as
    /// untouched.
    fn share(&self, fleet: u32) -> i64 {
        let left = self.left.unwrap_or_else(|| signed(self.terms.included));
        left.div_euclid(i64::from(fleet.max(1))).saturating_sub(self.spent_alone)
    }
}

fn signed(included: u64) -> i64 {
    i64::try_from(included).unwrap_or(i64::MAX)
}
