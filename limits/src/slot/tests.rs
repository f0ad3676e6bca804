//! The slot on one thread: lives of leases, overdraft, giving back. Every interleaving of several is loom's part.

use super::*;
use crate::simulation::Dice;
use crate::terms::MS_NS;

fn lease(tokens: u32, until_ms: u64) -> Lease {
    Lease { tokens, until: Tick::of(until_ms * MS_NS) }
}

fn is_leased(take: Take) -> bool {
    matches!(take, Take::Admitted { taken: Taken::Lease, .. })
}

#[test]
fn is_one_cache_line() {
    assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (64, 64));
}

#[test]
fn a_new_slot_admits_nothing() {
    assert_eq!(Slot::new().take(1), Take::Unknown);
}

#[test]
fn takes_the_older_lease_first_and_none_after_its_end() {
    let slot = Slot::new();
    slot.put(lease(2, 100), Tick::of(0));
    slot.put(lease(1, 50), Tick::of(0));
    assert!(is_leased(slot.take(MS_NS)));
    assert_eq!(slot.held(Tick::of(MS_NS)), 2);
    assert_eq!(slot.held(Tick::of(60 * MS_NS)), 2, "the one that ended first is spent");
    assert!(is_leased(slot.take(60 * MS_NS)));
    assert_eq!(slot.take(100 * MS_NS), Take::Unknown);
}

#[test]
fn a_third_lease_joins_and_ends_early() {
    let slot = Slot::new();
    let now = Tick::of(0);
    slot.put(lease(1, 50), now);
    slot.put(lease(1, 100), now);
    let put = slot.put(lease(5, 150), now);
    assert!(put.joined && put.displaced == 0);
    assert_eq!(slot.held(Tick::of(90 * MS_NS)), 6);
    assert_eq!(slot.held(Tick::of(100 * MS_NS)), 0);
}

#[test]
fn overdraft_comes_after_leases_and_denial() {
    let slot = Slot::new();
    slot.set_overdraft(2);
    slot.deny_until(10, Denial::Quota);
    assert_eq!(slot.take(9), Take::Denied { until_ns: 10, by: Denial::Quota });
    assert_eq!(slot.take(10), Take::Admitted { taken: Taken::Overdraft, wake: true });
    assert_eq!(slot.take(10), Take::Admitted { taken: Taken::Overdraft, wake: false }, "called once");
    assert_eq!(slot.take(10), Take::Unknown);
    assert_eq!((slot.look(), slot.collect_owed(), slot.owed()), (4, 2, 0));
    slot.set_overdraft(1);
    assert_eq!(slot.take(10), Take::Admitted { taken: Taken::Overdraft, wake: true });
}

#[test]
fn what_is_owed_counts_against_the_overdraft() {
    let slot = Slot::new();
    slot.set_overdraft(3);
    slot.take(1);
    slot.take(1);
    slot.set_overdraft(3);
    assert_eq!((slot.overdraft_left(), slot.owed()), (1, 2));
    slot.lower_overdraft(1);
    assert_eq!(slot.overdraft_left(), 0);
    slot.lower_overdraft(9);
    assert_eq!(slot.overdraft_left(), 0);
}

#[test]
fn remembers_the_level_of_the_last_contact() {
    let slot = Slot::new();
    assert_eq!(slot.contact(), None);
    for level in [-70, 0, 5_000_000] {
        slot.set_contact(level, 3 << 16);
        assert_eq!(slot.contact(), Some(Contact { level, at_ns: 3 << 16 }));
    }
    slot.set_contact(i64::MAX, 1 << 16);
    assert_eq!(slot.contact().unwrap().level, LEVEL_BIAS - 1);
}

/// Leases come, are spent and withdrawn at random; each token spent must be explained by a grant that has not ended.
pub(crate) fn generations() -> Option<String> {
    let mut dice = Dice::new(11);
    for round in 0..200 {
        let (slot, mut grants, mut now_ns) = (Slot::new(), Vec::<(u64, u32)>::new(), 0);
        for _ in 0..200 {
            now_ns += dice.below(15 * MS_NS);
            match dice.below(4) {
                0 | 1 => {
                    let (tokens, until_ns) = (u32::try_from(dice.between(1, 20)).unwrap(), now_ns + 50 * MS_NS);
                    slot.put(Lease { tokens, until: Tick::of(until_ns) }, Tick::of(now_ns));
                    grants.push((until_ns, tokens));
                }
                2 => {
                    let back = slot.withdraw(Cell::First, u32::try_from(dice.below(5)).unwrap());
                    explain(&mut grants, back, 0);
                }
                _ => {
                    for _ in 0..dice.below(12) {
                        if is_leased(slot.take(now_ns)) && !explain(&mut grants, 1, now_ns) {
                            return Some(format!("round {round}: a token was spent after its lease had ended"));
                        }
                    }
                }
            }
        }
    }
    None
}

/// Takes from what ends first, among what has not ended at `now_ns`.
fn explain(grants: &mut Vec<(u64, u32)>, mut tokens: u32, now_ns: u64) -> bool {
    for (until_ns, left) in grants.iter_mut() {
        if *until_ns > now_ns {
            let part = tokens.min(*left);
            *left -= part;
            tokens -= part;
        }
    }
    grants.retain(|(_, left)| *left > 0);
    tokens == 0
}

#[test]
fn no_token_outlives_its_lease() {
    assert_eq!(generations(), None);
}

/// The least of several rounds, in ps.
fn least_ps(mut once: impl FnMut(u64)) -> u128 {
    const TAKES: u32 = 500_000;
    let rounds = (0..30_u64).map(|round| {
        let start = std::time::Instant::now();
        (0..u64::from(TAKES)).for_each(|take| once(std::hint::black_box(round + take)));
        start.elapsed().as_nanos() * 1_000 / u128::from(TAKES)
    });
    rounds.min().unwrap()
}

/// `cargo test -p apihub-limits hot_take -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn hot_take_costs() {
    let slot = Slot::new();
    slot.put(Lease { tokens: crate::terms::LEASE_TOKENS_MAX, until: Tick::of(u64::MAX) }, Tick::of(0));
    let leased = least_ps(|now| assert!(is_leased(slot.take(now))));
    let denied = Slot::new();
    denied.deny_until(u64::MAX, Denial::Rate);
    let refused = least_ps(|now| assert!(!matches!(denied.take(now), Take::Admitted { .. })));
    let word = std::sync::atomic::AtomicU64::new(0);
    let exchange = least_ps(|now| {
        let seen = word.load(Ordering::Acquire);
        let _another_was_faster = word.compare_exchange_weak(seen, seen ^ now, Ordering::AcqRel, Ordering::Acquire);
    });
    println!("a take {leased} ps, a refusal {refused} ps; a compare-and-exchange alone {exchange} ps");
}
