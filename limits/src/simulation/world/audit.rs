//! The end of a run: every token and every debt accounted for, and the admissions held to the bound.

use super::*;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) offered: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    /// What an exact bucket would have admitted.
    pub(crate) ideal: u64,
    /// The largest A(t) − r·t.
    pub(crate) peak: u64,
    /// B + N·e + r·H and the terms of the faults that happened.
    pub(crate) bound: u64,
    pub(crate) operations: u64,
    pub(crate) waits: u64,
    pub(crate) longest_wait_ns: u64,
    pub(crate) deepest: i64,
    /// The most in one window.
    pub(crate) fullest: u64,
    pub(crate) offences: Vec<String>,
}

impl World {
    /// Every token and every debt accounted for.
    pub(super) fn audit(mut self) -> Outcome {
        let nodes = std::mem::take(&mut self.nodes);
        for (index, node) in nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.as_ref()?))) {
            let tally = node.syncer.ledger(node.place).unwrap().tally();
            let purse = &node.purse;
            let held: u64 =
                crate::slot::Cell::BOTH.into_iter().map(|cell| u64::from(node.slot.lease(cell).tokens)).sum();
            let accounted = purse.spent + purse.refunded + tally.expired + node.expired + held;
            if purse.leased != accounted {
                self.oracle.offend(format!("node {index}: leased {} but accounted for {accounted}", purse.leased));
            }
            if !node.was_alone && !self.forgetful {
                let told = self.oracle.applied_of.get(&(u64::try_from(index).unwrap() + 1)).copied().unwrap_or(0);
                if told != purse.incurred {
                    self.oracle.offend(format!("node {index}: owed {} but told {told}", purse.incurred));
                }
            }
            let late = node.slot.held(Tick::of(self.now_ns + node.offset_ns));
            if late > 0 {
                self.oracle.offend(format!("node {index} holds {late} tokens after the silence"));
            }
        }
        self.outcome()
    }

    /// Any true minute for the sliding window, each minute of Redis' clock for the fixed one: L + N·e and the faults' terms.
    pub(super) fn audit_windows(&mut self) {
        let minute_ns = 60_000 * MS_NS;
        let times = &self.oracle.times_ns;
        let most = if self.scenario.algorithm == Algorithm::SlidingWindow {
            let within =
                |(index, at): (usize, &u64)| index + 1 - times.partition_point(|early| early + minute_ns <= *at);
            times.iter().enumerate().map(within).max().unwrap_or(0)
        } else {
            let mut windows = BTreeMap::<u64, usize>::new();
            times.iter().for_each(|at| *windows.entry((EPOCH_US + at / US_NS) / 60_000_000).or_default() += 1);
            windows.values().copied().max().unwrap_or(0)
        };
        let most = u64::try_from(most).unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A sum of small positive numbers.
        let bound = (self.bound.window() + self.oracle.allowance) as u64;
        self.oracle.fullest = most;
        if most > bound {
            self.oracle.offend(format!("{most} in one window, above the bound {bound}"));
        }
    }

    pub(super) fn outcome(mut self) -> Outcome {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A sum of small positive numbers.
        let bound = (self.bound.base() + self.oracle.allowance) as u64;
        let peak = self.oracle.excess.peak();
        let unbounded = self.scenario.when_down == OnRedisDown::Open;
        if peak > bound && !unbounded && !self.is_window() {
            self.oracle.offend(format!("A(t) − r·t reaches {peak}, above the bound {bound}"));
        }
        if self.is_window() && !unbounded {
            self.audit_windows();
        }
        Outcome {
            offered: self.offered,
            admitted: self.oracle.admitted,
            refused: self.oracle.refused,
            ideal: self.ideal,
            peak,
            bound,
            operations: self.oracle.operations,
            waits: self.oracle.waits,
            longest_wait_ns: self.oracle.longest_wait_ns,
            deepest: self.oracle.deepest,
            fullest: self.oracle.fullest,
            offences: self.oracle.offences,
        }
    }
}
