//! All in virtual time: `Now` is an input.

mod bounds;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use snapshot::record::{Algorithm, OnRedisDown, Period, Policy, Quota, Subscription, SubscriptionStatus};
use uuid::Uuid;

use super::{Lane, LimitAnswers, LimitKind, LimitRefusal, Limiter};
use crate::clock::Now;

const START: Now = Now { mono_us: 3_600_000_000, unix_ms: 1_800_000_000_000 };
const HOUR: Duration = Duration::from_secs(3_600);

fn rate(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap()
}

fn policy(algorithm: Algorithm, per_minute: u32, burst: u32) -> Policy {
    let (per_minute, burst) = (rate(per_minute), rate(burst));
    Policy { algorithm, per_minute, burst, on_redis_down: OnRedisDown::FairShare, strict: false }
}

fn bucket(per_minute: u32, burst: u32) -> Policy {
    policy(Algorithm::TokenBucket, per_minute, burst)
}

fn sliding(limit: u32) -> Policy {
    policy(Algorithm::SlidingWindow, limit, limit)
}

fn fixed(limit: u32) -> Policy {
    policy(Algorithm::FixedWindow, limit, limit)
}

fn subscription(meter_id: u64) -> Subscription {
    Subscription {
        id: Uuid::nil(),
        meter_id,
        product_id: Uuid::nil(),
        plan_id: Uuid::nil(),
        consumer_id: Uuid::nil(),
        consumer_username: "acme".to_owned(),
        status: SubscriptionStatus::Active,
        rate_override: None,
        period: None,
        next_period: None,
        cancel_at_ms: None,
        refuse_unpaid_from_ms: None,
    }
}

fn ends_in(id: u32, time: Duration) -> Period {
    Period { id, ends_at_ms: START.after(time).unix_ms }
}

/// One subscription's life.
struct Life {
    limiter: Limiter,
    subscription: Subscription,
    quota: Option<Quota>,
}

impl Life {
    fn new() -> Life {
        Life { limiter: Limiter::new(), subscription: subscription(7), quota: None }
    }

    fn with_quota(included: u64, hard: bool, period: Period, next: Period) -> Life {
        let mut life = Life::new();
        life.subscription.period = Some(period);
        life.subscription.next_period = Some(next);
        life.quota = Some(Quota { included, hard });
        life
    }

    fn ask(&self, policy: &Policy, now: Now) -> Result<LimitAnswers, LimitRefusal> {
        self.limiter.check(&self.subscription, Lane::Live, policy, self.quota, now)
    }

    /// How many of `tries` at one moment are admitted.
    fn burst(&self, policy: &Policy, now: Now, tries: usize) -> usize {
        (0..tries).filter(|_| self.ask(policy, now).is_ok()).count()
    }
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
    let life = Life::new();
    let policy = bucket(60, 10);
    assert_eq!(life.burst(&policy, START, 100), 10);
    assert_eq!(life.burst(&policy, START.after(Duration::from_millis(999)), 100), 0);
    assert_eq!(life.burst(&policy, START.after(Duration::from_secs(1)), 100), 1);
    assert_eq!(life.burst(&policy, START.after(Duration::from_secs(4)), 100), 3);
    assert_eq!(life.burst(&policy, START.after(HOUR), 100), 10);
}

#[test]
fn the_answer_says_what_is_left_and_when_there_is_more() {
    let life = Life::new();
    let policy = bucket(6, 3);
    let first = life.ask(&policy, START).unwrap();
    assert_eq!((first.rate.name, first.rate.limit, first.rate.window_s), ("minute", 6, 60));
    assert_eq!((first.rate.remaining, first.rate.reset_s), (2, 10));
    life.burst(&policy, START, 2);
    let refusal = life.ask(&policy, START.after(Duration::from_secs(3))).unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after_s, refusal.answers.rate.remaining), (LimitKind::Rate, 7, 0));
    assert_eq!(refusal.answers.items().count(), 1);
}

#[test]
fn retry_after_is_never_zero_and_keeps_its_word() {
    for policy in [bucket(60_000_000, 1), bucket(7, 2), sliding(5), fixed(5)] {
        let life = Life::new();
        while life.ask(&policy, START).is_ok() {}
        let refusal = life.ask(&policy, START).unwrap_err();
        assert!(refusal.retry_after_s >= 1);
        let later = START.after(Duration::from_secs(refusal.retry_after_s));
        assert!(life.ask(&policy, later).is_ok(), "{policy:?} promised {} s", refusal.retry_after_s);
    }
}

