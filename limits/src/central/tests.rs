//! The model of Redis against exact arithmetic, and against clients that do their worst within the protocol.

use proptest::prelude::*;

use super::*;
use crate::policy::{Algorithm, BURST_MAX, PER_MINUTE_MAX};
use crate::terms::LEASE_MAX_US;
use crate::wire::{QuotaAsk, Receipt, Refund};

const START_US: u64 = 1_790_000_000_000_000;
const EXACT_MAX: i64 = 1 << 53;

fn ask(per_minute: u32, burst: u32) -> Ask {
    Ask {
        key: 1,
        revision: 1,
        algorithm: Algorithm::TokenBucket,
        per_minute,
        burst,
        debt: 0,
        want: 0,
        refund: None,
        quota: None,
    }
}

/// A client that numbers its messages well.
struct Client {
    node: u64,
    epoch: u64,
    send: u64,
}

impl Client {
    fn new(group: &mut Group, node: u64, now_us: u64) -> Client {
        Client::born(group, node, 0, now_us)
    }

    fn born(group: &mut Group, node: u64, birth: u64, now_us: u64) -> Client {
        let hello = Request { node, epoch: 0, birth, send: 1, debts: 0, asks: Vec::new() };
        match group.apply(&hello, now_us).verdict {
            Verdict::Admitted { epoch } => Client { node, epoch, send: 1 },
            other => panic!("{other:?}"),
        }
    }

    fn say(&mut self, group: &mut Group, ask: Ask, now_us: u64) -> Grant {
        self.send += 1;
        let request = Request {
            node: self.node,
            epoch: self.epoch,
            birth: 0,
            send: self.send,
            debts: self.send,
            asks: vec![ask],
        };
        group.apply(&request, now_us).grants[0]
    }
}

#[test]
fn grants_half_of_what_is_there_and_at_least_one() {
    let mut group = Group::new();
    let mut client = Client::new(&mut group, 1, START_US);
    let mut granted = Vec::new();
    for _ in 0..8 {
        granted.push(client.say(&mut group, Ask { want: 40, ..ask(60, 20) }, START_US).tokens);
    }
    assert_eq!(granted, [10, 5, 2, 1, 1, 1, 0, 0]);
}

#[test]
fn a_debt_is_debited_once_however_often_it_comes() {
    let mut group = Group::new();
    let client = Client::new(&mut group, 1, START_US);
    let mut request = Request {
        node: 1,
        epoch: client.epoch,
        birth: 0,
        send: 2,
        debts: 1,
        asks: vec![Ask { debt: 3, ..ask(60, 20) }],
    };
    assert_eq!(group.apply(&request, START_US).grants[0].level, 17 * UNITS);
    assert_eq!(group.apply(&request, START_US).verdict, Verdict::Stale);
    request.send = 3;
    assert_eq!(group.apply(&request, START_US).grants[0].level, 17 * UNITS);
    request.debts = 2;
    request.send = 4;
    assert_eq!(group.apply(&request, START_US).grants[0].level, 14 * UNITS);
}

#[test]
fn an_earlier_process_is_not_heard_after_the_later_one_began() {
    let mut group = Group::new();
    let old = Client::new(&mut group, 1, START_US);
    assert_eq!(Client::new(&mut group, 1, START_US).epoch, old.epoch, "a doubled greeting");
    let new = Client::born(&mut group, 1, 77, START_US);
    assert_eq!(new.epoch, old.epoch + 1);
    let late = Request {
        node: 1,
        epoch: old.epoch,
        birth: 0,
        send: 99,
        debts: 99,
        asks: vec![Ask { debt: 5, ..ask(60, 20) }],
    };
    assert_eq!(group.apply(&late, START_US).verdict, Verdict::Superseded);
    assert!(group.key(1).is_none());
}

