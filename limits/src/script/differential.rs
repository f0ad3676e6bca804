//! Random operations on the real functions in a real Redis against the model: equal answers and equal states, to the unit. The
//! clock is a key that the test sets; the library that ships has no such door, only the test's copy of its source.

use std::time::Instant;

use redis::Value;

use super::tests::{Redis, fcall};
use super::{EXCHANGE, Lane, SEED, exchange, library, read_reply, seed, state_key};
use crate::central::Group;
use crate::central::packed::without_life;
use crate::policy::{Algorithm, BURST_MAX, PER_MINUTE_MAX};
use crate::simulation::Dice;
use crate::terms::UNITS;
use crate::wire::{ASKS_MAX, Ask, QuotaAsk, Receipt, Refund, Reply, Request, Verdict};

/// Operations on keys in an ordinary run.
const OPERATIONS: u64 = 20_000;
const START_US: u64 = 1_790_000_000_000_000;
const KEYS: u64 = 24;
const NODES: u64 = 4;
/// The names of nodes, and keys, may be any number.
const FIRST_NODE: u64 = u64::MAX - NODES;
/// Calls of one pipeline.
const CALLS: usize = 200;
const RECEIPTS: usize = 12;

/// The source with its one look at the clock turned to a key.
fn library_with_a_clock() -> String {
    let look = "local time = redis.call('TIME')\n";
    assert_eq!(library().matches("TIME").count(), 1);
    assert_eq!(library().matches(look).count(), 1);
    library().replacen(look, "local time = { 0, redis.call('GET', 'clock') }\n", 1)
}

/// A key as its nodes know it.
#[derive(Clone)]
struct Key {
    ask: Ask,
    receipts: Vec<(Receipt, u32)>,
    period: u32,
}

/// A node's numbers.
#[derive(Clone, Copy, Default)]
struct Node {
    epoch: u64,
    birth: u64,
    send: u64,
    debts: u64,
}

/// What Redis has to say and hold after one call.
struct Expected {
    call: String,
    reply: Result<Reply, i64>,
    states: Vec<Option<Vec<u8>>>,
}

