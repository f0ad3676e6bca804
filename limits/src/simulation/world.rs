//! The event loop: moves messages through virtual time and hands everything else to whom it belongs. Refuses to judge; it tells
//! the oracle what happened.

mod audit;
mod faults;
mod requests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::audit::Outcome;
use super::Dice;
use super::oracle::{Oracle, Purse};
use super::scenario::{Fault, Network, Scenario};
use super::traffic::{Exact, arrivals};
use crate::bound::Bound;
use crate::central::Group;
use crate::ledger::{Reach, Unknown};
use crate::mutant::{self, Mutant};
use crate::policy::{Algorithm, OnRedisDown, Policy};
use crate::slot::lease::Tick;
use crate::slot::{Slot, Take, Taken};
use crate::syncer::{Place, Syncer};
use crate::terms::{MS_NS, Terms, UNITS, US_NS, WAIT_MAX_NS};
use crate::wire::{Reply, Request, Verdict};

/// Redis' clock at the start of a run.
const EPOCH_US: u64 = 1_790_000_000_000_000;
/// After the traffic everything heals, the longest pause ends, and everything owed is told.
const QUIET_NS: u64 = 6_000 * MS_NS;
const KEY: u64 = 7;
/// Traffic begins when the first nodes have been admitted.
const START_NS: u64 = 20 * MS_NS;
/// How long after an outage a key may wait for its first answer: a tick, and what a lost one takes.
const ALONE_AFTER_NS: u64 = 700 * MS_NS;

#[derive(Debug)]
enum Event {
    Arrive { node: usize },
    Wake { node: usize, at_ns: u64 },
    WaitEnd { node: usize, life: u64 },
    AtRedis { node: usize, life: u64, request: Request },
    AtNode { node: usize, life: u64, reply: Reply, executed_ns: u64 },
    Break(Fault),
    Change,
    Follow { node: usize },
    Start { node: usize },
    Photograph,
    Heal,
}

struct Node {
    life: u64,
    /// Local monotonic time is simulated time and this.
    offset_ns: u64,
    syncer: Syncer,
    place: Place,
    slot: Arc<Slot>,
    waiting: VecDeque<u64>,
    wake_at_ns: Option<u64>,
    cut_until_ns: u64,
    paused_until_ns: u64,
    is_alone: bool,
    was_alone: bool,
    /// When it was last alone.
    back_ns: u64,
    purse: Purse,
    /// Of the ledgers that were given up.
    expired: u64,
}

pub(crate) struct World {
    scenario: Scenario,
    terms: Terms,
    /// The newest.
    policy: Policy,
    bound: Bound,
    now_ns: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    serial: u64,
    dice: Dice,
    nodes: Vec<Option<Node>>,
    lives: u64,
    redis: Group,
    redis_step_us: i64,
    down_until_ns: u64,
    photograph: Option<Group>,
    network: Network,
    accounted_ns: u64,
    forgetful: bool,
    oracle: Oracle,
    offered: u64,
    ideal: u64,
}

/// Runs a scenario to its end and audits it.
pub(crate) fn run(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario);
    while let Some(Reverse((at_ns, serial))) = world.events.pop() {
        let Some(event) = world.bodies.remove(&serial) else { continue };
        world.account(at_ns);
        world.now_ns = at_ns;
        if at_ns > scenario.end_ns() + QUIET_NS {
            break;
        }
        world.handle(event);
    }
    world.audit()
}

