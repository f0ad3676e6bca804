//! The promises, one fixed scenario each, with numbers. Refuses to be random; `properties` is.

use super::scenario::{Fault, Scenario};
use super::traffic::{Phase, Shape};
use super::world::{Outcome, run};
use crate::policy::{Algorithm, OnRedisDown};
use crate::terms::{MS_NS, WAIT_MAX_NS};

/// Prints a line of figures with `--nocapture`.
fn told(name: &str, outcome: &Outcome) {
    println!(
        "{name:<28} offered {:>6} admitted {:>6} ideal {:>6} refused {:>6} | peak {:>4} of {:>4} | ops {:>6} waits {:>5} longest {:>4} µs deepest {:>3}",
        outcome.offered,
        outcome.admitted,
        outcome.ideal,
        outcome.refused,
        outcome.peak,
        outcome.bound,
        outcome.operations,
        outcome.waits,
        outcome.longest_wait_ns / 1_000,
        outcome.deepest,
    );
}

pub(super) fn tried(name: &str, scenario: &Scenario) -> Outcome {
    let outcome = run(scenario);
    told(name, &outcome);
    assert!(outcome.offences.is_empty(), "{name}: {:?}", outcome.offences);
    assert!(outcome.longest_wait_ns <= WAIT_MAX_NS, "{name}: waited {} ns", outcome.longest_wait_ns);
    outcome
}

