//! The projected figures.

use super::*;
use crate::slot::lease::Lease;
use crate::terms::MS_NS;

fn policy(algorithm: Algorithm) -> Policy {
    Policy::new(1, algorithm, 600, 50).unwrap()
}

#[test]
fn a_key_of_which_nothing_is_known_is_full_but_for_what_is_owed() {
    let slot = Slot::new();
    slot.set_overdraft(2);
    slot.take(1);
    let answer = project(&policy(Algorithm::TokenBucket), &slot, 1);
    assert_eq!(answer, Answer { remaining: 49, grows_s: 1 });
}

#[test]
fn what_flows_in_and_what_is_held_counts() {
    let slot = Slot::new();
    let start_ns = 1 << 20;
    slot.set_contact(-5, start_ns);
    let at = |ms: u64| project(&policy(Algorithm::TokenBucket), &slot, start_ns + ms * MS_NS);
    assert_eq!(at(0), Answer { remaining: 0, grows_s: 1 });
    assert_eq!(at(1_500).remaining, 10);
    assert_eq!(at(60_000), Answer { remaining: 50, grows_s: 0 });
    slot.put(Lease { tokens: 4, until: Tick::of(start_ns + 500 * MS_NS) }, Tick::of(start_ns));
    assert_eq!(at(0).remaining, 4);
}

#[test]
fn a_slow_bucket_in_debt_says_when_there_is_a_token_again() {
    let slot = Slot::new();
    slot.set_contact(-5, 1 << 20);
    let slow = Policy::new(1, Algorithm::TokenBucket, 30, 50).unwrap();
    assert_eq!(project(&slow, &slot, 1 << 20), Answer { remaining: 0, grows_s: 12 });
}

#[test]
fn a_sliding_window_gains_nothing_before_it_is_over_and_tells_when_it_may() {
    let slot = Slot::new();
    let start_ns = 1 << 20;
    slot.set_contact(7, start_ns);
    slot.set_grows(start_ns + 3_200 * MS_NS);
    let at = |ms: u64| project(&policy(Algorithm::SlidingWindow), &slot, start_ns + ms * MS_NS);
    assert_eq!(at(0), Answer { remaining: 7, grows_s: 4 });
    assert_eq!(at(2_500).grows_s, 1);
    assert_eq!(at(59_000), Answer { remaining: 7, grows_s: 1 });
    assert_eq!(at(70_000), Answer { remaining: 600, grows_s: 0 });
}

#[test]
fn a_fixed_window_is_whole_when_its_minute_is_over() {
    let slot = Slot::new();
    let start_ns = 1 << 20;
    slot.set_contact(0, start_ns);
    slot.set_grows(start_ns + 20_500 * MS_NS);
    let at = |ms: u64| project(&policy(Algorithm::FixedWindow), &slot, start_ns + ms * MS_NS);
    assert_eq!(at(0), Answer { remaining: 0, grows_s: 21 });
    assert_eq!(at(20_499).grows_s, 1);
    assert_eq!(at(20_500), Answer { remaining: 600, grows_s: 0 });
}

#[test]
fn retry_after_is_a_second_at_least() {
    assert_eq!([0, 1, 1_000_000_000, 1_000_000_001].map(retry_after_s), [1, 1, 1, 2]);
}
