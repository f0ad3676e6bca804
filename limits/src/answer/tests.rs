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
    assert_eq!(answer, Answer { limit: 50, remaining: 49, reset_s: 1 });
}

#[test]
fn what_flows_in_and_what_is_held_counts() {
    let slot = Slot::new();
    let start_ns = 1 << 20;
    slot.set_contact(-5, start_ns);
    let at = |ms: u64| project(&policy(Algorithm::TokenBucket), &slot, start_ns + ms * MS_NS);
    assert_eq!(at(0), Answer { limit: 50, remaining: 0, reset_s: 5 });
    assert_eq!(at(1_500).remaining, 10);
    assert_eq!(at(60_000), Answer { limit: 50, remaining: 50, reset_s: 0 });
    slot.put(Lease { tokens: 4, until: Tick::of(start_ns + 500 * MS_NS) }, Tick::of(start_ns));
    assert_eq!(at(0).remaining, 4);
}

#[test]
fn a_window_gains_nothing_before_redis_says_so() {
    let slot = Slot::new();
    slot.set_contact(7, 1 << 20);
    let at = |ms: u64| project(&policy(Algorithm::SlidingWindow), &slot, (1 << 20) + ms * MS_NS);
    assert_eq!(at(59_000), Answer { limit: 600, remaining: 7, reset_s: 60 });
    assert_eq!(at(70_000), Answer { limit: 600, remaining: 600, reset_s: 0 }, "until it is over");
}

#[test]
fn retry_after_is_a_second_at_least() {
    assert_eq!([0, 1, 1_000_000_000, 1_000_000_001].map(retry_after_s), [1, 1, 1, 2]);
}
