//! What a fleet was seen to spend beyond its buckets: debts that Redis debited from a level that did not hold them. Refuses to judge
//! which fault it was; what is promised without any stands beside it.

use crate::policy::Algorithm;
use crate::terms::{Terms, UNITS};
use crate::wire::{Ask, Grant};

/// Tokens, of the debts of one node: the sum over all nodes is how far the levels went below zero. Each is seen once, by the node
/// whose debt it was, when Redis has acknowledged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overshoot {
    /// Beyond what was in the bucket or window.
    pub tokens: u64,
    /// Beyond N·e below it: what no fleet reaches unless one of the faults happened that the bound has a term for.
    pub beyond: u64,
}

impl Overshoot {
    pub(crate) fn of(ask: &Ask, grant: &Grant, terms: &Terms) -> Overshoot {
        let depth = grant.level.min(0).unsigned_abs().div_ceil(UNITS.unsigned_abs());
        let allowed = u64::from(terms.fleet) * u64::from(terms.overdraft);
        let debt = u64::from(ask.debt);
        Overshoot { tokens: debt.min(depth), beyond: debt.min(depth.saturating_sub(allowed)) }
    }

    fn add(&mut self, other: Overshoot) {
        self.tokens += other.tokens;
        self.beyond += other.beyond;
    }
}

/// The sums by algorithm, until somebody takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overshoots {
    pub token_bucket: Overshoot,
    pub sliding_window: Overshoot,
    pub fixed_window: Overshoot,
}

impl Overshoots {
    pub(crate) fn add(&mut self, algorithm: Algorithm, overshoot: Overshoot) {
        match algorithm {
            Algorithm::TokenBucket => self.token_bucket.add(overshoot),
            Algorithm::SlidingWindow => self.sliding_window.add(overshoot),
            Algorithm::FixedWindow => self.fixed_window.add(overshoot),
        }
    }
}
