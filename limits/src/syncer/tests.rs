//! The driver's part, message by message: many keys, lost answers, changed policies, a growing fleet, the month.

use super::*;
use crate::central::Group;
use crate::policy::{Algorithm, OnRedisDown};
use crate::slot::lease::Tick;
use crate::slot::{Denial, Take, Taken};
use crate::terms::{LAZY_REPORT_NS, LAZY_ROUND_NS, LEASE_TICKS, MS_NS, UNITS};
use crate::wire::QuotaLeft;

const REDIS_US: u64 = 1_790_000_000_000_000;

struct Pair {
    syncer: Syncer,
    redis: Group,
    now_ns: u64,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair { syncer: Syncer::new(1, 1), redis: Group::new(), now_ns: MS_NS };
        pair.exchange();
        pair
    }

    fn open(&mut self, key: u64, policy: Policy, fleet: u32) -> (Place, Arc<Slot>) {
        open(&mut self.syncer, key, policy, fleet)
    }

    fn pass(&mut self, ms: u64) {
        self.now_ns += ms * MS_NS;
    }

    fn redis_us(&self) -> u64 {
        REDIS_US + self.now_ns / 1_000
    }

    fn ask(&mut self) -> Option<Request> {
        self.pass(3);
        self.syncer.poll(self.now_ns)
    }

    fn exchange(&mut self) -> Option<Reply> {
        let request = self.ask()?;
        let reply = self.redis.apply(&request, self.redis_us());
        assert!(self.syncer.hear(&reply, self.now_ns));
        Some(reply)
    }

    fn settle(&mut self) {
        while self.exchange().is_some() {}
    }

    fn take(&mut self, place: Place, slot: &Slot) -> Take {
        let take = slot.take(self.now_ns);
        if let Take::Admitted { wake: true, .. } = take {
            self.syncer.call(place);
        }
        take
    }

    /// Takes so many times, and settles after each; how many were admitted.
    fn take_settled(&mut self, place: Place, slot: &Slot, times: u32) -> u32 {
        let mut admitted = 0;
        for _ in 0..times {
            admitted += u32::from(is_admitted(self.take(place, slot)));
            self.settle();
        }
        admitted
    }

    fn level(&self, key: u64) -> i64 {
        self.redis.key(key).map_or(i64::MAX, |state| state.level_at(self.redis_us()) / UNITS)
    }
}

fn open(syncer: &mut Syncer, key: u64, policy: Policy, fleet: u32) -> (Place, Arc<Slot>) {
    let slot = Arc::new(Slot::new());
    (syncer.open(key, Arc::clone(&slot), policy, fleet), slot)
}

fn bucket(revision: u64, per_minute: u32, burst: u32) -> Policy {
    Policy::new(revision, Algorithm::TokenBucket, per_minute, burst).unwrap()
}

fn is_admitted(take: Take) -> bool {
    matches!(take, Take::Admitted { .. })
}

#[test]
fn nothing_is_owed_before_redis_has_admitted_the_process() {
    let mut syncer = Syncer::new(1, 1);
    let (place, slot) = open(&mut syncer, 7, bucket(1, 600, 100), 1);
    assert_eq!(slot.take(MS_NS), Take::Unknown);
    assert_eq!(syncer.decide_unknown(place, MS_NS), Unknown::Wait);
    let hello = syncer.poll(MS_NS).unwrap();
    assert!(hello.epoch == 0 && hello.asks.is_empty());
    let reply = Group::new().apply(&hello, REDIS_US);
    syncer.hear(&reply, 2 * MS_NS);
    assert!(is_admitted(slot.take(2 * MS_NS)));
}

#[test]
fn a_message_holds_so_many_keys_and_the_rest_follow() {
    let mut pair = Pair::new();
    let keys: Vec<_> = (0..300).map(|key| pair.open(key, bucket(1, 600, 100), 1)).collect();
    for (place, slot) in &keys {
        for _ in 0..40 {
            assert!(is_admitted(pair.take(*place, slot)));
        }
    }
    let sizes: Vec<_> = std::iter::from_fn(|| pair.exchange().map(|reply| reply.grants.len())).take(3).collect();
    assert_eq!(sizes, [128, 128, 44]);
    pair.settle();
    assert!(keys.iter().all(|(place, slot)| slot.owed() == 0 && pair.syncer.ledger(*place).unwrap().frozen() == 0));
    assert!((0..300).all(|key| pair.level(key) <= 60));
}