impl World {
    fn new(scenario: &Scenario) -> World {
        let mut world = World {
            terms: scenario.terms(),
            policy: scenario.policy(),
            bound: Bound::of(&scenario.widest_policy(), scenario.fleet),
            now_ns: 0,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            serial: 0,
            dice: Dice::new(scenario.seed),
            nodes: Vec::new(),
            lives: 0,
            redis: Group::new(),
            redis_step_us: 0,
            down_until_ns: 0,
            photograph: None,
            network: scenario.network,
            accounted_ns: 0,
            forgetful: false,
            oracle: Oracle::new(scenario),
            offered: 0,
            ideal: 0,
            scenario: scenario.clone(),
        };
        let room = usize::try_from(scenario.fleet).unwrap();
        world.nodes = (0..room).map(|_| None).collect();
        (0..scenario.nodes).for_each(|node| world.start(node));
        let mut exact = Exact::new(scenario.per_minute, scenario.burst);
        for arrival in arrivals(&scenario.phases, room, &mut Dice::new(!scenario.seed)) {
            world.at(arrival.at_ns + START_NS, Event::Arrive { node: arrival.node });
            world.ideal += u64::from(exact.admits(arrival.at_ns));
        }
        for (at_ms, fault) in scenario.faults.iter().filter(|(at_ms, _)| at_ms * MS_NS <= scenario.end_ns()) {
            if let Fault::Failover { lost_ms } = fault {
                world.at(at_ms.saturating_sub(*lost_ms) * MS_NS, Event::Photograph);
            }
            world.at(at_ms * MS_NS, Event::Break(*fault));
        }
        if let Some(change) = scenario.change.filter(|change| change.at_ms * MS_NS <= scenario.end_ns()) {
            world.at(change.at_ms * MS_NS, Event::Change);
        }
        world.at(scenario.end_ns() + 100 * MS_NS, Event::Heal);
        world
    }