fn conforming() -> [(&'static str, Shape); 4] {
    [("even", Shape::Even), ("skewed", Shape::Skewed), ("single", Shape::Single), ("hop", Shape::Hop { every_ms: 300 })]
}

#[test]
fn conforming_traffic_is_never_refused() {
    for (name, shape) in conforming() {
        for seed in 1..=5 {
            for nodes in [1, 3, 10] {
                let scenario = Scenario::example(vec![Phase::new(shape, 80, 20_000)]).of(6_000, 100, nodes).seed(seed);
                let outcome = tried(&format!("{name}80 N={nodes}"), &scenario);
                assert_eq!(outcome.refused, 0, "{name} N={nodes} seed {seed}");
            }
        }
    }
}

#[test]
fn conforming_traffic_of_small_plans_is_never_refused() {
    for (name, shape) in conforming() {
        for (per_minute, burst, nodes) in [(60, 10, 1), (60, 10, 3), (60, 10, 10), (600, 50, 10), (600, 20, 40)] {
            let phase = Phase { shape, rate_milli: u64::from(per_minute) * 800 / 60, for_ms: 300_000 };
            let scenario = Scenario::example(vec![phase]).of(per_minute, burst, nodes);
            let outcome = tried(&format!("{name} {per_minute}/{burst} N={nodes}"), &scenario);
            assert_eq!(outcome.refused, 0, "{name} {per_minute}/{burst} N={nodes}");
        }
    }
}

#[test]
fn saturation_uses_the_whole_rate() {
    for (name, shape) in conforming() {
        for nodes in [1, 3, 10] {
            let scenario = Scenario::example(vec![Phase::new(shape, 250, 30_000)]).of(6_000, 100, nodes);
            let outcome = tried(&format!("{name}250 N={nodes}"), &scenario);
            assert!(outcome.admitted * 100 >= outcome.ideal * 97, "{name} N={nodes}");
        }
    }
}

#[test]
fn a_bucket_wanted_at_once_on_many_nodes_is_had_but_for_two_percent() {
    let (mut offered, mut refused) = (0, 0);
    for seed in 1..=20 {
        for nodes in [2, 5, 10] {
            let shape = Shape::Bursts { size: 90, nodes, every_ms: 3_000 };
            let outcome = tried("burstN", &Scenario::example(vec![Phase::new(shape, 0, 15_000)]).seed(seed));
            (offered, refused) = (offered + outcome.offered, refused + outcome.refused);
        }
    }
    println!("burstN: {refused} of {offered} refused");
    assert!(refused * 50 <= offered, "{refused} of {offered}");
}

#[test]
fn strict_exceeds_nothing() {
    for nodes in [1, 3, 10] {
        let shape = Shape::Bursts { size: 300, nodes: 10, every_ms: 2_500 };
        let mut scenario = Scenario::example(vec![Phase::new(shape, 0, 15_000)]).of(6_000, 100, nodes);
        scenario.strict = true;
        let outcome = tried(&format!("strict N={nodes}"), &scenario);
        assert!(outcome.peak <= 102, "peak {}", outcome.peak);
    }
}

#[test]
fn redis_down_for_all_admits_no_more_than_the_rate() {
    for nodes in [3, 10] {
        let scenario = Scenario::example(vec![Phase::new(Shape::Even, 300, 30_000)])
            .of(6_000, 100, nodes)
            .with(10_000, Fault::RedisDown { for_ms: 10_000 });
        let outcome = tried(&format!("redis down N={nodes}"), &scenario);
        let n = u64::try_from(nodes).unwrap();
        // No term for the outage: B + N·e + r·H + N.
        let bound = 100 + n * u64::from(scenario.terms().overdraft) + 50 + n;
        assert!(outcome.peak <= bound, "peak {} above {bound}", outcome.peak);
        assert!(outcome.admitted * 100 >= outcome.ideal * 90, "{} of {}", outcome.admitted, outcome.ideal);
    }
}

#[test]
fn a_pair_of_key_and_node_asks_no_more_than_twice_a_tick() {
    for (name, scenario) in storms() {
        let outcome = tried(name, &scenario);
        assert!(outcome.operations <= operations_max(&scenario), "{name}: {} operations", outcome.operations);
        assert!(outcome.operations <= outcome.offered, "{name}: more operations than requests");
    }
}

pub(super) fn storms() -> [(&'static str, Scenario); 3] {
    let flood = |rate| Scenario::example(vec![Phase::new(Shape::Even, rate, 10_000)]);
    [
        ("storm r=100", flood(2_000)),
        ("storm r=1000 B=1000", flood(8_000).of(60_000, 1_000, 10)),
        ("storm r=10 B=300", flood(1_000).of(600, 300, 10)),
    ]
}

/// 2/Δ_k for every node, and log₂B to find the bucket's end.
pub(super) fn operations_max(scenario: &Scenario) -> u64 {
    let ticks = scenario.duration_ms * MS_NS / scenario.terms().tick_ns;
    let doublings = u64::from(scenario.burst.ilog2() + 1);
    u64::try_from(scenario.nodes).unwrap() * (2 * ticks + doublings)
}

#[test]
fn more_nodes_than_tokens_exceed_nothing() {
    // Strict by itself: N·e would be ten times the bucket.
    let scenario = Scenario::example(vec![Phase::new(Shape::Even, 50, 30_000)]).of(60, 10, 100);
    let outcome = tried("N=100 B=10", &scenario);
    assert!(outcome.peak <= 11, "peak {}", outcome.peak);
    assert!(outcome.admitted * 100 >= outcome.ideal * 97, "{} of {}", outcome.admitted, outcome.ideal);
}

#[test]
fn an_attack_on_every_node_at_once_gets_the_overdraft_once() {
    let shape = Shape::Bursts { size: 4_000, nodes: 100, every_ms: 60_000 };
    let scenario = Scenario::example(vec![Phase::new(shape, 0, 10_000)]).of(6_000, 1_000, 100);
    let outcome = tried("attack N=100", &scenario);
    assert!(outcome.peak <= 1_000 + 100 * 5 + 1, "peak {}", outcome.peak);
}

#[test]
fn closed_admits_nothing_without_a_lease() {
    let mut scenario = Scenario::example(vec![Phase::new(Shape::Even, 80, 20_000)])
        .of(6_000, 100, 3)
        .with(5_000, Fault::RedisDown { for_ms: 5_000 });
    scenario.when_down = OnRedisDown::Closed;
    let outcome = tried("closed", &scenario);
    assert!(outcome.peak <= 101);
    assert!(outcome.refused > 300 && outcome.refused < 520, "{} refused in 5 s", outcome.refused);
}

#[test]
fn open_goes_on_while_redis_is_away() {
    let mut scenario = Scenario::example(vec![Phase::new(Shape::Single, 80, 20_000)])
        .of(6_000, 100, 10)
        .with(5_000, Fault::RedisDown { for_ms: 5_000 });
    scenario.when_down = OnRedisDown::Open;
    let outcome = tried("open", &scenario);
    assert!(outcome.refused <= 20, "{} refused", outcome.refused);
}

#[test]
fn windows_hold_their_limit_under_attack() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        for (name, shape) in conforming() {
            let mut scenario = Scenario::example(vec![Phase::new(shape, 20, 200_000)]).of(600, 600, 5);
            scenario.algorithm = algorithm;
            let outcome = tried(&format!("{algorithm:?} {name}"), &scenario);
            assert!(outcome.fullest >= 594, "{} of 600", outcome.fullest);
            assert!(outcome.fullest <= 600 + 5 * 60, "{}", outcome.fullest);
        }
    }
}

#[test]
fn crashing_nodes_cost_little_and_admit_little() {
    let mut scenario = Scenario::example(vec![Phase::new(Shape::Even, 250, 30_000)]);
    for second in 1..29 {
        scenario =
            scenario.with(second * 1_000, Fault::Crash { node: usize::try_from(second).unwrap() % 10, back_ms: 200 });
    }
    let outcome = tried("a crash a second", &scenario);
    assert!(outcome.admitted * 100 >= outcome.ideal * 95, "{} of {}", outcome.admitted, outcome.ideal);
    assert!(outcome.peak <= 201, "peak {}", outcome.peak);
}