#[test]
fn a_debt_whose_answer_is_lost_is_told_again_and_debited_once() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 100), 1);
    (0..30).for_each(|_| assert!(is_admitted(pair.take(place, &slot))));
    let request = pair.ask().unwrap();
    let debt = request.asks[0].debt;
    assert_eq!(debt, 30);
    pair.redis.apply(&request, pair.redis_us());
    let held_back = pair.level(7);
    pair.pass(60);
    let again = pair.exchange().unwrap();
    assert!(again.send > request.send);
    assert_eq!(pair.syncer.ledger(place).unwrap().frozen(), 0);
    assert!(pair.level(7) <= held_back && pair.level(7) >= held_back - i64::from(again.grants[0].tokens));
}

#[test]
fn a_late_answer_changes_nothing() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 1);
    (0..30).for_each(|_| assert!(is_admitted(pair.take(place, &slot))));
    let request = pair.ask().unwrap();
    let reply = pair.redis.apply(&request, pair.redis_us());
    pair.pass(60);
    assert!(pair.ask().is_some());
    assert!(!pair.syncer.hear(&reply, pair.now_ns));
    assert_eq!(slot.held(crate::slot::lease::Tick::of(pair.now_ns)), 0);
}

#[test]
fn an_idle_key_gives_its_tokens_back_and_is_idle() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 100), 1);
    (0..30).for_each(|_| assert!(is_admitted(pair.take(place, &slot))));
    pair.exchange();
    assert!(slot.held(crate::slot::lease::Tick::of(pair.now_ns)) > 0);
    assert!(!pair.syncer.ledger(place).unwrap().is_idle(&slot, pair.now_ns));
    for _ in 0..40 {
        pair.pass(20);
        pair.exchange();
    }
    assert!(pair.level(7) >= 70, "{}", pair.level(7));
    assert!(pair.syncer.ledger(place).unwrap().is_idle(&slot, pair.now_ns));
}

#[test]
fn a_larger_fleet_lowers_the_overdraft_at_once_and_raises_it_never() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 2);
    assert_eq!(slot.overdraft_left(), 25);
    assert!(is_admitted(pair.take(place, &slot)));
    pair.syncer.change(place, bucket(1, 600, 100), 10, pair.now_ns);
    assert_eq!(slot.overdraft_left(), 4, "one of five is owed");
    pair.syncer.change(place, bucket(1, 600, 100), 2, pair.now_ns);
    assert_eq!(slot.overdraft_left(), 4);
    pair.syncer.change(place, bucket(1, 600, 100), 200, pair.now_ns);
    assert_eq!(slot.overdraft_left(), 0, "strict by itself: more nodes than tokens");
}

#[test]
fn a_changed_policy_holds_at_once_and_keeps_the_fraction() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 100), 1);
    while pair.level(7) > 50 {
        pair.take(place, &slot);
        pair.settle();
    }
    let before = pair.level(7);
    let left = slot.overdraft_left();
    pair.syncer.change(place, bucket(2, 6_000, 1_000), 1, pair.now_ns);
    assert!((1..=50).contains(&left) && slot.overdraft_left() == left, "{left}");
    let reply = pair.exchange().unwrap();
    assert!(
        (reply.grants[0].level / UNITS - before * 10).abs() <= 10,
        "{} after {before}",
        reply.grants[0].level / UNITS
    );
    pair.syncer.change(place, bucket(1, 60, 100), 1, pair.now_ns);
    assert_eq!(pair.syncer.ledger(place).unwrap().policy().revision(), 2, "an older policy comes too late");
}

#[test]
fn a_smaller_policy_may_be_owed_on_before_redis_has_answered_but_only_its_fraction_of_what_was_left() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 2);
    (0..5).for_each(|_| assert!(is_admitted(pair.take(place, &slot))));
    assert_eq!((slot.overdraft_left(), slot.owed()), (20, 5));
    pair.syncer.change(place, bucket(2, 600, 50), 2, pair.now_ns);
    assert_eq!((slot.overdraft_left(), slot.owed()), (7, 5), "twelve of fifty in all, for two nodes");
    pair.syncer.change(place, bucket(3, 600, 50).strict(true), 2, pair.now_ns);
    assert_eq!(slot.overdraft_left(), 0);
}