    fn at(&mut self, at_ns: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at_ns.max(self.now_ns), self.serial)));
        self.bodies.insert(self.serial, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { node } => self.arrive(node),
            Event::Wake { node, at_ns } => {
                if let Some(present) = self.nodes[node].as_mut()
                    && present.wake_at_ns == Some(at_ns)
                {
                    present.wake_at_ns = None;
                    self.pump(node);
                }
            }
            Event::WaitEnd { node, life } => self.end_waits(node, life),
            Event::AtRedis { node, life, request } => self.at_redis(node, life, &request),
            Event::AtNode { node, life, reply, executed_ns } => self.at_node(node, life, &reply, executed_ns),
            Event::Break(fault) => self.break_something(fault),
            Event::Change => self.change_policy(),
            Event::Follow { node } => self.follow(node),
            Event::Start { node } => self.start(node),
            Event::Photograph => self.photograph = Some(self.redis.clone()),
            Event::Heal => self.heal(),
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        self.lives += 1;
        let name = u64::try_from(node).unwrap() + 1;
        let mut syncer = Syncer::new(name, self.lives);
        let slot = Arc::new(Slot::new());
        let place = syncer.open(KEY, Arc::clone(&slot), self.policy, self.scenario.fleet);
        self.nodes[node] = Some(Node {
            life: self.lives,
            offset_ns: self.dice.below(1 << 50),
            syncer,
            place,
            slot,
            waiting: VecDeque::new(),
            wake_at_ns: None,
            cut_until_ns: 0,
            paused_until_ns: 0,
            is_alone: false,
            was_alone: false,
            back_ns: 0,
            purse: Purse::default(),
            expired: 0,
        });
        self.pump(node);
    }

    /// Each node hears of it at a moment of its own; whoever begins later has heard.
    fn change_policy(&mut self) {
        let (Some(policy), Some(change)) = (self.scenario.changed_policy(), self.scenario.change) else { return };
        self.policy = policy;
        for node in 0..self.nodes.len() {
            let at_ns = self.now_ns + self.dice.below(change.within_ms * MS_NS + 1);
            self.at(at_ns, Event::Follow { node });
        }
    }

    fn follow(&mut self, node: usize) {
        let (now_ns, policy, fleet) = (self.now_ns, self.policy, self.scenario.fleet);
        let Some(present) = self.nodes[node].as_mut() else { return };
        if now_ns < present.paused_until_ns {
            let at_ns = present.paused_until_ns;
            self.at(at_ns, Event::Follow { node });
            return;
        }
        present.syncer.change(present.place, policy, fleet, now_ns + present.offset_ns);
        self.pump(node);
    }

    fn pump(&mut self, node: usize) {
        let now_ns = self.now_ns;
        let Some(present) = self.nodes[node].as_mut() else { return };
        if now_ns < present.paused_until_ns {
            let at_ns = present.paused_until_ns;
            present.wake_at_ns = Some(at_ns);
            self.at(at_ns, Event::Wake { node, at_ns });
            return;
        }
        let (offset_ns, life) = (present.offset_ns, present.life);
        let request = present.syncer.poll(now_ns + offset_ns);
        if let Some(request) = request {
            for ask in &request.asks {
                self.oracle.operations += 1;
                if let Some(refund) = ask.refund {
                    self.oracle.refund(&mut self.nodes[node].as_mut().unwrap().purse, u64::from(refund.tokens));
                }
            }
            for at_ns in self.deliveries(node) {
                self.at(at_ns, Event::AtRedis { node, life, request: request.clone() });
            }
        }
        self.note_reach(node);
        let present = self.nodes[node].as_mut().unwrap();
        if let Some(local_ns) = present.syncer.wake_at_ns() {
            let at_ns = local_ns.saturating_sub(offset_ns).max(now_ns + 5 * US_NS);
            if present.wake_at_ns != Some(at_ns) {
                present.wake_at_ns = Some(at_ns);
                self.at(at_ns, Event::Wake { node, at_ns });
            }
        }
    }

    /// When a message arrives: never, once or twice.
    fn deliveries(&mut self, node: usize) -> Vec<u64> {
        let now_ns = self.now_ns;
        let cut = self.nodes[node].as_ref().is_some_and(|present| now_ns < present.cut_until_ns);
        if cut || self.dice.permille(self.network.loss_permille) {
            return Vec::new();
        }
        let copies = if self.dice.permille(self.network.double_permille) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let late = self.dice.permille(self.network.late_permille);
                let late_ns = if late { self.dice.below(self.network.late_ms * MS_NS + 1) } else { 0 };
                now_ns + self.dice.between(self.network.delay_us.0, self.network.delay_us.1) * US_NS + late_ns
            })
            .collect()
    }

    fn redis_now_us(&self) -> u64 {
        (EPOCH_US + self.now_ns / US_NS).saturating_add_signed(self.redis_step_us)
    }

    fn at_redis(&mut self, node: usize, life: u64, request: &Request) {
        if self.now_ns < self.down_until_ns {
            return;
        }
        let mut now_us = self.redis_now_us();
        if mutant::is(Mutant::GatewayClock) {
            now_us = now_us.saturating_add_signed((i64::try_from(node).unwrap() % 5 - 2) * 700_000);
        }
        let reply = self.redis.apply(request, now_us);
        if reply.verdict == Verdict::Done {
            for (ask, grant) in request.asks.iter().zip(&reply.grants) {
                self.oracle.debit(request.node, request.epoch, request.debts, u64::from(ask.debt));
                self.oracle.granted += u64::from(grant.tokens);
            }
        }
        let executed_ns = self.now_ns;
        for at_ns in self.deliveries(node) {
            self.at(at_ns, Event::AtNode { node, life, reply: reply.clone(), executed_ns });
        }
    }

    fn at_node(&mut self, node: usize, life: u64, reply: &Reply, executed_ns: u64) {
        let now_ns = self.now_ns;
        let Some(present) = self.nodes[node].as_mut().filter(|present| present.life == life) else { return };
        if now_ns < present.cut_until_ns {
            return;
        }
        if now_ns < present.paused_until_ns {
            let at_ns = present.paused_until_ns;
            self.at(at_ns, Event::AtNode { node, life, reply: reply.clone(), executed_ns });
            return;
        }
        if present.syncer.hear(reply, now_ns + present.offset_ns) && reply.verdict == Verdict::Done {
            for grant in &reply.grants {
                self.oracle.lease(&mut present.purse, u64::from(grant.tokens), executed_ns);
            }
        }
        let waiting = std::mem::take(&mut present.waiting);
        for arrived_ns in waiting {
            if self.decide(node, arrived_ns, false) {
                self.nodes[node].as_mut().unwrap().waiting.push_back(arrived_ns);
            }
        }
        self.pump(node);
    }

    fn is_window(&self) -> bool {
        self.scenario.algorithm != Algorithm::TokenBucket
    }
}
