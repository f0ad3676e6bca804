//! How often a fleet asks Redis: operations a request on a Zipf trace of many keys, for 3, 10 and 100 nodes, in virtual time with
//! the real state machines of both sides. Measures; judges nothing.
//!
//!     cargo run -p apihub-limits --example operations                 # 50,000 keys, 1,000 requests a second a node
//!     KEYS=5000 PER_NODE=10000 SECONDS=5 cargo run -p apihub-limits --example operations
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)] // A program for benchmarks alone.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Of numbers that it has made itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use limits::central::Group;
use limits::ledger::Unknown;
use limits::policy::{Algorithm, Policy};
use limits::slot::{Slot, Take};
use limits::syncer::{Place, Syncer};
use limits::terms::{MS_NS, US_NS, WAIT_MAX_NS};
use limits::wire::{Reply, Request, Verdict};

/// One way, in microseconds.
const DELAY_US: (u64, u64) = (150, 400);
/// Redis' clock at the start.
const EPOCH_US: u64 = 1_790_000_000_000_000;
/// Not counted: until everybody knows everybody.
const WARM_UP_NS: u64 = 1_000 * MS_NS;
/// A plan sells at least this much more than its key uses on average.
const HEADROOM: f64 = 1.25;
/// What plans sell, per minute; a bucket of a tenth.
const PLANS: [u32; 6] = [60, 600, 6_000, 60_000, 600_000, 6_000_000];

struct Trace {
    keys: usize,
    per_node: u64,
    seconds: u64,
}

#[derive(Clone, Copy)]
struct Run {
    nodes: usize,
    /// Nodes that a key is routed to.
    subset: usize,
}

#[derive(Debug)]
enum Event {
    Wake { node: usize, at_ns: u64 },
    WaitEnd { node: usize },
    AtRedis { node: usize, request: Request },
    AtNode { node: usize, reply: Reply },
}

struct Node {
    syncer: Syncer,
    /// Keys that this node has met.
    slots: BTreeMap<usize, (Place, Arc<Slot>)>,
    waiting: Vec<(usize, u64)>,
    wake_at_ns: Option<u64>,
}

#[derive(Default)]
struct Figures {
    requests: u64,
    refused: u64,
    waits: u64,
    operations: u64,
    messages: u64,
}

struct World<'a> {
    trace: &'a Trace,
    run: Run,
    plans: Vec<Policy>,
    now_ns: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    serial: u64,
    dice: Dice,
    nodes: Vec<Node>,
    redis: Group,
    figures: Figures,
}

fn main() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let trace = Trace {
        keys: usize::try_from(number("KEYS", 50_000)).unwrap(),
        per_node: number("PER_NODE", 1_000),
        seconds: number("SECONDS", 10),
    };
    println!(
        "{} keys by Zipf's law, {} requests a second a node, {} s\n\
         nodes  routed to  requests    refused  waited   operations  a request  messages  keys a message",
        trace.keys, trace.per_node, trace.seconds
    );
    for (nodes, subset) in [(3, 3), (10, 10), (100, 100), (100, 8)] {
        let run = Run { nodes, subset };
        let figures = World::new(&trace, run).carry_out();
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        println!(
            "{nodes:>5}  {subset:>9}  {:>8}  {:>7.2} %  {:>5.2} %  {:>10}  {:>9.3}  {:>8}  {:>14.1}",
            figures.requests,
            100.0 * share(figures.refused, figures.requests),
            100.0 * share(figures.waits, figures.requests),
            figures.operations,
            share(figures.operations, figures.requests),
            figures.messages,
            share(figures.operations, figures.messages),
        );
    }
}