#[test]
fn a_policy_that_was_denied_owes_nothing_under_the_next_one_until_redis_has_answered() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 4), 1);
    pair.take_settled(place, &slot, 12);
    assert!(matches!(slot.take(pair.now_ns), Take::Denied { .. }));
    pair.syncer.change(place, bucket(2, 60, 4_000), 1, pair.now_ns);
    assert_eq!(slot.overdraft_left(), 0);
    assert!(matches!(slot.take(pair.now_ns), Take::Unknown));
}

#[test]
fn a_level_below_one_denies_until_the_projection_says_otherwise() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 4), 1);
    pair.take_settled(place, &slot, 12);
    let Take::Denied { until_ns, by: Denial::Rate } = slot.take(pair.now_ns) else { panic!("{slot:?}") };
    assert!(until_ns - pair.now_ns <= 2_000 * MS_NS);
    assert!(matches!(slot.take(until_ns), Take::Admitted { taken: Taken::Overdraft, .. }), "one probe");
    assert!(!is_admitted(slot.take(until_ns)));
}

#[test]
fn a_lease_ends_when_its_question_is_five_ticks_old() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 1);
    (0..50).for_each(|_| {
        pair.take(place, &slot);
    });
    let request = pair.ask().unwrap();
    let sent_ns = pair.now_ns;
    let reply = pair.redis.apply(&request, pair.redis_us());
    pair.pass(40);
    pair.syncer.hear(&reply, pair.now_ns);
    let life_ns = LEASE_TICKS * pair.syncer.ledger(place).unwrap().terms().tick_ns;
    assert!(slot.held(crate::slot::lease::Tick::of(sent_ns + life_ns - MS_NS)) > 0);
    assert_eq!(slot.held(crate::slot::lease::Tick::of(sent_ns + life_ns)), 0);
}

#[test]
fn the_month_refuses_when_it_is_used_up_and_says_so() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 6_000, 1_000), 1);
    let ends_ns = pair.now_ns + 3_600_000 * MS_NS;
    let month = MonthTerms { period: 1, included: 20, hard: true, ends_ns };
    pair.syncer.set_month(place, Some(month));
    pair.redis.seed_quota(7, 1, 0, REDIS_US);
    assert_eq!(pair.take_settled(place, &slot, 60), 20);
    assert!(matches!(slot.take(pair.now_ns), Take::Denied { by: Denial::Quota, .. }));
    pair.syncer.set_month(place, Some(MonthTerms { period: 2, ends_ns: 2 * ends_ns, ..month }));
    pair.pass(61_000);
    assert!(!matches!(slot.take(pair.now_ns), Take::Denied { .. }));
    assert_eq!(pair.syncer.decide_unknown(place, pair.now_ns), Unknown::Wait);
    let reply = pair.exchange().unwrap();
    assert!(matches!(reply.grants[0].quota, Some(QuotaLeft::Left(left)) if left > 0));
    assert!(is_admitted(slot.take(pair.now_ns)));
}

#[test]
fn a_lost_month_is_spent_by_each_nodes_share_of_what_was_left() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 6_000, 1_000), 4);
    let month = MonthTerms { period: 1, included: 40, hard: true, ends_ns: u64::MAX };
    pair.syncer.set_month(place, Some(month));
    let admitted = pair.take_settled(place, &slot, 60);
    assert!(admitted <= 10 + pair.syncer.ledger(place).unwrap().terms().want_max, "{admitted}");
    let refused = pair.syncer.decide_unknown(place, pair.now_ns);
    assert!(matches!(refused, Unknown::Refused { by: Denial::Quota, .. }), "{refused:?}");
    pair.redis.seed_quota(7, 1, 30, pair.redis_us());
    slot.take(pair.now_ns);
    pair.pass(1_001);
    slot.take(pair.now_ns);
    pair.syncer.call(place);
    let reply = pair.exchange().unwrap();
    assert!(matches!(reply.grants[0].quota, Some(QuotaLeft::Left(left)) if left <= 10), "{reply:?}");
}

/// Lets an idle key give everything back.
fn calm_down(pair: &mut Pair) {
    for _ in 0..400 {
        pair.exchange();
    }
}

