//! What a fleet may admit beyond r·t, as a sum: the base bound and a term for each fault that happened. The one place where the
//! terms stand, for the simulator and for whoever judges real gateways. Refuses to know how the faults came about.

use std::time::Duration;

use crate::policy::Policy;
use crate::terms::Terms;

/// All in tokens, of one key.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    terms: Terms,
    per_second: f64,
    burst: f64,
}

impl Bound {
    /// `fleet`: the most nodes that may run at once.
    pub fn of(policy: &Policy, fleet: u32) -> Bound {
        let per_second = f64::from(policy.per_minute()) / 60.0;
        Bound { terms: Terms::of(policy, fleet), per_second, burst: f64::from(policy.burst()) }
    }

    /// B + N·e + r·H, the largest A(t) − r·t without faults; one more, for what is rounded.
    pub fn base(&self) -> f64 {
        self.burst + self.owed() + self.rate(Duration::from_nanos(self.terms.lease_ns)) + 1.0
    }

    /// L + N·e, the most in a window without faults.
    pub fn window(&self) -> f64 {
        self.burst + self.owed()
    }

    /// N·e.
    pub fn owed(&self) -> f64 {
        f64::from(self.terms.fleet) * self.overdraft()
    }

    /// r·t.
    pub fn rate(&self, time: Duration) -> f64 {
        self.per_second * time.as_secs_f64()
    }

    /// A process is gone with what it owed, and another one begins. `alone`: it lived on its share, of which nobody heard.
    pub fn crash(&self, alone: bool) -> f64 {
        let share = if alone { (self.burst / f64::from(self.terms.fleet)).max(1.0) } else { 0.0 };
        2.0 * self.overdraft() + 1.0 + share
    }

    /// Redis is away for everybody: no term for the time, one token a node for rounding.
    pub fn all_alone(&self) -> f64 {
        f64::from(self.terms.fleet)
    }

    /// A node goes on alone while others lease: what it has and owes at that moment.
    pub fn goes_alone(&self) -> f64 {
        self.overdraft() + 1.0 + (self.burst / f64::from(self.terms.fleet)).ceil().max(1.0)
    }

    /// And for as long as it stays alone and others lease.
    pub fn stays_alone(&self, nodes: u32, time: Duration) -> f64 {
        self.rate(time) * (f64::from(nodes) / f64::from(self.terms.fleet))
    }

    /// Redis forgot everything.
    pub fn wipe(&self) -> f64 {
        self.burst + self.owed()
    }

    /// Redis forgot what happened in the last `lost`.
    pub fn failover(&self, lost: Duration) -> f64 {
        self.wipe() + self.rate(lost)
    }

    /// Redis' clock went forward.
    pub fn clock_forward(&self, by: Duration) -> f64 {
        self.rate(by).min(self.wipe())
    }

    fn overdraft(&self) -> f64 {
        f64::from(self.terms.overdraft)
    }
}
