//! Slots in virtual time and without Redis: given up when quiet, made anew, and what a decision costs.

use super::super::entry::Entry;
use super::super::fleet::Fleet;

use super::*;

#[test]
fn a_quiet_slot_is_given_up_and_made_anew_when_it_is_wanted() {
    let (fleet, mut lanes) = Fleet::new(false);
    let (terms, lane, mut redis) =
        (terms(14, bucket(60, 10)), lanes.try_recv().unwrap(), limits::central::Group::new());
    assert!(matches!(fleet.check(&terms, START), Checked::Unknown(..)), "nobody has admitted this process");
    let after = |ms| START.after(Duration::from_millis(ms));
    let sweep = |now| fleet.sweep(&mut lane.lock(), 10, now);
    for ms in 0..10 {
        converse(&lane, &mut redis, after(ms * 10));
    }
    assert!(matches!(fleet.check(&terms, after(100)), Checked::Admitted(_)));
    for ms in 10..7_000 {
        converse(&lane, &mut redis, after(ms * 10));
        sweep(after(ms * 10));
        let expected = usize::from(ms * 10 < 60_000);
        assert!(fleet.slots() >= expected, "given up after {ms}0 ms");
    }
    assert_eq!((fleet.slots(), lane.lock().seats.len()), (0, 0));
    assert!(matches!(fleet.check(&terms, after(70_000)), Checked::Admitted(_)));
    assert_eq!((fleet.slots(), lane.lock().seats.len()), (1, 1));
    assert!(lanes.try_recv().is_err(), "there is one lane");
}

#[test]
fn a_slot_that_was_asked_once_stays_for_a_minute() {
    let (fleet, mut lanes) = Fleet::new(false);
    let (terms, lane, mut redis) =
        (terms(14, bucket(60, 10)), lanes.try_recv().unwrap(), limits::central::Group::new());
    let after = |ms| START.after(Duration::from_millis(ms));
    converse(&lane, &mut redis, START);
    assert!(matches!(fleet.check(&terms, after(0)), Checked::Admitted(_)));
    for ms in 0..5_900 {
        converse(&lane, &mut redis, after(ms * 10));
        fleet.sweep(&mut lane.lock(), 10, after(ms * 10));
        assert_eq!(fleet.slots(), 1, "given up after {ms}0 ms");
    }
}

#[test]
fn a_key_that_there_cannot_be_is_refused_and_leaves_nothing() {
    let (fleet, mut lanes) = Fleet::new(false);
    let lane = lanes.try_recv().unwrap();
    assert!(matches!(fleet.check(&terms(u64::MAX, bucket(60, 10)), START), Checked::Refused(_)));
    assert_eq!((fleet.slots(), lane.lock().seats.len()), (0, 0));
    assert!(lane.lock().syncer.is_at_rest());
}

#[test]
fn keys_of_a_cluster_have_a_lane_for_each_group() {
    let (fleet, mut lanes) = Fleet::new(true);
    for key in 0..200 {
        let _unknown = fleet.check(&terms(key, bucket(60, 10)), START);
    }
    let begun = std::iter::from_fn(|| lanes.try_recv().ok()).count();
    let groups: std::collections::BTreeSet<_> = (0..200).map(limits::script::group_of).collect();
    assert_eq!(begun, groups.len());
}

#[test]
fn a_slot_stays_small_because_there_is_one_for_every_active_subscription() {
    assert_eq!(size_of::<Entry>(), 128);
}

/// The least of many rounds, each of so many steps, in nanoseconds a step. A step gets a number that nobody can foresee and says
/// another one, so that steps cannot overlap.
fn least_ns(rounds: u32, steps: u32, mut step: impl FnMut(u64) -> u64) -> f64 {
    let mut dice = 1u64;
    let round = |_| {
        let began = std::time::Instant::now();
        for _ in 0..steps {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            dice ^= step(dice >> 33);
        }
        began.elapsed().as_nanos() as f64 / f64::from(steps)
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}

/// `cargo test --release -p apihub-gateway --lib -- --ignored --nocapture cost_of_a_look_up`: beside what this machine needs to read
/// one line of memory at random, in the same run.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_look_up() {
    for keys in [1_000u64, 1_000_000] {
        let (fleet, mut lanes) = Fleet::new(false);
        let mut redis = limits::central::Group::new();
        converse(&lanes.try_recv().unwrap(), &mut redis, START);
        // So large an overdraft that nothing has to be asked for.
        let policy = bucket(50_000_000, 50_000_000);
        let all: Vec<Terms> = (0..keys).map(|key| terms(key * 2, policy)).collect();
        let admitted = |terms: &Terms| matches!(fleet.check(terms, START), Checked::Admitted(_));
        assert!(all.iter().all(admitted));
        // Written, so that each has memory of its own.
        let lines: Vec<[u64; 8]> = (0..keys).map(|line| [line; 8]).collect();
        let nth = |dice: u64| usize::try_from(dice % keys).unwrap();
        let line = least_ns(20, 200_000, |dice| std::hint::black_box(&lines)[nth(dice)][0]);
        let decide = least_ns(20, 200_000, |dice| u64::from(!admitted(&terms(dice % keys * 2, policy))));
        // Asked for a second time at once: all its lines are at hand.
        let both = least_ns(20, 200_000, |dice| {
            let terms = terms(dice % keys * 2, policy);
            u64::from(!(admitted(&terms) && admitted(&terms)))
        });
        let at_hand = both - decide;
        println!(
            "{keys} keys: a decision {decide:.0} ns, with its lines at hand {at_hand:.0} ns; a line of memory {line:.0} ns"
        );
    }
}

/// `cargo test -p apihub-gateway --lib -- --ignored --nocapture cost_of`: figures, not a proof.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_decision() {
    let figure = |what: &str, limiter: &Limiter, keys: u64, mask: u64| {
        let policy = bucket(50_000_000, 50_000_000);
        for key in 0..keys {
            let _opened = limiter.check(&terms(key * 2, policy), START);
        }
        let (tries, mut key, began) = (2_000_000u64, 1u64, std::time::Instant::now());
        let mut admitted = 0u64;
        for _ in 0..tries {
            key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let asked = terms(((key >> 33) & mask) % keys * 2, policy);
            admitted += u64::from(matches!(limiter.check(&asked, START), Checked::Admitted(_)));
        }
        let each = began.elapsed().as_nanos() / u128::from(tries);
        println!("{what}: {each} ns, {admitted} of {tries} admitted");
    };
    figure("alone, 1,000 keys", &Limiter::alone(), 1_000, u64::MAX);
    figure("alone, 100,000 keys", &Limiter::alone(), 100_000, u64::MAX);
}
