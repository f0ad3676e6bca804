//! Any fleet, any traffic, any faults: no offence. `LIMITS_CASES=100000` runs the nightly number. Refuses figures; `conduct` has
//! those.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::scenario::{Change, Fault, Network, Scenario};
use super::traffic::{Phase, Shape};
use super::world::run;
use crate::policy::{Algorithm, OnRedisDown};

const CASES: u32 = 2_000;

fn cases(part: u32) -> u32 {
    std::env::var("LIMITS_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES) / part
}

fn network() -> impl Strategy<Value = Network> {
    let calm = Just(Network::CALM);
    let rough = (50..400u64, 400..20_000u64, 0..150u64, 0..150u64, 0..100u64, 1..1_500u64).prop_map(
        |(low, high, loss_permille, double_permille, late_permille, late_ms)| Network {
            delay_us: (low, high),
            loss_permille,
            double_permille,
            late_permille,
            late_ms,
        },
    );
    prop_oneof![1 => calm, 3 => rough]
}

fn shape(burst: u64, nodes: u64) -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Quiet),
        Just(Shape::Even),
        Just(Shape::Skewed),
        Just(Shape::Single),
        (10..600u64).prop_map(|every_ms| Shape::Hop { every_ms }),
        (1..=2 * burst + 1, 1..=nodes, 200..3_000u64).prop_map(|(size, nodes, every_ms)| Shape::Bursts {
            size,
            nodes,
            every_ms
        }),
        (1..=burst / 2 + 2, 20..600u64).prop_map(|(size, every_ms)| Shape::Hoard { size, every_ms }),
    ]
}

fn phases(per_minute: u32, burst: u32, nodes: u64, length_ms: u64) -> impl Strategy<Value = Vec<Phase>> {
    let phase = (shape(u64::from(burst), nodes), 2..50u64, length_ms / 10..length_ms).prop_map(
        move |(shape, tenths, for_ms)| Phase {
            shape,
            rate_milli: u64::from(per_minute) * 1_000 / 60 * tenths / 10,
            for_ms,
        },
    );
    prop::collection::vec(phase, 1..5)
}

fn fault(nodes: usize) -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..nodes, 1..500u64).prop_map(|(node, back_ms)| Fault::Crash { node, back_ms }),
        (0..nodes).prop_map(|node| Fault::Join { node }),
        (0..nodes, 20..3_000u64).prop_map(|(node, for_ms)| Fault::CutOff { node, for_ms }),
        (20..4_000u64).prop_map(|for_ms| Fault::RedisDown { for_ms }),
        (1..1_500u64).prop_map(|lost_ms| Fault::Failover { lost_ms }),
        Just(Fault::Wipe),
        (-5_000..5_000i64).prop_map(|by_ms| Fault::ClockStep { by_ms }),
        (0..nodes, 1..3_000u64).prop_map(|(node, for_ms)| Fault::Pause { node, for_ms }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    per_minute: u32,
    burst: u32,
    nodes: usize,
    spare: usize,
}

fn scenario(sizes: Sizes, algorithm: Algorithm, length_ms: u64) -> impl Strategy<Value = Scenario> {
    let room = sizes.nodes + sizes.spare;
    let faults = prop::collection::vec((0..2 * length_ms, fault(room)), 0..5);
    let faults = prop_oneof![1 => Just(Vec::new()), 2 => faults];
    let when_down = prop_oneof![4 => Just(OnRedisDown::FairShare), 1 => Just(OnRedisDown::Closed)];
    let traffic = phases(sizes.per_minute, sizes.burst, u64::try_from(room).unwrap(), length_ms);
    (any::<u64>(), network(), traffic, faults, when_down, prop::bool::weighted(0.15)).prop_map(
        move |(seed, network, phases, faults, when_down, strict)| Scenario {
            seed,
            algorithm,
            per_minute: sizes.per_minute,
            burst: sizes.burst,
            strict,
            when_down,
            nodes: sizes.nodes,
            fleet: u32::try_from(room).unwrap(),
            network,
            duration_ms: phases.iter().map(|phase| phase.for_ms).sum(),
            phases,
            faults,
            change: None,
            closing: seed % 4 == 0,
        },
    )
}

