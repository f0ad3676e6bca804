//! The promises, one fixed scenario each, with numbers. Refuses to be random; `properties` is.

use super::scenario::{Fault, Scenario};
use super::traffic::{Phase, Shape};
use super::world::{Outcome, run};
use crate::terms::WAIT_MAX_NS;

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
