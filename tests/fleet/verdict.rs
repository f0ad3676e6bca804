//! A phase's log beside its bound and beside what one exact bucket would have let through. Keeps every figure, and fails once all
//! are told, so that one run shows the whole picture.

use crate::exact::{admitted_by_one_bucket, peak_excess};
use crate::load::Log;
use crate::scene::{BURST, Buyer};

/// Of what an exact bucket lets through, where the machine does not keep pace: a limiter that refuses everything fails even then.
const SLOW_PERCENT: usize = 25;

#[derive(Debug, Default)]
pub struct Verdicts {
    offences: Vec<String>,
}

impl Verdicts {
    /// A token bucket. `least_percent`: of what one exact bucket lets through, on a machine that keeps pace.
    pub fn bucket(&mut self, name: &str, buyer: &Buyer, log: &Log, bound: f64, least_percent: usize) {
        let per_minute = buyer.policy.per_minute();
        let peak = peak_excess(&log.admitted, per_minute);
        let ideal = admitted_by_one_bucket(&log.offered, per_minute, BURST);
        let admitted = log.admitted.len();
        self.tell(name, log, &format!("peak {peak:.1} of {bound:.1}, one bucket {ideal}"));
        if peak > bound {
            self.offend(format!("{name}: A(t) − r·t reaches {peak:.1}, above the bound {bound:.1}"));
        }
        let least_percent = at_least(log, least_percent);
        if admitted * 100 < ideal * least_percent {
            self.offend(format!("{name}: {admitted} admitted, less than {least_percent} % of {ideal}"));
        }
    }

    /// A window, or a quota: so many at most, and nearly as many, since more were wanted.
    pub fn count(&mut self, name: &str, log: &Log, (counted, limit, bound): (usize, usize, f64), least_percent: usize) {
        self.tell(name, log, &format!("counted {counted} of {bound:.1}, limit {limit}"));
        if counted as f64 > bound {
            self.offend(format!("{name}: {counted} counted, above the bound {bound:.1}"));
        }
        let least_percent = at_least(log, least_percent);
        if counted * 100 < limit * least_percent {
            self.offend(format!("{name}: {counted} counted, less than {least_percent} % of {limit}"));
        }
    }

    /// What a machine that does not keep pace may fail to show.
    pub fn check_at_pace(&mut self, log: &Log, holds: bool, what: impl FnOnce() -> String) {
        self.check(holds || !log.keeps_pace(), what);
    }

    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.offend(what());
        }
    }

    pub fn finish(self) {
        assert!(self.offences.is_empty(), "{} offences:\n{}", self.offences.len(), self.offences.join("\n"));
    }

    fn tell(&self, name: &str, log: &Log, figures: &str) {
        let (offered, admitted) = (log.offered.len(), log.admitted.len());
        let (refused, failed) = (log.refused, &log.failed);
        println!(
            "{name:<30} offered {offered:>5}, admitted {admitted:>5}, refused {refused:>5}, failed {failed:?}; {figures}"
        );
    }

    pub fn count_of_offences(&self) -> usize {
        self.offences.len()
    }

    fn offend(&mut self, what: String) {
        println!("OFFENCE {what}");
        self.offences.push(what);
    }
}

fn at_least(log: &Log, percent: usize) -> usize {
    if log.keeps_pace() { percent } else { percent.min(SLOW_PERCENT) }
}