#[test]
fn a_clock_set_back_neither_locks_out_nor_gives_away() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let mut group = Group::new();
        let mut client = Client::new(&mut group, 1, START_US);
        let terms = Ask { algorithm, ..ask(60, 60) };
        let before = client.say(&mut group, Ask { want: 30, ..terms }, START_US).level;
        let after = client.say(&mut group, terms, START_US - 3_600_000_000).level;
        assert_eq!(before, after, "{algorithm:?}");
        let later = client.say(&mut group, terms, START_US - 3_600_000_000 + 70_000_000).level;
        assert_eq!(later, 60 * UNITS, "{algorithm:?}");
    }
}

#[test]
fn a_refund_is_dropped_when_it_is_old_or_from_before_the_key() {
    let mut group = Group::new();
    let mut client = Client::new(&mut group, 1, START_US);
    let grant = client.say(&mut group, Ask { want: 10, ..ask(60, 20) }, START_US);
    let receipt = Receipt { granted_us: START_US, level: grant.level, credited: grant.credited };
    let back = Ask { refund: Some(Refund { tokens: 10, receipt }), ..ask(60, 20) };
    let mut late = group.clone();
    assert_eq!(client.say(&mut late, back, START_US + 800_000).credited, 0);
    let mut wiped = Group::new();
    assert_eq!(client.say(&mut wiped, back, START_US + 1).credited, 0);
    assert_eq!(client.say(&mut group, back, START_US + 100_000).credited, 9, "what has flowed in counts");
}

#[test]
fn a_newer_policy_keeps_the_filled_fraction_and_an_older_one_is_overruled() {
    let mut group = Group::new();
    let mut client = Client::new(&mut group, 1, START_US);
    client.say(&mut group, Ask { want: 10, ..ask(60, 20) }, START_US);
    let raised = Ask { revision: 2, ..ask(600, 200) };
    assert_eq!(client.say(&mut group, raised, START_US).level, 100 * UNITS);
    assert_eq!(client.say(&mut group, ask(60, 20), START_US).level, 100 * UNITS);
    let window = Ask { revision: 3, algorithm: Algorithm::SlidingWindow, ..ask(60, 60) };
    assert_eq!(client.say(&mut group, window, START_US).level, 30 * UNITS);
}

#[test]
fn a_later_number_of_the_same_policy_changes_nothing() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let mut group = Group::new();
        let mut client = Client::new(&mut group, 1, START_US);
        let terms = Ask { algorithm, ..ask(60, 60) };
        let granted = client.say(&mut group, Ask { want: 20, ..terms }, START_US);
        let receipt = Receipt { granted_us: START_US, level: granted.level, credited: granted.credited };
        // Long enough for a sliding window to have moved on; within the same minute of Redis' clock.
        let later_us = START_US + 11_000_000;
        let mut same = group.clone();
        let told = client.say(&mut same, Ask { revision: 1, ..terms }, later_us);
        client.send -= 1;
        let newer = Ask { revision: 2, ..terms };
        assert_eq!(client.say(&mut group, newer, later_us), told, "{algorithm:?}");
        // What the window held leaves when it would have left, and a lease of before can come back.
        let leaves_us = START_US + 66_000_000;
        assert_eq!(client.say(&mut group, newer, leaves_us).level, 60 * UNITS, "{algorithm:?}");
        let mut group = Group::new();
        let mut client = Client::new(&mut group, 1, START_US);
        client.say(&mut group, Ask { want: 20, ..terms }, START_US);
        let refund = Some(Refund { tokens: 5, receipt });
        assert_eq!(client.say(&mut group, Ask { refund, ..newer }, START_US + 1_000).credited, 5, "{algorithm:?}");
    }
}