#[test]
fn a_place_is_given_up_when_nothing_is_held_or_owed_and_serves_another_key() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 1);
    pair.take_settled(place, &slot, 30);
    assert!(!pair.syncer.give_up(place, pair.now_ns), "tokens in hand");
    calm_down(&mut pair);
    let owed = pair.take(place, &slot);
    assert!(matches!(owed, Take::Admitted { taken: Taken::Overdraft, .. }));
    assert!(!pair.syncer.give_up(place, pair.now_ns), "a debt");
    assert!(slot.overdraft_left() > 0, "and the slot serves on");
    calm_down(&mut pair);
    assert!(pair.syncer.give_up(place, pair.now_ns));
    assert_eq!(slot.take(pair.now_ns), Take::Unknown);
    assert!(!pair.syncer.give_up(place, pair.now_ns), "once");

    let (next, other) = pair.open(8, bucket(1, 600, 100), 1);
    assert!(next != place && pair.syncer.ledger(place).is_none());
    assert_eq!(pair.syncer.decide_unknown(place, pair.now_ns), Unknown::Wait);
    pair.syncer.call(place);
    assert!(pair.exchange().is_none(), "the old place says nothing in the new one's name");
    assert!(is_admitted(pair.take(next, &other)));
    pair.settle();
    assert_eq!(pair.syncer.ledger(next).unwrap().key(), 8);
}

#[test]
fn a_place_is_kept_while_it_is_denied_while_its_month_is_lost_and_while_redis_is_away() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 4), 1);
    while is_admitted(pair.take(place, &slot)) {
        pair.settle();
    }
    pair.pass(3);
    assert!(pair.now_ns < slot.denial().0 && !pair.syncer.give_up(place, pair.now_ns));
    calm_down(&mut pair);
    assert!(pair.syncer.give_up(place, pair.now_ns));

    let (place, slot) = pair.open(8, bucket(1, 600, 100), 1);
    let month = MonthTerms { period: 1, included: 1_000, hard: true, ends_ns: u64::MAX };
    pair.syncer.set_month(place, Some(month));
    pair.take(place, &slot);
    pair.settle();
    pair.pass(70_000);
    calm_down(&mut pair);
    assert!(!pair.syncer.close(place, pair.now_ns), "nobody else knows what this node has spent");
    pair.pass(600_000);
    assert!(pair.syncer.close(place, pair.now_ns));

    let (place, _slot) = pair.open(9, bucket(1, 600, 100), 1);
    pair.syncer.call(place);
    pair.syncer.decide_unknown(place, pair.now_ns);
    for _ in 0..3 {
        assert!(pair.ask().is_some());
        pair.pass(60);
    }
    pair.syncer.poll(pair.now_ns);
    pair.syncer.stop_waiting(place);
    assert!(!pair.syncer.give_up(place, pair.now_ns));
}

#[test]
fn three_answers_that_never_come_make_a_node_go_alone_and_one_that_does_ends_it() {
    for when_down in [OnRedisDown::FairShare, OnRedisDown::Open, OnRedisDown::Closed] {
        let mut pair = Pair::new();
        let policy = bucket(1, 6_000, 100).on_redis_down(when_down);
        let (place, slot) = pair.open(7, policy, 2);
        slot.take(pair.now_ns);
        while is_admitted(slot.take(pair.now_ns)) {}
        assert_eq!(pair.syncer.decide_unknown(place, pair.now_ns), Unknown::Wait);
        for _ in 0..3 {
            assert!(pair.ask().is_some());
            pair.pass(60);
        }
        assert!(pair.ask().is_none());
        assert!(matches!(pair.syncer.reach(), Reach::Down { .. }));
        let first = pair.syncer.decide_unknown(place, pair.now_ns);
        pair.pass(100);
        let second = pair.syncer.decide_unknown(place, pair.now_ns);
        match when_down {
            OnRedisDown::FairShare => {
                assert!(matches!(first, Unknown::Refused { .. }), "from an empty bucket");
                assert_eq!(second, Unknown::Admitted);
            }
            OnRedisDown::Open => assert_eq!([first, second], [Unknown::Admitted; 2]),
            OnRedisDown::Closed => assert!(matches!(second, Unknown::Refused { .. })),
        }
        pair.pass(300);
        pair.exchange().unwrap();
        assert!(matches!(pair.syncer.reach(), Reach::Settling { .. }));
        pair.pass(700);
        pair.settle();
        assert_eq!(pair.syncer.reach(), Reach::Up);
    }
}

