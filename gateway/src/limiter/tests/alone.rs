//! A gateway without Redis: exact, all in virtual time.

use std::sync::Arc;

use super::*;
use crate::metrics::labels::LimitOutcome;

fn ends_in(time: Duration) -> i64 {
    START.after(time).unix_ms
}

fn ask(limiter: &Limiter, terms: &Terms, now: Now) -> Result<LimitAnswers, LimitRefusal> {
    match limiter.check(terms, now) {
        Checked::Admitted(answers) => Ok(answers),
        Checked::Refused(refusal) => Err(refusal),
        Checked::Unknown(..) => panic!("alone there is nobody to ask"),
    }
}

/// How many of `tries` at one moment are admitted.
fn burst(limiter: &Limiter, terms: &Terms, now: Now, tries: usize) -> usize {
    (0..tries).filter(|_| ask(limiter, terms, now).is_ok()).count()
}

fn after_s(seconds: u64) -> Now {
    START.after(Duration::from_secs(seconds))
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
    let (limiter, terms) = (Limiter::alone(), terms(7, bucket(60, 10)));
    assert_eq!(burst(&limiter, &terms, START, 100), 10);
    assert_eq!(burst(&limiter, &terms, START.after(Duration::from_millis(999)), 100), 0);
    assert_eq!(burst(&limiter, &terms, after_s(1), 100), 1);
    assert_eq!(burst(&limiter, &terms, after_s(4), 100), 3);
    assert_eq!(burst(&limiter, &terms, START.after(HOUR), 100), 10);
}

#[test]
fn the_answer_says_what_is_left_and_when_there_is_more() {
    let (limiter, terms) = (Limiter::alone(), terms(7, bucket(6, 3)));
    let first = ask(&limiter, &terms, START).unwrap();
    assert_eq!((first.rate.name, first.rate.limit, first.rate.window_s), ("minute", 6, 60));
    assert_eq!((first.rate.remaining, first.rate.reset_s), (2, 10));
    assert_eq!(first.outcome, Some(LimitOutcome::Counted));
    burst(&limiter, &terms, START, 2);
    let refusal = ask(&limiter, &terms, after_s(3)).unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after_s, refusal.answers.rate.remaining), (LimitKind::Rate, 7, 0));
    assert_eq!(refusal.answers.items().count(), 1);
}

#[test]
fn retry_after_is_never_zero_and_keeps_its_word() {
    for policy in [bucket(50_000_000, 1), bucket(7, 2), sliding(5), fixed(5)] {
        let (limiter, terms) = (Limiter::alone(), terms(7, policy));
        while ask(&limiter, &terms, START).is_ok() {}
        let refusal = ask(&limiter, &terms, START).unwrap_err();
        assert!(refusal.retry_after_s >= 1);
        let later = after_s(refusal.retry_after_s);
        assert!(ask(&limiter, &terms, later).is_ok(), "{policy:?} promised {} s", refusal.retry_after_s);
    }
}

#[test]
fn a_hard_quota_refuses_until_the_period_ends_and_gives_the_rate_token_back() {
    let limiter = Limiter::alone();
    for (key, policy) in [(2, bucket(60, 10)), (4, sliding(10)), (6, fixed(10))] {
        let terms = terms(key, policy).with_month(hard(1, 3, ends_in(HOUR)));
        assert_eq!(burst(&limiter, &terms, START, 5), 3);
        let refusal = ask(&limiter, &terms, START).unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_after_s), (LimitKind::Quota, 3_600));
        assert_eq!(refusal.answers.rate.remaining, 7, "three were admitted, none more was taken from the minute");
        let month = refusal.answers.quota.unwrap();
        assert_eq!((month.name, month.limit, month.remaining, month.reset_s), ("month", 3, 0, 3_600));
        assert_eq!(refusal.answers.tightest().name, "month");
        let next = terms.with_month(hard(2, 3, ends_in(2 * HOUR)));
        assert_eq!(ask(&limiter, &next, START.after(HOUR)).unwrap().quota.unwrap().remaining, 2);
    }
}

