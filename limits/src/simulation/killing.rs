//! Shows that the tests have teeth: every known mistake is made once and some check has to notice, and none may complain without
//! a mistake. `cargo test -p apihub-limits every_mutant -- --nocapture` names the checks. Refuses to count a mutant that
//! only crashes.

use super::conduct::{operations_max, storms};
use super::scenario::{Fault, Network, Scenario};
use super::traffic::{Phase, Shape};
use super::world::run;
use crate::mutant::{self, Mutant};

type Check = (&'static str, fn() -> Option<String>);

const CHECKS: [Check; 8] = [
    ("rough network", rough_network),
    ("overload", overload),
    ("sparse requests everywhere", sparse),
    ("hoarding", hoarding),
    ("keys given up", given_up),
    ("ask storm", storm),
    ("generations", crate::slot::tests::generations),
    ("chain of refunds", crate::central::tests::chain_of_refunds),
];

fn first_offence(scenarios: impl Iterator<Item = Scenario>) -> Option<String> {
    scenarios.into_iter().find_map(|scenario| run(&scenario).offences.into_iter().next())
}

fn rough() -> Network {
    Network { delay_us: (100, 3_000), loss_permille: 100, double_permille: 100, late_permille: 50, late_ms: 700 }
}

fn rough_network() -> Option<String> {
    let shapes = [Shape::Even, Shape::Hop { every_ms: 250 }, Shape::Bursts { size: 90, nodes: 5, every_ms: 900 }];
    first_offence((1..=4).flat_map(|seed| {
        shapes.map(|shape| Scenario {
            network: rough(),
            ..Scenario::example(vec![Phase::new(shape, 70, 8_000)]).of(6_000, 100, 5).seed(seed)
        })
    }))
}

fn overload() -> Option<String> {
    first_offence([3, 10].into_iter().flat_map(|nodes| {
        [Shape::Even, Shape::Hop { every_ms: 100 }]
            .map(|shape| Scenario::example(vec![Phase::new(shape, 400, 20_000)]).of(6_000, 100, nodes))
    }))
}

/// So few on each node that all of them live on overdraft.
fn sparse() -> Option<String> {
    first_offence(
        (1..=2).map(|seed| Scenario::example(vec![Phase::new(Shape::Even, 6, 60_000)]).of(120, 40, 20).seed(seed)),
    )
}

/// Every request comes to a key that was given up if that was possible.
fn given_up() -> Option<String> {
    first_offence([Shape::Even, Shape::Hop { every_ms: 300 }].into_iter().map(|shape| Scenario {
        closing: true,
        ..Scenario::example(vec![Phase::new(shape, 8, 20_000)]).of(600, 100, 5)
    }))
}

fn hoarding() -> Option<String> {
    first_offence([20, 60, 120].into_iter().map(|every_ms| {
        let shape = Shape::Hoard { size: 40, every_ms };
        let scenario = Scenario::example(vec![Phase::new(shape, 0, 10_000)]).of(1_200, 100, 12);
        Scenario { network: rough(), ..scenario }.with(4_000, Fault::Pause { node: 3, for_ms: 450 })
    }))
}

fn storm() -> Option<String> {
    storms().into_iter().find_map(|(name, scenario)| {
        let (operations, most) = (run(&scenario).operations, operations_max(&scenario));
        (operations > most).then(|| format!("{name}: {operations} operations, above {most}"))
    })
}

#[test]
fn every_mutant_is_killed_and_nothing_else() {
    for (name, check) in CHECKS {
        assert_eq!(check(), None, "{name} complains without a mistake");
    }
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let killers: Vec<_> = CHECKS
            .iter()
            .filter_map(|(name, check)| mutant::with(Some(mutant), check).map(|offence| (*name, offence)))
            .collect();
        match killers.first() {
            Some((_, offence)) => {
                let names: Vec<_> = killers.iter().map(|(name, _)| *name).collect();
                println!("{mutant:?}: killed by {names:?}; {offence}");
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not killed: {survivors:?}");
}