#[test]
fn keys_of_one_subscription_share_its_limits_and_others_have_their_own() {
    let life = Life::new();
    let policy = bucket(60, 2);
    assert_eq!(life.burst(&policy, START, 5), 2);
    assert!(life.limiter.check(&subscription(8), Lane::Live, &policy, None, START).is_ok());
    assert_eq!(life.limiter.slots(), 2);
}

#[test]
fn a_hard_quota_refuses_until_the_period_ends_and_gives_the_rate_token_back() {
    let life = Life::with_quota(3, true, ends_in(1, HOUR), ends_in(2, HOUR * 2));
    let policy = bucket(60, 10);
    assert_eq!(life.burst(&policy, START, 5), 3);
    let refusal = life.ask(&policy, START).unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after_s), (LimitKind::Quota, 3_600));
    assert_eq!(refusal.answers.rate.remaining, 7, "three were admitted, none more was taken from the minute");
    let month = refusal.answers.quota.unwrap();
    assert_eq!((month.name, month.limit, month.remaining, month.reset_s), ("month", 3, 0, 3_600));
    assert_eq!(refusal.answers.tightest().name, "month");
    let next = life.ask(&policy, START.after(HOUR)).unwrap();
    assert_eq!(next.quota.unwrap().remaining, 2);
}

#[test]
fn windows_too_get_back_what_the_quota_refused() {
    for policy in [sliding(10), fixed(10)] {
        let life = Life::with_quota(2, true, ends_in(1, HOUR), ends_in(2, HOUR * 2));
        life.burst(&policy, START, 9);
        assert_eq!(life.ask(&policy, START).unwrap_err().answers.rate.remaining, 8);
    }
}

#[test]
fn a_soft_quota_is_shown_and_never_refuses() {
    let life = Life::with_quota(2, false, ends_in(1, HOUR), ends_in(2, HOUR * 2));
    let policy = bucket(600, 100);
    assert_eq!(life.burst(&policy, START, 50), 50);
    assert_eq!(life.ask(&policy, START).unwrap().quota.unwrap().remaining, 0);
}

#[test]
fn a_refusal_for_speed_costs_no_quota() {
    let life = Life::with_quota(100, true, ends_in(1, HOUR), ends_in(2, HOUR * 2));
    let policy = bucket(60, 1);
    assert_eq!(life.burst(&policy, START, 50), 1);
    assert_eq!(life.ask(&policy, START).unwrap_err().answers.quota.unwrap().remaining, 99);
}