#[test]
fn a_soft_quota_is_shown_and_never_refuses() {
    let limiter = Limiter::alone();
    let month = Month { hard: false, ..hard(1, 2, ends_in(HOUR)) };
    let terms = terms(7, bucket(600, 100)).with_month(month);
    assert_eq!(burst(&limiter, &terms, START, 50), 50);
    assert_eq!(ask(&limiter, &terms, START).unwrap().quota.unwrap().remaining, 0);
}

#[test]
fn a_refusal_for_speed_costs_no_quota() {
    let limiter = Limiter::alone();
    let terms = terms(7, bucket(60, 1)).with_month(hard(1, 100, ends_in(HOUR)));
    assert_eq!(burst(&limiter, &terms, START, 50), 1);
    assert_eq!(ask(&limiter, &terms, START).unwrap_err().answers.quota.unwrap().remaining, 99);
}

#[test]
fn a_period_that_comes_back_gives_no_second_quota_and_no_lock_out() {
    let limiter = Limiter::alone();
    let (old, new) = (hard(1, 3, ends_in(HOUR)), hard(2, 3, ends_in(3 * HOUR)));
    let terms = terms(7, bucket(6_000, 1_000));
    let after = START.after(HOUR);
    assert_eq!(burst(&limiter, &terms.with_month(new), after, 10), 3);
    let set_back = Now { mono_us: after.mono_us + 1, unix_ms: START.unix_ms };
    assert_eq!(burst(&limiter, &terms.with_month(old), set_back, 10), 0, "the new period's quota is used");
    let again = Now { mono_us: after.mono_us + 2, unix_ms: after.unix_ms };
    assert_eq!(burst(&limiter, &terms.with_month(new), again, 10), 0, "and does not begin a second time");
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing_for_the_minute() {
    for policy in [bucket(60, 5), sliding(5), fixed(5)] {
        let (limiter, terms) = (Limiter::alone(), terms(7, policy));
        assert_eq!(burst(&limiter, &terms, START, 10), 5);
        for jump_ms in [-3_600_000, 3_600_000] {
            let jumped = Now { mono_us: START.mono_us + 1, unix_ms: START.unix_ms + jump_ms };
            assert_eq!(burst(&limiter, &terms, jumped, 10), 0);
        }
    }
}

#[test]
fn even_a_monotonic_clock_that_is_set_back_gives_nothing_away_and_locks_out_for_one_window_at_most() {
    for policy in [bucket(60, 5), sliding(5), fixed(5)] {
        let (limiter, terms) = (Limiter::alone(), terms(7, policy));
        assert_eq!(burst(&limiter, &terms, START, 10), 5);
        let back = Now { mono_us: START.mono_us - 1_800_000_000, unix_ms: START.unix_ms };
        assert_eq!(burst(&limiter, &terms, back, 10), 0, "{policy:?}");
        let later = back.after(Duration::from_secs(66));
        assert!(burst(&limiter, &terms, later, 10) >= 1, "{policy:?}");
    }
}

#[test]
fn a_policy_change_keeps_the_filled_fraction() {
    let (limiter, small, large) = (Limiter::alone(), terms(7, bucket(60, 10)), terms(7, bucket(600, 100)));
    assert_eq!(burst(&limiter, &small, START, 5), 5);
    assert_eq!(burst(&limiter, &large.at_revision(2), START, 1_000), 50);
    assert_eq!(burst(&limiter, &small, START, 1_000), 0, "an older snapshot's request follows the newer policy");
    let limiter = Limiter::alone();
    assert_eq!(burst(&limiter, &large, START, 90), 90);
    assert_eq!(burst(&limiter, &small.at_revision(2), START, 1_000), 1);
    let limiter = Limiter::alone();
    assert_eq!(burst(&limiter, &terms(9, fixed(10)), START, 5), 5);
    assert_eq!(burst(&limiter, &terms(9, sliding(12)).at_revision(2), START, 20), 6);
}

#[test]
fn going_back_and_forth_between_policies_gives_nothing_away() {
    let limiter = Limiter::alone();
    let policies = [bucket(60, 10), bucket(600, 100), sliding(50), fixed(20), bucket(7, 3)];
    while ask(&limiter, &terms(7, policies[0]), START).is_ok() {}
    for turn in 0..100u64 {
        let policy = policies[usize::try_from(turn).unwrap() % policies.len()];
        assert_eq!(burst(&limiter, &terms(7, policy).at_revision(turn + 2), START, 3), 0, "turn {turn}");
    }
}

#[test]
fn a_sweep_forgets_only_what_changes_no_answer() {
    let limiter = Limiter::alone();
    let monthly = terms(2, bucket(60, 10)).with_month(hard(1, 5, ends_in(HOUR)));
    burst(&limiter, &monthly, START, 3);
    assert!(ask(&limiter, &terms(4, bucket(60, 10)), START).is_ok());
    assert!(ask(&limiter, &terms(6, sliding(9)), START).is_ok());
    limiter.sweep(START);
    assert_eq!(limiter.slots(), 3);
    limiter.sweep(after_s(200));
    assert_eq!(limiter.slots(), 0);
    let month = limiter.peek(&monthly, after_s(201)).quota.unwrap();
    assert_eq!(month.remaining, 2, "the used quota stays");
    limiter.sweep(START.after(4 * HOUR));
    assert_eq!(limiter.peek(&monthly, START.after(4 * HOUR)).quota.unwrap().remaining, 5, "until its period is over");
}

#[test]
fn threads_that_hammer_one_bucket_get_its_burst_and_its_rate_to_the_token() {
    let limiter = Arc::new(Limiter::alone());
    let hammer = |limiter: Arc<Limiter>| {
        std::thread::spawn(move || {
            let (mut admitted, mut last_us) = (0u64, 0);
            for _ in 0..60_000 {
                let now = Now::read();
                last_us = now.mono_us;
                admitted += u64::from(ask(&limiter, &terms(7, bucket(60_000, 500)), now).is_ok());
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
fn a_peek_shows_what_a_request_would_find_and_takes_nothing() {
    for policy in [bucket(60, 10), sliding(10), fixed(10)] {
        let limiter = Limiter::alone();
        let terms = terms(7, policy).with_month(hard(1, 5, ends_in(HOUR)));
        let figures = |answers: LimitAnswers| (answers.rate.remaining, answers.quota.unwrap().remaining);
        assert_eq!(figures(limiter.peek(&terms, START)), (10, 5), "{policy:?}");
        let asked = ask(&limiter, &terms, START).unwrap();
        for _ in 0..20 {
            assert_eq!(limiter.peek(&terms, START), LimitAnswers { outcome: None, ..asked }, "{policy:?}");
        }
        assert_eq!(limiter.peek(&terms, after_s(120)).rate.remaining, 10, "what has left the window is gone");
        assert_eq!(burst(&limiter, &terms, after_s(120), 100), 4, "the quota allows no more");
        let next = terms.with_month(hard(2, 5, ends_in(2 * HOUR)));
        assert_eq!(limiter.peek(&next, START.after(HOUR)).quota.unwrap().remaining, 5, "of the next period");
    }
}

#[test]
fn keys_have_limits_of_their_own() {
    let limiter = Limiter::alone();
    assert_eq!(burst(&limiter, &terms(14, bucket(60, 3)), START, 10), 3);
    assert_eq!(ask(&limiter, &terms(15, bucket(60, 3)), START).unwrap().rate.remaining, 2);
    assert_eq!(limiter.slots(), 2);
}
