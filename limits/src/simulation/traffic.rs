//! Where the requests come from: phases of steady, hopping, bursting and hostile traffic. Refuses to know the answers, except
//! that a conforming source asks an exact bucket of its own first.

use super::Dice;
use crate::terms::MS_NS;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Quiet,
    /// Every node alike.
    Even,
    /// Nine in ten on one node.
    Skewed,
    /// One node only.
    Single,
    /// All on one node, another one every so often.
    Hop {
        every_ms: u64,
    },
    /// Groups of so many within 20 ms on so many nodes, once every `every_ms`.
    Bursts {
        size: u64,
        nodes: u64,
        every_ms: u64,
    },
    /// Every node flooded for a moment, then silence: hoards leases to have them given back.
    Hoard {
        size: u64,
        every_ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) shape: Shape,
    /// Mean rate in thousandths of a request per second; bursts have their own.
    pub(crate) rate_milli: u64,
    pub(crate) for_ms: u64,
}

impl Phase {
    pub(crate) fn new(shape: Shape, rate: u64, for_ms: u64) -> Phase {
        Phase { shape, rate_milli: rate * 1_000, for_ms }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) at_ns: u64,
    pub(crate) node: usize,
}

/// All requests of a scenario, by time. At most `REQUESTS_MAX`.
pub(crate) fn arrivals(phases: &[Phase], nodes: usize, dice: &mut Dice) -> Vec<Arrival> {
    let mut all = Vec::new();
    let mut start_ns = 0;
    for phase in phases {
        let end_ns = start_ns + phase.for_ms * MS_NS;
        emit(phase, (start_ns, end_ns), nodes, dice, &mut all);
        start_ns = end_ns;
    }
    all.sort_by_key(|arrival| arrival.at_ns);
    all
}

const REQUESTS_MAX: usize = 200_000;

fn emit(phase: &Phase, (start_ns, end_ns): (u64, u64), nodes: usize, dice: &mut Dice, all: &mut Vec<Arrival>) {
    let count = u64::try_from(nodes).unwrap();
    match phase.shape {
        Shape::Quiet => {}
        Shape::Bursts { size, nodes: on, every_ms } => {
            let mut at_ns = start_ns + dice.below(every_ms * MS_NS / 4 + 1);
            while at_ns < end_ns && all.len() < REQUESTS_MAX {
                let first = dice.below(count);
                for _ in 0..size {
                    let node = index((first + dice.below(on.min(count).max(1))) % count);
                    all.push(Arrival { at_ns: at_ns + dice.below(20 * MS_NS), node });
                }
                at_ns += every_ms * MS_NS;
            }
        }
        Shape::Hoard { size, every_ms } => {
            let (mut at_ns, mut node) = (start_ns, dice.below(count));
            while at_ns < end_ns && all.len() < REQUESTS_MAX {
                for _ in 0..size {
                    all.push(Arrival { at_ns: at_ns + dice.below(8 * MS_NS), node: index(node) });
                }
                node = (node + 1) % count;
                at_ns += every_ms * MS_NS;
            }
        }
        Shape::Even | Shape::Skewed | Shape::Single | Shape::Hop { .. } => {
            steady(phase, (start_ns, end_ns), count, dice, all);
        }
    }
}

fn steady(phase: &Phase, (start_ns, end_ns): (u64, u64), count: u64, dice: &mut Dice, all: &mut Vec<Arrival>) {
    let favourite = dice.below(count);
    let (mut here, mut hop_ns) = (favourite, start_ns);
    let mean_ns = 1_000_000_000_000 / phase.rate_milli.max(1);
    let mut at_ns = start_ns;
    loop {
        // Between nothing and twice the mean: less tame than a clock, less wild than Poisson.
        at_ns += dice.below(2 * mean_ns + 1);
        if at_ns >= end_ns || all.len() >= REQUESTS_MAX {
            return;
        }
        let node = match phase.shape {
            Shape::Single => favourite,
            Shape::Skewed if dice.permille(900) => favourite,
            Shape::Hop { every_ms } => {
                if at_ns >= hop_ns {
                    (here, hop_ns) = (dice.below(count), at_ns + every_ms * MS_NS);
                }
                here
            }
            _ => dice.below(count),
        };
        all.push(Arrival { at_ns, node: index(node) });
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// An exact bucket, in units: keeps what it would admit, for conforming traffic and for comparison.
#[derive(Clone, Debug)]
pub(crate) struct Exact {
    per_minute: u128,
    full: u128,
    level: u128,
    at_ns: u64,
}

impl Exact {
    /// Units of one token: nanoseconds of a minute.
    const TOKEN: u128 = 60_000_000_000;

    pub(crate) fn new(per_minute: u32, burst: u32) -> Exact {
        let full = u128::from(burst) * Exact::TOKEN;
        Exact { per_minute: u128::from(per_minute), full, level: full, at_ns: 0 }
    }

    pub(crate) fn admits(&mut self, at_ns: u64) -> bool {
        let gained = u128::from(at_ns - self.at_ns) * self.per_minute;
        self.level = (self.level + gained).min(self.full);
        self.at_ns = at_ns;
        let admits = self.level >= Exact::TOKEN;
        if admits {
            self.level -= Exact::TOKEN;
        }
        admits
    }
}