struct Run {
    dice: Dice,
    model: Group,
    now_us: u64,
    keys: Vec<Key>,
    nodes: Vec<Node>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Dice::new(seed);
        let keys =
            (0..KEYS).map(|key| Key { ask: terms(&mut dice, key, 1), receipts: Vec::new(), period: 1 }).collect();
        Run { dice, model: Group::new(), now_us: START_US, keys, nodes: vec![Node::default(); 4] }
    }

    fn pass(&mut self) {
        let dice = &mut self.dice;
        let minute = 60_000_000;
        let (ahead, back) = match dice.below(100) {
            0..30 => (0, 0),
            30..60 => (dice.below(3_000), 0),
            60..82 => (dice.below(300_000), 0),
            82..92 => (dice.below(6_000_000), 0),
            92..95 => (dice.below(150_000_000), 0),
            95..97 => (minute - self.now_us % minute - dice.below(2), 0),
            97 => (dice.below(2 * 86_400_000_000), 0),
            98 => (0, dice.below(1_000)),
            _ => (0, dice.below(150_000_000)),
        };
        self.now_us = self.now_us + ahead - back;
    }

    fn ask(&mut self, key: u64) -> Ask {
        let dice = &mut self.dice;
        let Some(known) = self.keys.get_mut(usize::try_from(key).unwrap()) else { panic!("{key}") };
        let mut ask = known.ask;
        match dice.below(100) {
            0..4 => {
                known.ask = terms(dice, key, ask.revision + 1);
                ask = known.ask;
            }
            4..8 => {
                known.ask.revision += 1;
                ask = known.ask;
            }
            8..12 => {
                let behind = dice.below(2);
                ask = terms(dice, key, ask.revision.saturating_sub(behind));
            }
            _ => {}
        }
        ask.debt = if dice.permille(600) { 0 } else { count(dice, ask.burst) };
        ask.want = if dice.permille(200) { 0 } else { count(dice, ask.burst) };
        if !known.receipts.is_empty() && dice.permille(400) {
            let nth = usize::try_from(dice.below(u64::try_from(known.receipts.len()).unwrap())).unwrap();
            let (mut receipt, tokens) = known.receipts[nth];
            match dice.below(20) {
                0 => receipt.granted_us = receipt.granted_us + dice.below(2_000_000) - 1_000_000,
                1 => receipt.credited += dice.below(1_000),
                2 => {
                    receipt.level =
                        i64::from(count(dice, ask.burst).min(BURST_MAX)) * UNITS - i64::try_from(dice.below(9)).unwrap()
                }
                _ => {}
            }
            ask.refund = Some(Refund { tokens: tokens / u32::try_from(1 + dice.below(3)).unwrap(), receipt });
        }
        if dice.permille(500) {
            known.period += u32::from(dice.permille(5));
            let period = known.period - u32::from(dice.permille(50));
            ask.quota =
                Some(QuotaAsk { period, included: u64::from(count(dice, BURST_MAX)), hard: dice.permille(500) });
        }
        ask
    }

    fn request(&mut self) -> Request {
        let nth = usize::try_from(self.dice.below(NODES)).unwrap();
        let asks = match self.dice.below(50) {
            0 => ASKS_MAX,
            _ => usize::try_from(self.dice.below(6)).unwrap(),
        };
        let first = self.dice.below(KEYS);
        let asks = (0..asks).map(|more| self.ask((first + u64::try_from(more).unwrap()) % KEYS)).collect();
        let dice = &mut self.dice;
        let node = &mut self.nodes[nth];
        let number = FIRST_NODE + u64::try_from(nth).unwrap();
        if node.epoch == 0 || dice.permille(15) {
            node.birth = if dice.permille(600) { dice.next() } else { node.birth };
            return Request { node: number, epoch: 0, birth: node.birth, send: node.send, debts: 0, asks };
        }
        node.send += u64::from(!dice.permille(40));
        node.debts += u64::from(dice.permille(600));
        let (mut epoch, mut send, mut debts) = (node.epoch, node.send, node.debts);
        match dice.below(60) {
            0 => epoch += 1 + dice.below(2),
            1 => epoch = epoch.saturating_sub(1).max(1),
            2 => send = send.saturating_sub(dice.below(4)),
            3 => debts = debts.saturating_sub(dice.below(4)),
            _ => {}
        }
        Request { node: number, epoch, birth: node.birth, send, debts, asks }
    }

    /// Carries it out on the model; what Redis has to say.
    fn apply(&mut self, request: &Request) -> Reply {
        let reply = self.model.apply(request, self.now_us);
        let nth = usize::try_from(request.node - FIRST_NODE).unwrap();
        if let Verdict::Admitted { epoch } = reply.verdict
            && epoch != self.nodes[nth].epoch
        {
            self.nodes[nth] = Node { epoch, birth: request.birth, send: 0, debts: 0 };
        }
        if reply.verdict == Verdict::Superseded {
            self.nodes[nth].epoch = 0;
        }
        for grant in reply.grants.iter().filter(|grant| grant.tokens > 0) {
            let receipts = &mut self.keys[usize::try_from(grant.key).unwrap()].receipts;
            receipts.push((
                Receipt { granted_us: reply.now_us, level: grant.level, credited: grant.credited },
                grant.tokens,
            ));
            if receipts.len() > RECEIPTS {
                receipts.remove(0);
            }
        }
        reply
    }

    /// Adds one call to the pipeline, with a look at what it leaves behind; how many operations it was.
    fn step(&mut self, pipe: &mut redis::Pipeline) -> (Expected, u64) {
        self.pass();
        pipe.cmd("SET").arg("clock").arg(self.now_us).ignore();
        if self.dice.permille(30) {
            let key = self.dice.below(KEYS);
            let period = self.keys[usize::try_from(key).unwrap()].period;
            let used = u64::from(count(&mut self.dice, BURST_MAX));
            let call = seed("rl", key, period, used);
            pipe.add_command(fcall(SEED, &call)).cmd("MGET").arg(state_key("rl", key));
            let lost = self.model.seed_quota(key, period, used, self.now_us);
            let states = vec![self.model.packed_state(key)];
            let call = format!("seed {key} {period} {used} at {}", self.now_us);
            return (Expected { call, reply: Err(i64::from(lost)), states }, 1);
        }
        let request = self.request();
        let call = exchange("rl", Lane::Whole, &request);
        pipe.add_command(fcall(EXCHANGE, &call)).cmd("MGET").arg(&call.keys);
        let reply = self.apply(&request);
        let mut states = vec![self.model.packed_link(request.node)];
        states.extend(request.asks.iter().map(|ask| self.model.packed_state(ask.key)));
        let operations = u64::try_from(request.asks.len()).unwrap().max(1);
        (Expected { call: format!("{request:?} at {}", self.now_us), reply: Ok(reply), states }, operations)
    }
}

/// Terms as a policy could have them.
fn terms(dice: &mut Dice, key: u64, revision: u64) -> Ask {
    let algorithm = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow];
    let algorithm = algorithm[usize::try_from(dice.below(3)).unwrap()];
    let burst = count(dice, BURST_MAX).clamp(1, BURST_MAX);
    let per_minute = match algorithm {
        Algorithm::TokenBucket => count(dice, PER_MINUTE_MAX).clamp(1, PER_MINUTE_MAX),
        Algorithm::SlidingWindow | Algorithm::FixedWindow => burst,
    };
    Ask { key, revision, algorithm, per_minute, burst, debt: 0, want: 0, refund: None, quota: None }
}