fn buckets() -> impl Strategy<Value = Scenario> {
    let sizes = (prop_oneof![6..600u32, 600..24_000u32], 1..300u32, 1..12usize, 0..3usize)
        .prop_map(|(per_minute, burst, nodes, spare)| Sizes { per_minute, burst, nodes, spare });
    sizes.prop_flat_map(|sizes| scenario(sizes, Algorithm::TokenBucket, 3_000))
}

fn change() -> impl Strategy<Value = Change> {
    (0..4_000u64, 0..2_000u64, 6..24_000u32, 1..300u32).prop_map(|(at_ms, within_ms, per_minute, burst)| Change {
        at_ms,
        within_ms,
        per_minute,
        burst,
    })
}

fn changed_buckets() -> impl Strategy<Value = Scenario> {
    (buckets(), change()).prop_map(|(scenario, change)| Scenario { change: Some(change), ..scenario })
}

fn windows() -> impl Strategy<Value = Scenario> {
    let sizes = (6..300u32, 1..6usize, 0..2usize).prop_map(|(limit, nodes, spare)| Sizes {
        per_minute: limit,
        burst: limit,
        nodes,
        spare,
    });
    let algorithm = prop_oneof![Just(Algorithm::FixedWindow), Just(Algorithm::SlidingWindow)];
    (sizes, algorithm).prop_flat_map(|(sizes, algorithm)| scenario(sizes, algorithm, 60_000))
}

/// How close to the bound any run came, in thousandths, without faults and with: `--nocapture` tells.
static TIGHTEST: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn judge(scenario: &Scenario) -> Result<(), TestCaseError> {
    let outcome = run(scenario);
    let (kind, name) = if scenario.faults.is_empty() { (0, "no faults") } else { (1, "faults") };
    let tight = outcome.peak * 1_000 / outcome.bound.max(1);
    if scenario.algorithm == Algorithm::TokenBucket && tight > TIGHTEST[kind].fetch_max(tight, Ordering::Relaxed) {
        println!("{name}: peak {} of {} ({tight} ‰), deepest {}", outcome.peak, outcome.bound, outcome.deepest);
    }
    prop_assert!(outcome.offences.is_empty(), "{:?}", outcome.offences);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(1), failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn buckets_hold_their_bound_and_lose_nothing(scenario in buckets()) {
        judge(&scenario)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2), failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_policy_that_changes_under_traffic_and_faults_holds_the_bound_of_both(scenario in changed_buckets()) {
        judge(&scenario)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(5), failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn windows_hold_their_bound_and_lose_nothing(scenario in windows()) {
        judge(&scenario)?;
    }
}

/// Found by chance, once in some twenty thousand runs: who was refused until the end of a window tries too soon when Redis' clock
/// jumps back just before it. The window's bound, and every account, hold all the same.
#[test]
fn a_clock_that_jumps_back_at_the_end_of_a_window_breaks_no_promise() {
    let scenario = Scenario {
        seed: 17_562_469_835_140_623_660,
        algorithm: Algorithm::FixedWindow,
        per_minute: 127,
        burst: 127,
        strict: false,
        when_down: OnRedisDown::FairShare,
        nodes: 4,
        fleet: 5,
        network: Network {
            delay_us: (50, 4_921),
            loss_permille: 26,
            double_permille: 28,
            late_permille: 0,
            late_ms: 1,
        },
        phases: vec![
            Phase { shape: Shape::Single, rate_milli: 4_866, for_ms: 30_507 },
            Phase { shape: Shape::Bursts { size: 93, nodes: 2, every_ms: 1_870 }, rate_milli: 423, for_ms: 9_570 },
        ],
        duration_ms: 40_077,
        faults: vec![(38_307, Fault::ClockStep { by_ms: -102 })],
        change: None,
        closing: true,
    };
    assert_eq!(run(&scenario).offences, Vec::<String>::new());
}