/// Without a word from Redis for so long that the node goes on alone, and for two seconds after that.
fn go_alone(pair: &mut Pair, place: Place, slot: &Slot) {
    while is_admitted(slot.take(pair.now_ns)) {}
    assert_eq!(pair.syncer.decide_unknown(place, pair.now_ns), Unknown::Wait);
    while pair.syncer.reach() == Reach::Up {
        pair.ask();
        pair.pass(60);
    }
    pair.pass(2_000);
}

/// How many requests a node that is alone admits at this moment.
fn admitted_alone(pair: &mut Pair, place: Place) -> u32 {
    let decide = || (pair.syncer.decide_unknown(place, pair.now_ns) == Unknown::Admitted).then_some(());
    u32::try_from(std::iter::from_fn(decide).count()).unwrap()
}

#[test]
fn a_change_while_redis_is_away_keeps_what_was_spent_of_the_share_and_its_filled_fraction() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 2);
    go_alone(&mut pair, place, &slot);
    let owed = slot.owed() + pair.syncer.ledger(place).unwrap().frozen();
    let first = admitted_alone(&mut pair, place);
    assert!((10..=11).contains(&first), "r/N for two seconds, not {first}");
    pair.pass(8_000);
    assert_eq!(admitted_alone(&mut pair, place), 40);
    for revision in 2..=5 {
        pair.syncer.change(place, bucket(revision, 600, 100 + u32::try_from(revision).unwrap()), 2, pair.now_ns);
        assert_eq!(admitted_alone(&mut pair, place), 0, "no change fills a share that is used up");
    }
    pair.syncer.change(place, bucket(6, 6_000, 1_000), 2, pair.now_ns);
    assert!(admitted_alone(&mut pair, place) < 10, "less than one of fifty was left");
    pair.pass(2_000);
    pair.syncer.change(place, bucket(7, 600, 100), 2, pair.now_ns);
    assert_eq!(admitted_alone(&mut pair, place), 10, "a fifth of a share of five hundred");
    pair.pass(1_000);
    pair.syncer.change(place, bucket(7, 600, 100), 10, pair.now_ns);
    assert_eq!(admitted_alone(&mut pair, place), 1, "five of fifty are one of ten");
    pair.pass(2_000);
    assert_eq!(admitted_alone(&mut pair, place), 2, "and a tenth of the rate from then on");
    pair.pass(300);
    while pair.syncer.reach() != Reach::Up {
        pair.exchange();
    }
    let told = u32::try_from(pair.syncer.ledger(place).unwrap().tally().owed).unwrap();
    assert_eq!(told, owed + 10, "as much as such a share misses: a tenth of a hundred");
}

#[test]
fn each_outage_begins_with_an_empty_share() {
    let mut pair = Pair::new();
    let (place, _slot) = pair.open(7, bucket(1, 600, 100), 2);
    let (other, its_slot) = pair.open(8, bucket(1, 600, 100), 2);
    for _ in 0..2 {
        // Noticed by another key's questions.
        go_alone(&mut pair, other, &its_slot);
        let admitted = admitted_alone(&mut pair, place);
        assert!((10..=11).contains(&admitted), "r/N for two seconds, not {admitted}");
        pair.pass(300);
        pair.exchange().unwrap();
        for _ in 0..200 {
            pair.pass(100);
            pair.settle();
        }
        assert_eq!(pair.syncer.reach(), Reach::Up);
    }
}

#[test]
fn when_redis_is_back_the_share_goes_on_until_the_first_answer_and_not_for_long() {
    for (waits_ms, expected) in [(10, Unknown::Admitted), (600, Unknown::Wait)] {
        let mut pair = Pair::new();
        let (place, slot) = pair.open(7, bucket(1, 6_000, 1_000), 2);
        go_alone(&mut pair, place, &slot);
        pair.pass(300);
        pair.exchange().unwrap();
        // Everybody tells what was spent meanwhile; nothing is leased yet.
        while pair.syncer.reach() != Reach::Up {
            pair.exchange();
            pair.pass(10);
            assert_eq!(pair.syncer.decide_unknown(place, pair.now_ns), Unknown::Admitted);
        }
        let _nobody_answers = pair.syncer.poll(pair.now_ns);
        pair.pass(waits_ms);
        let under_way = pair.syncer.decide_unknown(place, pair.now_ns);
        assert_eq!(under_way, expected, "{waits_ms} ms later");
    }
}