/// Every size is as likely as any other; now and then far beyond.
fn count(dice: &mut Dice, around: u32) -> u32 {
    let bits = dice.below(u64::from(around.max(1).ilog2()) + 2);
    let count = dice.below(1 << bits);
    if dice.permille(5) { u32::MAX } else { u32::try_from(count).unwrap_or(u32::MAX) }
}

/// What differs, if anything.
fn compare(expected: &Expected, said: &Value, held: &Value) -> Option<String> {
    let call = &expected.call;
    match (&expected.reply, said) {
        (Ok(reply), Value::BulkString(bytes)) => match read_reply(bytes) {
            Ok(said) if said == *reply => {}
            said => return Some(format!("{said:?}\ninstead of {reply:?}\nto {call}")),
        },
        (Err(lost), Value::Int(said)) if lost == said => {}
        (_, other) => return Some(format!("{other:?} to {call}")),
    }
    let held: Vec<Option<Vec<u8>>> = redis::from_redis_value(held.clone()).unwrap();
    let held: Vec<_> = held.into_iter().map(|state| state.map(without_life)).collect();
    (held != expected.states).then(|| format!("{held:?}\ninstead of {:?}\nafter {call}", expected.states))
}

/// Operations and calls that were made, and what differed first.
fn differ(redis: &mut Redis, seed: u64, operations: u64) -> (u64, usize, Option<String>) {
    let mut run = Run::new(seed);
    let (mut done, mut calls) = (0, 0);
    while done < operations {
        let mut pipe = redis::pipe();
        let mut expected = Vec::new();
        for _ in 0..CALLS {
            let (one, operations) = run.step(&mut pipe);
            expected.push(one);
            done += operations;
        }
        calls += CALLS;
        let answers: Vec<Value> = match pipe.query(&mut redis.connection) {
            Ok(answers) => answers,
            Err(error) => return (done, calls, Some(error.to_string())),
        };
        assert_eq!(answers.len(), 2 * CALLS);
        let differs = |(one, answer): (&Expected, &[Value])| compare(one, &answer[0], &answer[1]);
        if let Some(difference) = expected.iter().zip(answers.chunks(2)).find_map(differs) {
            return (done, calls, Some(difference));
        }
    }
    (done, calls, None)
}

/// `LIMITS_OPERATIONS=1000000` for the long run, `LIMITS_SEED` for another one.
#[test]
fn the_real_functions_do_to_the_unit_what_the_model_does() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut redis = Redis::start(&library_with_a_clock());
    let began = Instant::now();
    let operations = number("LIMITS_OPERATIONS").unwrap_or(OPERATIONS);
    let (done, calls, difference) = differ(&mut redis, number("LIMITS_SEED").unwrap_or(1), operations);
    if let Some(difference) = difference {
        panic!("{difference}");
    }
    eprintln!("{done} operations in {calls} calls, all equal, in {:?}", began.elapsed());
}

/// Slips of the pen in the script, each of which the comparison has to notice.
const SLIPS: [(&str, &str); 16] = [
    ("if not debts_are_new then debt = 0 end", ""),
    ("debts > told, pack(", "debts >= told, pack("),
    ("if send <= last then", "if send < last then"),
    ("if now >= expires then known = nil end", ""),
    ("now - granted <= REFUND_AGE_MAX_US", "now - granted <= 2 * REFUND_AGE_MAX_US"),
    ("peak = min(max(peak, min(full - used, full)), full)", "peak = min(full - used, full)"),
    ("born, changed = now, true\n      elseif", "changed = true\n      elseif"),
    ("elseif revision > known then", "elseif revision ~= known then"),
    ("if kind ~= algorithm or size ~= burst or (kind == BUCKET and rate ~= per_minute) then", "if true then"),
    ("known, changed = revision, true", "known = revision"),
    ("if period > month then", "if period ~= month then"),
    ("      spent = spent + debt\n", ""),
    ("USED_BURSTS_MAX * size * UNITS)", "size * UNITS)"),
    ("ceil((units - whole * size) * burst / size)", "floor((units - whole * size) * burst / size)"),
    ("moved = mark ~= was", "moved = false"),
    ("said_before(keys, held, values, lives, ask)\n      held", "value\n      held"),
];

#[test]
fn every_slip_in_the_script_is_noticed() {
    for (right, wrong) in SLIPS {
        let library = library_with_a_clock();
        assert_eq!(library.matches(right).count(), 1, "{right}");
        let mut redis = Redis::start(&library.replacen(right, wrong, 1));
        let (_, _, difference) = differ(&mut redis, 1, OPERATIONS);
        assert!(difference.is_some(), "nobody noticed {right} -> {wrong}");
    }
}