#[test]
fn the_month_constrains_the_rate_and_is_asked_for_when_lost() {
    let month = |period| Some(QuotaAsk { period, included: 10, hard: true });
    let mut group = Group::new();
    let mut client = Client::new(&mut group, 1, START_US);
    let terms = Ask { want: 8, quota: month(5), ..ask(6_000, 100) };
    let first = client.say(&mut group, terms, START_US);
    assert_eq!((first.tokens, first.quota), (8, Some(QuotaLeft::Unseeded)));
    group.seed_quota(1, 5, 3, START_US);
    let second = client.say(&mut group, terms, START_US);
    assert_eq!((second.tokens, second.quota), (3, Some(QuotaLeft::Left(4))));
    group.seed_quota(1, 5, 0, START_US);
    let owed = client.say(&mut group, Ask { debt: 5, ..terms }, START_US);
    assert_eq!((owed.tokens, owed.quota), (0, Some(QuotaLeft::Left(-1))));
    let next = client.say(&mut group, Ask { quota: month(6), ..terms }, START_US);
    assert_eq!((next.tokens, next.quota), (5, Some(QuotaLeft::Left(5))));
    let stale = client.say(&mut group, Ask { want: 0, ..terms }, START_US);
    assert_eq!(stale.quota, Some(QuotaLeft::Left(5)), "a node that is behind counts into the present period");
}

#[test]
fn the_largest_policy_stays_exact_in_doubles() {
    let mut group = Group::new();
    let mut client = Client::new(&mut group, 1, START_US);
    for step in 0..200_u64 {
        let terms = ask(PER_MINUTE_MAX, BURST_MAX);
        let grant = client.say(&mut group, Ask { debt: BURST_MAX, want: 1, ..terms }, START_US + step);
        assert!(grant.level.abs() < EXACT_MAX && i64::try_from(grant.wait_us).unwrap() < EXACT_MAX);
        assert!(grant.level >= -2 * i64::from(BURST_MAX) * UNITS);
    }
}

/// Clients without overdraft that spend any time before H and give back anything at any time.
#[derive(Clone, Debug)]
enum Move {
    Pass { us: u64 },
    Lease { want: u32 },
    Spend { nth: usize, tokens: u32 },
    Return { nth: usize, tokens: u32, late_us: u64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0..200_000u64).prop_map(|us| Move::Pass { us }),
        4 => (1..80u32).prop_map(|want| Move::Lease { want }),
        1 => (0..8usize, 1..80u32).prop_map(|(nth, tokens)| Move::Spend { nth, tokens }),
        4 => (0..8usize, 1..80u32, prop_oneof![Just(0u64), 0..900_000u64])
            .prop_map(|(nth, tokens, late_us)| Move::Return { nth, tokens, late_us }),
    ];
    prop::collection::vec(one, 1..160)
}

struct Worst {
    group: Group,
    client: Client,
    terms: Ask,
    now_us: u64,
    /// (receipt, tokens left)
    held: Vec<(Receipt, u32)>,
    /// Refunds under way.
    late: Vec<(u64, Refund)>,
    level: f64,
    peak: f64,
    spent_us: u64,
}

impl Worst {
    fn new(per_minute: u32, burst: u32) -> Worst {
        let mut group = Group::new();
        let client = Client::new(&mut group, 1, START_US);
        Worst {
            group,
            client,
            terms: ask(per_minute, burst),
            now_us: START_US,
            held: Vec::new(),
            late: Vec::new(),
            level: 0.0,
            peak: 0.0,
            spent_us: START_US,
        }
    }

    fn rate(&self) -> f64 {
        f64::from(self.terms.per_minute) / 60e6
    }

    fn make(&mut self, one: &Move) {
        match *one {
            Move::Pass { us } => self.pass(us),
            Move::Lease { want } => {
                let grant = self.client.say(&mut self.group, Ask { want, ..self.terms }, self.now_us);
                let receipt = Receipt { granted_us: self.now_us, level: grant.level, credited: grant.credited };
                if grant.tokens > 0 {
                    self.held.push((receipt, grant.tokens));
                }
            }
            Move::Spend { nth, tokens } => self.spend(nth, tokens),
            Move::Return { nth, tokens, late_us } => {
                if let Some(lease) = self.held.get_mut(nth) {
                    let refund = Refund { tokens: tokens.min(lease.1), receipt: lease.0 };
                    lease.1 -= refund.tokens;
                    self.late.push((self.now_us + late_us, refund));
                    self.pass(0);
                }
            }
        }
    }