#[test]
fn a_key_that_is_quiet_for_a_minute_is_forgotten_and_its_place_goes_to_another() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 1);
    (0..40).for_each(|_| assert!(is_admitted(pair.take(place, &slot))));
    pair.settle();
    assert!(!pair.syncer.close(place, pair.now_ns), "it holds tokens");
    for _ in 0..70 {
        pair.pass(1_000);
        pair.settle();
    }
    assert!(pair.syncer.close(place, pair.now_ns));
    assert!(!pair.syncer.close(place, pair.now_ns), "only once");
    assert_eq!(slot.take(pair.now_ns), Take::Unknown, "whoever still holds the slot gets nothing from it");
    let (again, fresh) = pair.open(8, bucket(1, 600, 100), 1);
    assert_ne!(again, place, "the old place stands for nothing");
    assert!(is_admitted(pair.take(again, &fresh)));
    pair.settle();
    assert_eq!(slot.take(pair.now_ns), Take::Unknown);
}

#[test]
fn what_is_owed_keeps_a_key_from_being_forgotten() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 600, 100), 1);
    pair.pass(100_000);
    assert!(is_admitted(slot.take(pair.now_ns)));
    assert!(!pair.syncer.close(place, pair.now_ns));
}

#[test]
fn more_included_requests_lift_a_used_up_month_at_once() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60_000, 100), 1);
    let month = |included| MonthTerms { period: 1, included, hard: true, ends_ns: u64::MAX };
    pair.redis.seed_quota(7, 1, 0, pair.redis_us());
    pair.syncer.set_month(place, Some(month(10)));
    for _ in 0..100 {
        pair.take(place, &slot);
        pair.exchange();
    }
    assert!(matches!(pair.take(place, &slot), Take::Denied { by: Denial::Quota, .. }));
    pair.syncer.set_month(place, Some(month(30)));
    assert_eq!(pair.take(place, &slot), Take::Unknown);
    assert_eq!(pair.syncer.decide_unknown(place, pair.now_ns), Unknown::Wait);
    pair.exchange();
    assert!(is_admitted(pair.take(place, &slot)));
}

#[test]
fn while_redis_is_away_a_node_spends_its_part_of_the_month_and_no_more() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60_000, 100), 2);
    pair.syncer.set_month(place, Some(MonthTerms { period: 1, included: 20, hard: true, ends_ns: u64::MAX }));
    pair.redis.seed_quota(7, 1, 0, pair.redis_us());
    pair.take(place, &slot);
    while pair.syncer.reach() == Reach::Up {
        slot.take(pair.now_ns);
        pair.syncer.call(place);
        pair.ask();
        pair.pass(60);
    }
    let mut alone = 0;
    for _ in 0..200 {
        pair.pass(10);
        alone += u32::from(pair.syncer.decide_unknown(place, pair.now_ns) == Unknown::Admitted);
    }
    assert_eq!(alone, 10);
    let last = pair.syncer.decide_unknown(place, pair.now_ns);
    assert!(matches!(last, Unknown::Refused { by: Denial::Quota, .. }));
}

#[test]
fn whoever_leaves_gives_everything_back_and_tells_what_it_owes() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 60, 100), 2);
    let mut admitted = 0;
    for _ in 0..4 {
        for _ in 0..8 {
            admitted += i64::from(is_admitted(pair.take(place, &slot)));
        }
        pair.exchange();
    }
    // One more on overdraft if there is no lease: owed, and told by nobody yet.
    admitted += i64::from(is_admitted(pair.take(place, &slot)));
    let held = i64::from(slot.held(Tick::of(pair.now_ns)));
    assert!(held > 0 && admitted > 20, "{held} held, {admitted} admitted");
    assert!(pair.level(7) <= 100 - admitted - held + 1, "what is held is nobody else's");
    pair.syncer.leave();
    assert!(!pair.syncer.is_at_rest());
    let mut messages = 0;
    while !pair.syncer.is_at_rest() {
        pair.exchange();
        messages += 1;
        assert!(messages < 10, "two generations, and what was under way");
    }
    assert_eq!((slot.held(Tick::of(pair.now_ns)), slot.owed()), (0, 0));
    assert!((100 - admitted..=101 - admitted).contains(&pair.level(7)), "{} of {admitted}", pair.level(7));
    assert_eq!(slot.take(pair.now_ns), Take::Unknown);
    let unknown = pair.syncer.decide_unknown(place, pair.now_ns);
    assert!(matches!(unknown, Unknown::Refused { by: Denial::Rate, .. }), "{unknown:?}");
}

