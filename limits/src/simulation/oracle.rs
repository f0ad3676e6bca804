//! Judges a run from outside: the peak excess over every interval, each token's life, each debt's fate. Shares no code with the
//! protocol. Refuses to stop at the first offence; it keeps a few.

use std::collections::{HashMap, HashSet};

use super::scenario::Scenario;
use crate::policy::Algorithm;
use crate::terms::{Terms, US_NS};

/// Offences kept for the report.
const OFFENCES_MAX: usize = 8;

/// Admissions against B + r·t for every interval at once: the level that a bucket without bottom would reach is the largest
/// A(t) − r·t over all intervals that end now.
#[derive(Debug)]
pub(crate) struct Excess {
    per_minute: u128,
    level: u128,
    at_ns: u64,
    peak: u128,
}

impl Excess {
    const TOKEN: u128 = 60_000_000_000;

    pub(crate) fn new(per_minute: u32) -> Excess {
        Excess { per_minute: u128::from(per_minute), level: 0, at_ns: 0, peak: 0 }
    }

    pub(crate) fn admit(&mut self, at_ns: u64) {
        let leaked = u128::from(at_ns - self.at_ns) * self.per_minute;
        self.level = self.level.saturating_sub(leaked) + Self::TOKEN;
        self.at_ns = at_ns;
        self.peak = self.peak.max(self.level);
    }

    /// The largest A(t) − r·t in tokens, rounded down.
    pub(crate) fn peak(&self) -> u64 {
        u64::try_from(self.peak / Self::TOKEN).unwrap()
    }
}

/// Tokens granted to one process, by the moment after which none may be spent.
#[derive(Debug, Default)]
pub(crate) struct Purse {
    grants: Vec<(u64, u64)>,
    pub(crate) leased: u64,
    pub(crate) spent: u64,
    pub(crate) refunded: u64,
    pub(crate) incurred: u64,
}

impl Purse {
    /// Takes from what ends first. False: there is not so much.
    fn take(&mut self, mut tokens: u64, not_before_ns: u64) -> bool {
        self.grants.sort_unstable();
        for (until_ns, left) in &mut self.grants {
            if *until_ns >= not_before_ns {
                let part = tokens.min(*left);
                *left -= part;
                tokens -= part;
            }
        }
        self.grants.retain(|(_, left)| *left > 0);
        tokens == 0
    }
}

#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) excess: Excess,
    lease_ns: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    /// Extra tokens that the faults of this run allow, each by its term.
    pub(crate) allowance: f64,
    /// Debts that Redis has debited, by (node, epoch, set).
    sets: HashSet<(u64, u64, u64)>,
    pub(crate) applied: u64,
    pub(crate) applied_of: HashMap<u64, u64>,
    pub(crate) granted: u64,
    pub(crate) operations: u64,
    pub(crate) waits: u64,
    pub(crate) longest_wait_ns: u64,
    pub(crate) deepest: i64,
    /// Every admission, for windows.
    pub(crate) times_ns: Vec<u64>,
    keeps_times: bool,
    pub(crate) fullest: u64,
    /// No fault has happened that may push the level deeper than N·e.
    pub(crate) is_deep_forbidden: bool,
    pub(crate) offences: Vec<String>,
}

impl Oracle {
    pub(crate) fn new(scenario: &Scenario) -> Oracle {
        Oracle {
            excess: Excess::new(scenario.widest_policy().per_minute()),
            lease_ns: longest_lease_ns(scenario),
            admitted: 0,
            refused: 0,
            allowance: scenario.change_owes(),
            sets: HashSet::new(),
            applied: 0,
            applied_of: HashMap::new(),
            granted: 0,
            operations: 0,
            waits: 0,
            longest_wait_ns: 0,
            deepest: 0,
            times_ns: Vec::new(),
            keeps_times: scenario.algorithm != Algorithm::TokenBucket,
            fullest: 0,
            // What is owed of a small bucket weighs more in a large one.
            is_deep_forbidden: scenario.change.is_none(),
            offences: Vec::new(),
        }
    }

    pub(crate) fn offend(&mut self, what: String) {
        if self.offences.len() < OFFENCES_MAX {
            self.offences.push(what);
        }
    }

    pub(crate) fn admit(&mut self, at_ns: u64) {
        self.admitted += 1;
        if self.keeps_times {
            self.times_ns.push(at_ns);
        }
        self.excess.admit(at_ns);
    }

    pub(crate) fn lease(&mut self, purse: &mut Purse, tokens: u64, granted_ns: u64) {
        purse.leased += tokens;
        if tokens > 0 {
            purse.grants.push((granted_ns + self.lease_ns, tokens));
        }
    }

    pub(crate) fn spend(&mut self, purse: &mut Purse, at_ns: u64) {
        purse.spent += 1;
        if !purse.take(1, at_ns) {
            self.offend(format!("a token was spent {} µs into the run after every lease had ended", at_ns / US_NS));
        }
    }

    pub(crate) fn refund(&mut self, purse: &mut Purse, tokens: u64) {
        purse.refunded += tokens;
        if !purse.take(tokens, 0) {
            self.offend(format!("{tokens} tokens were refunded that were not held"));
        }
    }

    /// Redis carried out a message with this set of debts.
    pub(crate) fn debit(&mut self, node: u64, epoch: u64, set: u64, tokens: u64) {
        if tokens > 0 && self.sets.insert((node, epoch, set)) {
            self.applied += tokens;
            *self.applied_of.entry(node).or_default() += tokens;
        }
    }
}

fn longest_lease_ns(scenario: &Scenario) -> u64 {
    let changed = scenario.changed_policy().map_or(0, |policy| Terms::of(&policy, scenario.fleet).lease_ns);
    scenario.terms().lease_ns.max(changed)
}