#[test]
fn a_wall_clock_that_goes_back_over_the_period_gives_no_second_quota_and_no_lock_out() {
    let life = Life::with_quota(3, true, ends_in(1, HOUR), ends_in(2, HOUR * 3));
    let policy = bucket(6_000, 1_000);
    let after = START.after(HOUR);
    assert_eq!(life.burst(&policy, after, 10), 3);
    let set_back = Now { mono_us: after.mono_us + 1, unix_ms: START.unix_ms };
    assert_eq!(life.burst(&policy, set_back, 10), 0, "the new period's quota is used");
    let again = Now { mono_us: after.mono_us + 2, unix_ms: after.unix_ms };
    assert_eq!(life.burst(&policy, again, 10), 0, "and does not begin a second time");
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing_for_the_minute() {
    for policy in [bucket(60, 5), sliding(5), fixed(5)] {
        let life = Life::new();
        assert_eq!(life.burst(&policy, START, 10), 5);
        for jump_ms in [-3_600_000, 3_600_000] {
            let jumped = Now { mono_us: START.mono_us + 1, unix_ms: START.unix_ms + jump_ms };
            assert_eq!(life.burst(&policy, jumped, 10), 0);
        }
    }
}

#[test]
fn even_a_monotonic_clock_that_is_set_back_gives_nothing_away_and_locks_out_for_one_window_at_most() {
    for policy in [bucket(60, 5), sliding(5), fixed(5)] {
        let life = Life::new();
        assert_eq!(life.burst(&policy, START, 10), 5);
        let back = Now { mono_us: START.mono_us - 1_800_000_000, unix_ms: START.unix_ms };
        assert_eq!(life.burst(&policy, back, 10), 0, "{policy:?}");
        let later = back.after(Duration::from_secs(65));
        assert!(life.burst(&policy, later, 10) >= 1, "{policy:?}");
    }
}

#[test]
fn a_policy_change_keeps_the_filled_fraction_of_a_bucket() {
    let life = Life::new();
    assert_eq!(life.burst(&bucket(60, 10), START, 5), 5);
    let upgraded = bucket(600, 100);
    assert_eq!(life.burst(&upgraded, START, 1_000), 50);
    let life = Life::new();
    assert_eq!(life.burst(&upgraded, START, 90), 90);
    assert_eq!(life.burst(&bucket(60, 10), START, 1_000), 1);
}

#[test]
fn going_back_and_forth_between_policies_gives_nothing_away() {
    let life = Life::new();
    let policies = [bucket(60, 10), bucket(600, 100), sliding(50), fixed(20), bucket(7, 3)];
    while life.ask(&policies[0], START).is_ok() {}
    for turn in 0..100 {
        assert_eq!(life.burst(&policies[turn % policies.len()], START, 3), 0, "turn {turn}");
    }
}

#[test]
fn a_window_keeps_its_count_when_its_limit_changes() {
    for make in [sliding, fixed] {
        let life = Life::new();
        assert_eq!(life.burst(&make(10), START, 20), 10);
        assert_eq!(life.burst(&make(12), START, 20), 2);
        assert_eq!(life.burst(&make(5), START, 20), 0);
    }
}

#[test]
fn a_sweep_forgets_only_what_changes_no_answer() {
    let life = Life::with_quota(5, true, ends_in(1, HOUR), ends_in(2, HOUR * 2));
    let policy = bucket(60, 10);
    life.burst(&policy, START, 3);
    assert!(life.limiter.check(&subscription(8), Lane::Live, &policy, None, START).is_ok());
    assert!(life.limiter.check(&subscription(9), Lane::Live, &sliding(9), None, START).is_ok());
    life.limiter.sweep(START);
    assert_eq!(life.limiter.slots(), 3);
    life.limiter.sweep(START.after(Duration::from_secs(66)));
    assert_eq!(life.limiter.slots(), 1, "the used quota stays");
    life.limiter.sweep(START.after(HOUR * 4));
    assert_eq!(life.limiter.slots(), 0, "until its period is over");
}

#[test]
fn threads_that_hammer_one_bucket_get_its_burst_and_its_rate_to_the_token() {
    let limiter = Arc::new(Limiter::new());
    let policy = bucket(60_000, 500);
    let hammer = |limiter: Arc<Limiter>| {
        std::thread::spawn(move || {
            let (mut admitted, mut last_us) = (0u64, 0);
            for _ in 0..60_000 {
                let now = Now::read();
                last_us = now.mono_us;
                admitted += u64::from(limiter.check(&subscription(7), Lane::Live, &policy, None, now).is_ok());
            }
            (admitted, last_us)
        })
    };
    let start_us = Now::read().mono_us;
    let threads: Vec<_> = (0..2).map(|_| hammer(limiter.clone())).collect();
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let admitted: u64 = ends.iter().map(|(admitted, _)| admitted).sum();
    let time_us = ends.iter().map(|(_, last_us)| last_us - start_us).max().unwrap();
    assert!(admitted >= 500);
    assert!(admitted <= 500 + time_us / 1_000, "{admitted} admitted in {time_us} µs");
}

#[test]
fn a_slot_stays_small_because_there_is_one_for_every_active_subscription() {
    assert!(size_of::<super::slot::Slot>() <= 128, "{} bytes", size_of::<super::slot::Slot>());
}

#[test]
fn a_peek_shows_what_a_request_would_find_takes_nothing_and_makes_no_slot() {
    for policy in [bucket(60, 10), sliding(10), fixed(10)] {
        let period = ends_in(1, HOUR);
        let life = Life::with_quota(5, true, period, ends_in(2, HOUR * 2));
        let peek = |now| life.limiter.peek(&life.subscription, Lane::Live, &policy, life.quota, now);
        let fresh = peek(START);
        assert_eq!((fresh.rate.remaining, fresh.quota.unwrap().remaining), (10, 5), "{policy:?}");
        assert_eq!(life.limiter.slots(), 0);
        let asked = life.ask(&policy, START).unwrap();
        for _ in 0..20 {
            assert_eq!(peek(START), asked, "{policy:?}");
        }
        assert_eq!(peek(START.after(Duration::from_secs(120))).rate.remaining, 10, "what has left the window is gone");
        assert_eq!(life.burst(&policy, START, 100), 4, "the quota allows no more");
        assert_eq!(peek(START).quota.unwrap().remaining, 0);
        assert_eq!(peek(START.after(HOUR)).quota.unwrap().remaining, 5, "of the next period");
    }
}

#[test]
fn the_two_lanes_of_a_subscription_take_nothing_from_each_other() {
    let life = Life::new();
    let policy = bucket(60, 3);
    assert_eq!(life.burst(&policy, START, 10), 3);
    let test = life.limiter.check(&life.subscription, Lane::Test, &policy, None, START).unwrap();
    assert_eq!(test.rate.remaining, 2);
    assert_eq!(life.limiter.slots(), 2);
}
