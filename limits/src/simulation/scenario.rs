//! What is simulated: the policy, the fleet, the network, the traffic and the faults, each with its moment. Refuses to act.

use super::traffic::Phase;
use crate::bound::Bound;
use crate::policy::{Algorithm, OnRedisDown, Policy};
use crate::terms::{MS_NS, Terms};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The process is gone and a new one of the same name starts after `back_ms`.
    Crash {
        node: usize,
        back_ms: u64,
    },
    /// A node more, of those that the fleet has room for.
    Join {
        node: usize,
    },
    CutOff {
        node: usize,
        for_ms: u64,
    },
    /// Nobody reaches Redis; its state stays.
    RedisDown {
        for_ms: u64,
    },
    /// A replica that is `lost_ms` behind takes over.
    Failover {
        lost_ms: u64,
    },
    Wipe,
    /// Redis' clock jumps.
    ClockStep {
        by_ms: i64,
    },
    /// The process stands still: neither requests nor messages are handled.
    Pause {
        node: usize,
        for_ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// One way, in µs.
    pub(crate) delay_us: (u64, u64),
    pub(crate) loss_permille: u64,
    pub(crate) double_permille: u64,
    /// Messages that take up to `late_ms`.
    pub(crate) late_permille: u64,
    pub(crate) late_ms: u64,
}

impl Network {
    pub(crate) const CALM: Network =
        Network { delay_us: (150, 900), loss_permille: 0, double_permille: 0, late_permille: 0, late_ms: 0 };
}

/// Another policy of the same algorithm, which each node follows at a moment of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) at_ms: u64,
    pub(crate) within_ms: u64,
    pub(crate) per_minute: u32,
    pub(crate) burst: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) algorithm: Algorithm,
    pub(crate) per_minute: u32,
    pub(crate) burst: u32,
    pub(crate) strict: bool,
    pub(crate) when_down: OnRedisDown,
    /// Nodes at the start; the fleet has room for `fleet`.
    pub(crate) nodes: usize,
    pub(crate) fleet: u32,
    pub(crate) network: Network,
    pub(crate) phases: Vec<Phase>,
    pub(crate) duration_ms: u64,
    pub(crate) faults: Vec<(u64, Fault)>,
    /// Once: a small bucket between two large ones is full again sooner than they are, which no bound of theirs allows for.
    pub(crate) change: Option<Change>,
    /// Nodes give a key up whenever they may, and take it on again with the next request.
    pub(crate) closing: bool,
}

impl Scenario {
    pub(crate) fn policy(&self) -> Policy {
        self.policy_of(1, self.per_minute, self.burst)
    }

    pub(crate) fn changed_policy(&self) -> Option<Policy> {
        self.change.map(|change| self.policy_of(2, change.per_minute, change.burst))
    }

    /// As generous as the more generous one of both policies, in each figure.
    pub(crate) fn widest_policy(&self) -> Policy {
        let changed = self.changed_policy().unwrap_or(self.policy());
        self.policy_of(0, self.per_minute.max(changed.per_minute()), self.burst.max(changed.burst()))
    }

    fn policy_of(&self, revision: u64, per_minute: u32, burst: u32) -> Policy {
        Policy::new(revision, self.algorithm, per_minute, burst)
            .unwrap()
            .strict(self.strict)
            .on_redis_down(self.when_down)
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms::of(&self.policy(), self.fleet)
    }

    /// What a change adds to the bound of the widest policy: debts that nodes owe by either.
    pub(crate) fn change_owes(&self) -> f64 {
        let owed = |policy| Bound::of(&policy, self.fleet).owed();
        self.changed_policy().map_or(0.0, |changed| owed(self.policy()).min(owed(changed)))
    }

    /// Ten nodes, a hundred a second, a bucket of a hundred: the example of the design.
    pub(crate) fn example(phases: Vec<Phase>) -> Scenario {
        Scenario {
            seed: 1,
            algorithm: Algorithm::TokenBucket,
            per_minute: 6_000,
            burst: 100,
            strict: false,
            when_down: OnRedisDown::FairShare,
            nodes: 10,
            fleet: 10,
            network: Network::CALM,
            duration_ms: phases.iter().map(|phase| phase.for_ms).sum(),
            phases,
            faults: Vec::new(),
            change: None,
            closing: false,
        }
    }

    pub(crate) fn of(self, per_minute: u32, burst: u32, nodes: usize) -> Scenario {
        Scenario { per_minute, burst, nodes, fleet: u32::try_from(nodes).unwrap(), ..self }
    }

    pub(crate) fn with(mut self, at_ms: u64, fault: Fault) -> Scenario {
        self.faults.push((at_ms, fault));
        self
    }

    pub(crate) fn seed(self, seed: u64) -> Scenario {
        Scenario { seed, ..self }
    }

    pub(crate) fn end_ns(&self) -> u64 {
        self.duration_ms * MS_NS
    }
}
