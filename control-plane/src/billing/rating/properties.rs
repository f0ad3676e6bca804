//! Rating whatever comes: no cent is lost or made, order does not matter, and a change of plan stays between the plans.

use jiff::Timestamp;
use proptest::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::*;

const START: i64 = 1_793_491_200;
const SECONDS: i64 = 30 * 86_400;

fn instant_at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn month() -> Month {
    Month { from: instant_at(0), until: instant_at(SECONDS) }
}

fn any_price() -> impl Strategy<Value = Price> {
    (0_i64..100_000_000_000, proptest::option::of(0_u64..100_000), proptest::option::of(0_i64..50_000_000)).prop_map(
        |(flat, included, overage)| Price {
            flat: Decimal::new(flat, 6),
            included,
            overage: included.and(overage).map(|overage| Decimal::new(overage, 6)),
        },
    )
}

/// Plans one after the other, from the first boundary to the last.
fn any_terms() -> impl Strategy<Value = Vec<Term>> {
    (proptest::collection::vec(any_price(), 1..5), proptest::collection::btree_set(0..SECONDS, 5), 0..SECONDS).prop_map(
        |(prices, bounds, free)| {
            let bounds: Vec<i64> = bounds.into_iter().collect();
            prices
                .into_iter()
                .zip(bounds.windows(2))
                .enumerate()
                .map(|(number, (price, bound))| Term {
                    plan: Uuid::from_u128(number as u128),
                    price,
                    from: instant_at(bound[0]),
                    until: Some(instant_at(bound[1])),
                    free_until: (free % 3 == 0).then(|| instant_at(free)),
                })
                .collect()
        },
    )
}

fn any_usage() -> impl Strategy<Value = Vec<Usage>> {
    let one = (0_u128..5, 0_i64..SECONDS / 900, 0_i64..50_000);
    proptest::collection::vec(one, 0..40).prop_map(|rows| {
        rows.into_iter()
            .map(|(plan, quarter, count)| Usage { plan: Uuid::from_u128(plan), at: instant_at(quarter * 900), count })
            .collect()
    })
}

/// What a bill of this one plan for all the time and all the usage would be.
fn alone(price: Price, usage: &[Usage]) -> i128 {
    let term = Term { plan: Uuid::from_u128(0), price, from: instant_at(0), until: None, free_until: None };
    rate(month(), &[term], usage, "USD").unwrap().total.0
}

proptest! {
    #[test]
    fn the_charges_are_the_total_and_the_total_is_the_exact_sum_rounded_once(terms in any_terms(), usage in any_usage()) {
        let rated = rate(month(), &terms, &usage, "USD").unwrap();
        let sum: i128 = rated.charges.iter().map(|charge| charge.amount.0).sum();
        prop_assert_eq!(sum, rated.total.0);
        // In 1/(seconds × 1,000) of a micro-unit.
        let exact: i128 = rated.charges.iter().map(|charge| {
            let price = (charge.unit_price * Decimal::from(1_000_000)).mantissa() / 10_i128.pow((charge.unit_price * Decimal::from(1_000_000)).scale());
            match charge.kind {
                ChargeKind::Overage => price * charge.units * i128::from(SECONDS),
                ChargeKind::Plan | ChargeKind::Proration => price * charge.units * 1_000,
            }
        }).sum();
        prop_assert_eq!(round(exact, i128::from(SECONDS) * 1_000 * 10_000), rated.total.0);
        let strays = rated.charges.iter().filter(|charge| charge.amount.0 < 0).count();
        prop_assert_eq!(strays, 0, "no charge gives money back");
    }

    #[test]
    fn rating_again_or_in_another_order_gives_the_same(terms in any_terms(), usage in any_usage()) {
        let once = rate(month(), &terms, &usage, "USD").unwrap();
        let (mut terms, mut usage) = (terms, usage);
        terms.reverse();
        usage.reverse();
        prop_assert_eq!(rate(month(), &terms, &usage, "USD").unwrap(), once);
    }

    #[test]
    fn usage_split_into_smaller_counts_costs_the_same(terms in any_terms(), usage in any_usage(), by in 1_i64..100) {
        let whole = rate(month(), &terms, &usage, "USD").unwrap();
        let split: Vec<Usage> = usage.iter().flat_map(|used| {
            let part = used.count / by;
            [Usage { count: part, ..*used }, Usage { count: used.count - part, ..*used }]
        }).collect();
        prop_assert_eq!(rate(month(), &terms, &split, "USD").unwrap(), whole);
    }

    #[test]
    fn renewing_the_same_plan_in_the_middle_changes_nothing(price in any_price(), at in 1..SECONDS, usage in any_usage()) {
        let whole = Term { plan: Uuid::from_u128(0), price, from: instant_at(0), until: None, free_until: None };
        let halves = [Term { until: Some(instant_at(at)), ..whole }, Term { from: instant_at(at), ..whole }];
        prop_assert_eq!(rate(month(), &halves, &usage, "USD").unwrap().total.0, alone(price, &usage));
    }

    /// A change from a plan to one that is dearer in no respect stays between the bills of the two, to the cent.
    #[test]
    fn a_change_never_bills_more_than_the_dearer_nor_less_than_the_cheaper(
        flat in (0_i64..1_000_000_000, 0_i64..1_000_000_000), included in (0_u64..50_000, 0_u64..50_000),
        overage in (0_i64..50_000_000, 0_i64..50_000_000), at in 1..SECONDS, usage in any_usage(), upgrade in any::<bool>(),
    ) {
        let price = |flat: i64, included: u64, overage: i64| Price {
            flat: Decimal::new(flat, 6), included: Some(included), overage: Some(Decimal::new(overage, 6)),
        };
        let cheap = price(flat.0.min(flat.1), included.0.max(included.1), overage.0.min(overage.1));
        let dear = price(flat.0.max(flat.1), included.0.min(included.1), overage.0.max(overage.1));
        let (first, second) = if upgrade { (cheap, dear) } else { (dear, cheap) };
        let terms = [
            Term { plan: Uuid::from_u128(0), price: first, from: instant_at(0), until: Some(instant_at(at)), free_until: None },
            Term { plan: Uuid::from_u128(1), price: second, from: instant_at(at), until: None, free_until: None },
        ];
        let billed = rate(month(), &terms, &usage, "USD").unwrap().total.0;
        prop_assert!(alone(cheap, &usage) <= billed && billed <= alone(dear, &usage),
            "{} <= {billed} <= {}", alone(cheap, &usage), alone(dear, &usage));
    }

    /// Flat prices alone: whichever the plans, the bill lies between theirs.
    #[test]
    fn a_change_of_flat_prices_lies_between_them(flats in (0_i64..1_000_000_000, 0_i64..1_000_000_000), at in 1..SECONDS) {
        let price = |flat: i64| Price { flat: Decimal::new(flat, 6), included: None, overage: None };
        let terms = [
            Term { plan: Uuid::from_u128(0), price: price(flats.0), from: instant_at(0), until: Some(instant_at(at)), free_until: None },
            Term { plan: Uuid::from_u128(1), price: price(flats.1), from: instant_at(at), until: None, free_until: None },
        ];
        let billed = rate(month(), &terms, &[], "USD").unwrap().total.0;
        let (one, other) = (alone(price(flats.0), &[]), alone(price(flats.1), &[]));
        prop_assert!(one.min(other) <= billed && billed <= one.max(other));
    }
}