impl<'a> World<'a> {
    fn new(trace: &'a Trace, run: Run) -> World<'a> {
        let total = (trace.per_node * run.nodes as u64) as f64;
        let harmonic: f64 = (1..=trace.keys).map(|rank| 1.0 / rank as f64).sum();
        let plan = |rank: usize| {
            let per_minute = 60.0 * HEADROOM * total / harmonic / rank as f64;
            let sold = PLANS.into_iter().find(|sold| f64::from(*sold) >= per_minute).unwrap_or(PLANS[PLANS.len() - 1]);
            Policy::new(1, Algorithm::TokenBucket, sold, (sold / 10).max(1)).unwrap()
        };
        let node = |name: u64| Node {
            syncer: Syncer::new(name, 1),
            slots: BTreeMap::new(),
            waiting: Vec::new(),
            wake_at_ns: None,
        };
        World {
            trace,
            run,
            plans: (1..=trace.keys).map(plan).collect(),
            now_ns: 0,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            serial: 0,
            dice: Dice(1),
            nodes: (1..=run.nodes as u64).map(node).collect(),
            redis: Group::new(),
            figures: Figures::default(),
        }
    }

    fn carry_out(mut self) -> Figures {
        (0..self.run.nodes).for_each(|node| self.pump(node));
        let mean_ns = 1_000 * MS_NS / (self.trace.per_node * self.run.nodes as u64);
        let zipf = Zipf::new(self.trace.keys);
        let mut arrival_ns = 100 * MS_NS;
        while arrival_ns < self.trace.seconds * 1_000 * MS_NS + WARM_UP_NS {
            while let Some(Reverse((at_ns, serial))) = self.events.peek().copied().filter(|next| next.0.0 <= arrival_ns)
            {
                self.events.pop();
                self.now_ns = at_ns;
                let event = self.bodies.remove(&serial).unwrap();
                self.handle(event);
            }
            self.now_ns = arrival_ns;
            let key = zipf.draw(&mut self.dice);
            let place = self.dice.below(self.run.subset as u64) as usize;
            // A key's nodes lie beside each other.
            let node = (key.wrapping_mul(7_919) + place) % self.run.nodes;
            self.arrive(node, key);
            arrival_ns += self.dice.below(2 * mean_ns + 1);
        }
        self.figures
    }

    fn counts(&self) -> bool {
        self.now_ns >= WARM_UP_NS
    }

    fn at(&mut self, at_ns: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at_ns.max(self.now_ns), self.serial)));
        self.bodies.insert(self.serial, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake { node, at_ns } => {
                if self.nodes[node].wake_at_ns == Some(at_ns) {
                    self.nodes[node].wake_at_ns = None;
                    self.pump(node);
                }
            }
            Event::WaitEnd { node } => self.end_waits(node),
            Event::AtRedis { node, request } => {
                let reply = self.redis.apply(&request, EPOCH_US + self.now_ns / US_NS);
                let at_ns = self.now_ns + self.delay_ns();
                self.at(at_ns, Event::AtNode { node, reply });
            }
            Event::AtNode { node, reply } => {
                let heard = self.nodes[node].syncer.hear(&reply, self.now_ns);
                assert!(heard && matches!(reply.verdict, Verdict::Done | Verdict::Admitted { .. }), "a calm network");
                for (key, arrived_ns) in std::mem::take(&mut self.nodes[node].waiting) {
                    if self.decide(node, key, false) {
                        self.nodes[node].waiting.push((key, arrived_ns));
                    }
                }
                self.pump(node);
            }
        }
    }

    fn arrive(&mut self, node: usize, key: usize) {
        self.figures.requests += u64::from(self.counts());
        let (policy, fleet) = (self.plans[key], self.run.subset as u32);
        let present = &mut self.nodes[node];
        if !present.slots.contains_key(&key) {
            let slot = Arc::new(Slot::new());
            let place = present.syncer.open(key as u64 * 2, Arc::clone(&slot), policy, fleet);
            present.slots.insert(key, (place, slot));
        }
        if self.decide(node, key, true) {
            self.figures.waits += u64::from(self.counts());
            self.nodes[node].waiting.push((key, self.now_ns));
            self.at(self.now_ns + WAIT_MAX_NS, Event::WaitEnd { node });
        }
        self.pump(node);
    }

    /// Decides one request; true: it has to wait.
    fn decide(&mut self, node: usize, key: usize, first: bool) -> bool {
        let (now_ns, counts) = (self.now_ns, self.counts());
        let present = &mut self.nodes[node];
        let (place, slot) = present.slots.get(&key).unwrap();
        let taken = if first { slot.take(now_ns) } else { slot.take_again(now_ns) };
        match taken {
            Take::Admitted { wake, .. } => {
                if wake {
                    present.syncer.call(*place);
                }
                false
            }
            Take::Denied { .. } => {
                self.figures.refused += u64::from(counts);
                false
            }
            Take::Unknown => match present.syncer.decide_unknown(*place, now_ns) {
                Unknown::Admitted => false,
                Unknown::Wait => true,
                Unknown::Refused { .. } => {
                    self.figures.refused += u64::from(counts);
                    false
                }
            },
        }
    }

    fn end_waits(&mut self, node: usize) {
        let (now_ns, counts) = (self.now_ns, self.counts());
        let present = &mut self.nodes[node];
        let (late, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut present.waiting).into_iter().partition(|(_, arrived)| arrived + WAIT_MAX_NS <= now_ns);
        present.waiting = waiting;
        for (key, _) in late {
            self.figures.refused += u64::from(counts);
            if present.waiting.iter().all(|(other, _)| *other != key) {
                present.syncer.stop_waiting(present.slots[&key].0);
            }
        }
    }

    fn pump(&mut self, node: usize) {
        let now_ns = self.now_ns;
        if let Some(request) = self.nodes[node].syncer.poll(now_ns) {
            if self.counts() {
                self.figures.operations += request.asks.len() as u64;
                self.figures.messages += 1;
            }
            let at_ns = now_ns + self.delay_ns();
            self.at(at_ns, Event::AtRedis { node, request });
        }
        let wake = self.nodes[node].syncer.wake_at_ns().map(|at_ns| at_ns.max(now_ns + 5 * US_NS));
        if let Some(at_ns) = wake.filter(|at_ns| self.nodes[node].wake_at_ns.is_none_or(|planned| *at_ns < planned)) {
            self.nodes[node].wake_at_ns = Some(at_ns);
            self.at(at_ns, Event::Wake { node, at_ns });
        }
    }

    fn delay_ns(&mut self) -> u64 {
        (DELAY_US.0 + self.dice.below(DELAY_US.1 - DELAY_US.0 + 1)) * US_NS
    }
}

/// Rank k is drawn in proportion to 1/k.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(keys: usize) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Zipf { sums: sums.collect() }
    }

    fn draw(&self, dice: &mut Dice) -> usize {
        let all = self.sums[self.sums.len() - 1];
        let point = all * dice.below(1 << 53) as f64 / (1_u64 << 53) as f64;
        self.sums.partition_point(|sum| *sum <= point).min(self.sums.len() - 1)
    }
}

/// Splitmix64: the same trace in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}
