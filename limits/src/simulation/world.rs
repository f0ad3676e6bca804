//! The event loop: moves messages and requests through virtual time and brings the faults about. Refuses to judge; it tells the
//! oracle what happened.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Dice;
use super::oracle::{Oracle, Purse};
use super::scenario::{Fault, Network, Scenario};
use super::traffic::{Exact, arrivals};
use crate::bound::Bound;
use crate::central::Group;
use crate::ledger::{Reach, Unknown};
use crate::mutant::{self, Mutant};
use crate::policy::{Algorithm, OnRedisDown};
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

#[derive(Debug)]
enum Event {
    Arrive { node: usize },
    Wake { node: usize, at_ns: u64 },
    WaitEnd { node: usize, life: u64 },
    AtRedis { node: usize, life: u64, request: Request },
    AtNode { node: usize, life: u64, reply: Reply, executed_ns: u64 },
    Break(Fault),
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
    purse: Purse,
    /// Of the ledgers that were given up.
    expired: u64,
}

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

pub(crate) struct World {
    scenario: Scenario,
    terms: Terms,
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
            bound: Bound::of(&scenario.policy(), scenario.fleet),
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
        let (place, slot) = syncer.open(KEY, self.scenario.policy(), self.scenario.fleet);
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
            purse: Purse::default(),
            expired: 0,
        });
        self.pump(node);
    }

    fn arrive(&mut self, node: usize) {
        let now_ns = self.now_ns;
        let Some(present) = self.nodes[node].as_ref() else { return };
        if now_ns < present.paused_until_ns {
            return;
        }
        self.offered += 1;
        if self.scenario.closing {
            self.reopen(node);
        }
        if self.decide(node, now_ns, true) {
            self.at(now_ns + WAIT_MAX_NS, Event::WaitEnd { node, life: self.nodes[node].as_ref().unwrap().life });
            self.nodes[node].as_mut().unwrap().waiting.push_back(now_ns);
            self.oracle.waits += 1;
        }
        self.pump(node);
    }

    /// Gives the key up and takes it on again, where that is allowed.
    fn reopen(&mut self, node: usize) {
        let (now_ns, policy, fleet) = (self.now_ns, self.scenario.policy(), self.scenario.fleet);
        let present = self.nodes[node].as_mut().unwrap();
        let expired = present.syncer.ledger(present.place).unwrap().tally().expired;
        if present.waiting.is_empty() && present.syncer.give_up(present.place, now_ns + present.offset_ns) {
            present.expired += expired;
            (present.place, present.slot) = present.syncer.open(KEY, policy, fleet);
        }
    }

    /// Decides one request; true: it has to wait.
    fn decide(&mut self, node: usize, arrived_ns: u64, first: bool) -> bool {
        let now_ns = self.now_ns;
        let present = self.nodes[node].as_mut().unwrap();
        let local_ns = now_ns + present.offset_ns;
        let take = if first { present.slot.take(local_ns) } else { present.slot.take_again(local_ns) };
        let unknown = match take {
            Take::Admitted { taken, wake } => {
                if wake {
                    present.syncer.call(present.place);
                }
                self.admit(node, taken, arrived_ns);
                return false;
            }
            Take::Denied { .. } => Unknown::Refused { retry_ns: 0, by: crate::slot::Denial::Rate },
            Take::Unknown => present.syncer.decide_unknown(present.place, local_ns),
        };
        match unknown {
            Unknown::Admitted => {
                if present.syncer.reach() == Reach::Up {
                    self.oracle.offend("a node went alone though Redis answers".into());
                }
                if self.scenario.when_down == OnRedisDown::Closed {
                    self.oracle.offend("closed, and admitted without a lease".into());
                }
                self.oracle.admit(now_ns);
                false
            }
            Unknown::Refused { .. } => {
                self.oracle.refused += 1;
                false
            }
            Unknown::Wait => true,
        }
    }

    fn admit(&mut self, node: usize, taken: Taken, arrived_ns: u64) {
        let now_ns = self.now_ns;
        self.oracle.admit(now_ns);
        self.oracle.longest_wait_ns = self.oracle.longest_wait_ns.max(now_ns - arrived_ns);
        let present = self.nodes[node].as_mut().unwrap();
        match taken {
            Taken::Lease { .. } => self.oracle.spend(&mut present.purse, now_ns),
            Taken::Overdraft => {
                present.purse.incurred += 1;
                if self.scenario.when_down == OnRedisDown::Closed || self.scenario.strict {
                    self.oracle.offend("overdraft where there is none".into());
                }
                self.measure_depth();
            }
        }
    }

    /// The level that counts every debt incurred, told or not.
    fn measure_depth(&mut self) {
        let Some(key) = self.redis.key(KEY) else { return };
        let level = key.level_at(self.redis_now_us()) / UNITS;
        let incurred: u64 = self.nodes.iter().flatten().map(|node| node.purse.incurred).sum();
        let untold = i64::try_from(incurred).unwrap() - i64::try_from(self.oracle.applied).unwrap();
        let deep = level - untold;
        let most = i64::from(self.scenario.fleet) * i64::from(self.terms.overdraft);
        if self.oracle.is_deep_forbidden {
            self.oracle.deepest = self.oracle.deepest.min(deep);
            if deep < -most {
                self.oracle.offend(format!("the level counting all debts is {deep}, below −N·e = −{most}"));
            }
        }
    }

    fn end_waits(&mut self, node: usize, life: u64) {
        let now_ns = self.now_ns;
        let Some(present) = self.nodes[node].as_mut().filter(|present| present.life == life) else { return };
        while present.waiting.front().is_some_and(|arrived| arrived + WAIT_MAX_NS <= now_ns) {
            present.waiting.pop_front();
            self.oracle.refused += 1;
        }
        if present.waiting.is_empty() {
            present.syncer.stop_waiting(present.place);
        }
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

    fn break_something(&mut self, fault: Fault) {
        let now_ns = self.now_ns;
        match fault {
            Fault::Crash { node, back_ms } => {
                if let Some(gone) = self.nodes[node].take() {
                    self.forgetful = true;
                    self.oracle.is_deep_forbidden = false;
                    self.oracle.allowance += self.bound.crash(gone.is_alone);
                    self.at(now_ns + back_ms * MS_NS, Event::Start { node });
                }
            }
            Fault::Join { node } => self.start(node),
            Fault::CutOff { node, for_ms } => {
                if let Some(present) = self.nodes[node].as_mut() {
                    present.cut_until_ns = now_ns + for_ms * MS_NS;
                }
            }
            Fault::RedisDown { for_ms } => self.down_until_ns = now_ns + for_ms * MS_NS,
            Fault::Failover { lost_ms } => {
                if let Some(photograph) = self.photograph.take() {
                    self.redis = photograph;
                    self.forget();
                    self.oracle.allowance += self.bound.failover(Duration::from_millis(lost_ms));
                }
            }
            Fault::Wipe => {
                self.redis = Group::new();
                self.forget();
                self.oracle.allowance += self.bound.wipe();
            }
            Fault::ClockStep { by_ms } => {
                self.redis_step_us += by_ms * 1_000;
                // A window may begin anew, wherever the clock jumps.
                self.oracle.allowance += match u64::try_from(by_ms) {
                    _ if self.is_window() => f64::from(self.scenario.burst),
                    Ok(forward) => self.bound.clock_forward(Duration::from_millis(forward)),
                    Err(_) => 0.0,
                };
            }
            Fault::Pause { node, for_ms } => {
                if let Some(present) = self.nodes[node].as_mut() {
                    present.paused_until_ns = now_ns + for_ms * MS_NS;
                }
            }
        }
    }

    fn forget(&mut self) {
        self.forgetful = true;
        self.oracle.is_deep_forbidden = false;
    }

    fn heal(&mut self) {
        self.network = Network::CALM;
        self.down_until_ns = 0;
        self.nodes.iter_mut().flatten().for_each(|node| node.cut_until_ns = 0);
    }

    /// While some nodes have gone alone and others lease from Redis, both spend: r/N for each of the former.
    fn account(&mut self, until_ns: u64) {
        let alone = self.nodes.iter().flatten().filter(|node| node.is_alone).count();
        let others = self.nodes.iter().flatten().any(|node| !node.is_alone && node.syncer.is_admitted());
        // A window's count does not flow out while Redis is away, so there the share always comes on top.
        if alone > 0 && (others || self.is_window()) {
            let time = Duration::from_nanos(until_ns - self.accounted_ns);
            self.oracle.allowance += self.bound.stays_alone(u32::try_from(alone).unwrap(), time);
        }
        self.accounted_ns = until_ns;
    }

    fn note_reach(&mut self, node: usize) {
        let present = self.nodes[node].as_mut().unwrap();
        let is_alone = present.syncer.reach() != Reach::Up;
        if is_alone && !present.is_alone {
            self.oracle.allowance += self.bound.goes_alone();
            self.oracle.is_deep_forbidden = false;
            present.was_alone = true;
        }
        present.is_alone = is_alone;
    }

    /// Every token and every debt accounted for.
    fn audit(mut self) -> Outcome {
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

    fn is_window(&self) -> bool {
        self.scenario.algorithm != Algorithm::TokenBucket
    }

    /// Any true minute for the sliding window, each minute of Redis' clock for the fixed one: L + N·e and the faults' terms.
    fn audit_windows(&mut self) {
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

    fn outcome(mut self) -> Outcome {
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