    fn pass(&mut self, us: u64) {
        let end_us = self.now_us + us;
        self.late.sort_by_key(|(at, _)| *at);
        while let Some((at, refund)) = self.late.first().copied().filter(|(at, _)| *at <= end_us) {
            self.late.remove(0);
            self.client.say(&mut self.group, Ask { refund: Some(refund), ..self.terms }, at);
        }
        self.now_us = end_us;
        let now_us = self.now_us;
        self.held.retain(|(receipt, left)| *left > 0 && receipt.granted_us + LEASE_MAX_US >= now_us);
    }

    fn spend(&mut self, nth: usize, tokens: u32) {
        let Some(lease) = self.held.get_mut(nth) else { return };
        let spent = tokens.min(lease.1);
        lease.1 -= spent;
        let leaked = std::time::Duration::from_micros(self.now_us - self.spent_us).as_secs_f64() * 1e6 * self.rate();
        self.level = (self.level - leaked).max(0.0) + f64::from(spent);
        self.spent_us = self.now_us;
        self.peak = self.peak.max(self.level);
    }

    /// B + r·H: what may be spent in an instant.
    fn offence(mut self) -> Option<String> {
        for nth in 0..self.held.len() {
            self.spend(nth, u32::MAX);
        }
        let bound = f64::from(self.terms.burst) + 0.5e6 * self.rate() + 1.0;
        (self.peak > bound).then(|| format!("peak {} above {bound}", self.peak))
    }
}

/// Hoards: whatever has flowed in is leased, and each lease is exchanged for a younger one before it ends, over and over.
pub(crate) fn chain_of_refunds() -> Option<String> {
    let mut worst = Worst::new(6_000, 100);
    let lease_all = |worst: &mut Worst| (0..8).for_each(|_| worst.make(&Move::Lease { want: 80 }));
    for _ in 0..30 {
        lease_all(&mut worst);
        worst.make(&Move::Pass { us: 240_000 });
        lease_all(&mut worst);
        while worst.held.first().is_some_and(|(receipt, _)| receipt.granted_us + 240_000 < worst.now_us) {
            worst.make(&Move::Return { nth: 0, tokens: 80, late_us: 0 });
            lease_all(&mut worst);
        }
    }
    worst.offence()
}

#[test]
fn a_chain_of_refunds_makes_no_tokens_out_of_time() {
    assert_eq!(chain_of_refunds(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_client_within_the_protocol_spends_more_than_burst_rate_and_lag(
        per_minute in 60..24_000u32, burst in 1..200u32, moves in moves()
    ) {
        let mut worst = Worst::new(per_minute, burst);
        moves.iter().for_each(|one| worst.make(one));
        prop_assert_eq!(worst.offence(), None);
    }

    #[test]
    fn the_bucket_is_exact_at_any_rate(
        per_minute in 1..PER_MINUTE_MAX, burst in 1..10_000u32, steps in prop::collection::vec((0..5_000_000u64, 0..50u32), 1..60)
    ) {
        let mut group = Group::new();
        let mut client = Client::new(&mut group, 1, START_US);
        let (mut level, mut now_us) = (i128::from(burst) * 60_000_000, START_US);
        let full = level;
        for (us, want) in steps {
            now_us += us;
            level = (level + i128::from(us) * i128::from(per_minute)).min(full);
            let grant = client.say(&mut group, Ask { want, ..ask(per_minute, burst) }, now_us);
            level -= i128::from(grant.tokens) * 60_000_000;
            prop_assert_eq!(i128::from(grant.level), level);
            prop_assert!(level >= 0);
        }
    }
}
