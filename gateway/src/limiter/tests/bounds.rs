//! The stated bounds, against every true interval of adversarial and random traffic.

use proptest::prelude::*;

use super::*;

/// What a client does next: wait this many microseconds, then try this often.
type Traffic = Vec<(u64, usize)>;

fn traffic() -> impl Strategy<Value = Traffic> {
    let gap = prop_oneof![
        0u64..1_000,
        0u64..1_000_000,
        0u64..20_000_000,
        Just(5_000_000),
        Just(59_999_999),
        Just(60_000_000)
    ];
    proptest::collection::vec((gap, 1usize..30), 1..60)
}

/// The times in µs at which requests were admitted.
fn admissions(policy: &Policy, offset_us: u64, traffic: &Traffic) -> Vec<u64> {
    let life = Life::new();
    let mut now = START.after(Duration::from_micros(offset_us));
    let mut admitted = Vec::new();
    for (gap_us, tries) in traffic {
        now = now.after(Duration::from_micros(*gap_us));
        admitted.extend(std::iter::repeat_n(now.mono_us, life.burst(policy, now, *tries)));
    }
    admitted
}

/// The most admissions in any true window (t − 60 s, t].
fn most_in_a_minute(times: &[u64]) -> usize {
    let in_window = |end: &u64| times.iter().filter(|time| **time <= *end && **time + 60_000_000 > *end).count();
    times.iter().map(in_window).max().unwrap_or(0)
}

proptest! {
    #[test]
    fn a_bucket_admits_at_most_burst_plus_rate_times_time(
        per_minute in prop_oneof![1u32..100, 1u32..100_000, Just(7u32), Just(40_000_000u32)],
        burst in 1u32..50, offset in 0u64..60_000_000, traffic in traffic(),
    ) {
        let times = admissions(&bucket(per_minute, burst), offset, &traffic);
        for (i, from) in times.iter().enumerate() {
            for (j, to) in times.iter().enumerate().skip(i) {
                let over = ((j - i + 1) as u128).saturating_sub(u128::from(burst));
                prop_assert!(over * 60_000_000 <= u128::from(per_minute) * u128::from(to - from));
            }
        }
    }

    #[test]
    fn a_sliding_window_admits_at_most_its_limit_in_any_true_minute(
        limit in 1u32..100, offset in 0u64..60_000_000, traffic in traffic(),
    ) {
        prop_assert!(most_in_a_minute(&admissions(&sliding(limit), offset, &traffic)) <= limit as usize);
    }

    #[test]
    fn a_fixed_window_admits_at_most_twice_its_limit_in_any_true_minute(
        limit in 1u32..100, offset in 0u64..60_000_000, traffic in traffic(),
    ) {
        prop_assert!(most_in_a_minute(&admissions(&fixed(limit), offset, &traffic)) <= 2 * limit as usize);
    }

    #[test]
    fn what_remains_is_what_is_then_admitted(
        which in 0usize..3, limit in 1u32..60, traffic in traffic(),
    ) {
        let policy = [bucket(limit, limit), sliding(limit), fixed(limit)][which];
        let life = Life::new();
        let mut now = START;
        for (gap_us, tries) in traffic {
            now = now.after(Duration::from_micros(gap_us));
            let Ok(answers) = life.ask(&policy, now) else { continue };
            let remaining = usize::try_from(answers.rate.remaining).unwrap();
            prop_assert_eq!(life.burst(&policy, now, tries), tries.min(remaining));
        }
    }
}

#[test]
fn a_bucket_under_constant_pressure_gives_its_whole_rate() {
    for (per_minute, burst) in [(60u32, 5u32), (7, 3), (6_000, 100)] {
        let life = Life::new();
        let policy = bucket(per_minute, burst);
        let steps = 600_000u64;
        let admitted: usize =
            (0..=steps).map(|ms| life.burst(&policy, START.after(Duration::from_millis(ms)), 2)).sum();
        let due = u64::from(burst) + u64::from(per_minute) * steps / 60_000;
        let admitted = u64::try_from(admitted).unwrap();
        assert!(admitted <= due && admitted + 1 >= due, "{admitted} of {due}");
    }
}

#[test]
fn the_worst_case_of_each_window_is_the_stated_one() {
    let straddle: Traffic = vec![(59_900_000, 2_000), (200_000, 2_000)];
    let minute_aligned = 0;
    assert_eq!(most_in_a_minute(&admissions(&fixed(1_000), minute_aligned, &straddle)), 2_000);
    assert_eq!(most_in_a_minute(&admissions(&sliding(1_000), minute_aligned, &straddle)), 1_000);
}