#[test]
fn debts_beyond_the_bucket_are_seen_once_and_those_beyond_the_bound_apart() {
    let mut pair = Pair::new();
    let (place, slot) = pair.open(7, bucket(1, 6, 10), 2);
    let others = |want, debt| Ask {
        key: 7,
        revision: 1,
        algorithm: Algorithm::TokenBucket,
        per_minute: 6,
        burst: 10,
        debt,
        want,
        refund: None,
        quota: None,
    };
    // Others take eight of ten, and this node, which has heard nothing of it, owes two: that fits.
    let us = pair.redis_us();
    pair.redis.ask(&others(0, 8), us);
    assert!(is_admitted(pair.take(place, &slot)) && is_admitted(pair.take(place, &slot)));
    pair.settle();
    assert_eq!(pair.syncer.take_overshoots(), Overshoots::default());
    // The next key: others take all of it, and the two are beyond; N·e = 4.
    let (place, slot) = pair.open(8, bucket(1, 6, 10), 2);
    let us = pair.redis_us();
    pair.redis.ask(&Ask { key: 8, ..others(0, 10) }, us);
    assert!(is_admitted(pair.take(place, &slot)) && is_admitted(pair.take(place, &slot)));
    pair.pass(200);
    pair.settle();
    let seen = pair.syncer.take_overshoots().token_bucket;
    assert_eq!((seen.tokens, seen.beyond), (2, 0));
    assert_eq!(pair.syncer.take_overshoots(), Overshoots::default(), "once");
    // A third one has been overdrawn by what no fleet without a fault comes to.
    let (place, slot) = pair.open(9, bucket(1, 6, 10), 2);
    let us = pair.redis_us();
    pair.redis.ask(&Ask { key: 9, ..others(0, 13) }, us);
    assert!(is_admitted(pair.take(place, &slot)) && is_admitted(pair.take(place, &slot)));
    pair.pass(200);
    pair.settle();
    let seen = pair.syncer.take_overshoots().token_bucket;
    assert_eq!((seen.tokens, seen.beyond), (2, 1), "3 + 2 are 1 more than 4");
}

/// Keys of which Redis has told how they stand, long ago: far from their limits.
fn rested(keys: u64) -> (Pair, Vec<(Place, Arc<Slot>)>) {
    let mut pair = Pair::new();
    let keys: Vec<_> = (0..keys).map(|key| pair.open(key, bucket(1, 6_000, 600), 3)).collect();
    for (place, slot) in &keys {
        (0..60).for_each(|_| assert!(is_admitted(pair.take(*place, slot))));
    }
    pair.settle();
    pair.pass(10_000);
    pair.settle();
    (pair, keys)
}

#[test]
fn keys_far_from_their_limits_are_told_of_late_and_together() {
    let (mut pair, keys) = rested(3);
    for (_, slot) in &keys {
        assert_eq!((slot.owed(), slot.overdraft_left()), (0, 100));
    }
    for (nth, (place, slot)) in keys.iter().enumerate() {
        assert!(
            matches!(pair.take(*place, slot), Take::Admitted { taken: Taken::Overdraft, wake: true }),
            "a debt begins"
        );
        assert!(pair.exchange().is_none(), "nobody needs to know yet");
        let more: Vec<_> = (1..40).map(|_| pair.take(*place, slot)).collect();
        assert!(more.iter().all(|take| matches!(take, Take::Admitted { wake: false, .. })), "{nth}: {more:?}");
    }
    pair.pass(LAZY_REPORT_NS / MS_NS - 500);
    assert!(pair.exchange().is_none());
    pair.pass(500 + LAZY_ROUND_NS / MS_NS);
    let told: Vec<u32> = pair.ask().unwrap().asks.iter().map(|ask| ask.debt).collect();
    assert_eq!(told, [40, 40, 40], "in one message");
}

#[test]
fn half_of_an_overdraft_is_told_at_once_however_far_the_limit() {
    let (mut pair, keys) = rested(1);
    let (place, slot) = &keys[0];
    pair.take(*place, slot);
    assert!(pair.exchange().is_none());
    let calls = |_: &u32| matches!(pair.take(*place, slot), Take::Admitted { wake: true, .. });
    assert_eq!((2..100).find(calls), Some(50));
    pair.exchange();
    assert_eq!(slot.owed(), 0);
}
