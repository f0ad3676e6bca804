//! Rating by example: the numbers on the right were worked out by hand.

use jiff::{Timestamp, ToSpan};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn november() -> Month {
    Month { from: at("2026-11-01T00:00:00Z"), until: at("2026-12-01T00:00:00Z") }
}

fn money(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn plan(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn term(number: u128, flat: &str, included: Option<u64>, overage: Option<&str>) -> Term {
    let price = Price { flat: money(flat), included, overage: overage.map(money) };
    Term { plan: plan(number), price, from: at("2026-01-01T00:00:00Z"), until: None, free_until: None }
}

fn used(number: u128, when: &str, count: i64) -> Usage {
    Usage { plan: plan(number), at: at(when), count }
}

fn bill(terms: &[Term], usage: &[Usage]) -> Rated {
    rate(november(), terms, usage, "USD").unwrap()
}

fn amounts(rated: &Rated) -> Vec<i128> {
    rated.charges.iter().map(|charge| charge.amount.0).collect()
}

#[test]
fn a_whole_month_costs_the_price_and_what_was_used_beyond_the_included_requests() {
    let rated = bill(&[term(1, "19.90", Some(10_000), Some("0.50"))], &[used(1, "2026-11-03T10:00:00Z", 12_345)]);
    assert_eq!(amounts(&rated), [1_990, 117], "2,345 requests at 0.50 a thousand are 1.1725");
    assert_eq!((rated.used, rated.included), (12_345, Some(10_000)));
    let overage = rated.charges[1];
    assert_eq!((overage.kind, overage.quantity.to_string()), (ChargeKind::Overage, "2.345000".to_owned()));
}

#[test]
fn what_is_within_the_included_requests_costs_nothing_more() {
    let rated = bill(&[term(1, "5", Some(100), Some("10"))], &[used(1, "2026-11-03T10:00:00Z", 100)]);
    assert_eq!(amounts(&rated), [500]);
}

#[test]
fn a_hard_quota_and_an_unlimited_plan_have_no_overage() {
    for included in [Some(10), None] {
        let rated = bill(&[term(1, "5", included, None)], &[used(1, "2026-11-03T10:00:00Z", 1_000_000)]);
        assert_eq!(amounts(&rated), [500]);
    }
}

#[test]
fn a_month_that_began_late_costs_its_seconds_and_includes_as_much() {
    let late = Term { from: at("2026-11-16T00:00:00Z"), ..term(1, "30", Some(1_000), Some("2")) };
    let rated = bill(&[late], &[used(1, "2026-11-20T00:00:00Z", 700)]);
    assert_eq!(amounts(&rated), [1_500, 40], "half of 30.00; 200 beyond the half of 1,000");
    assert_eq!(rated.charges[0].kind, ChargeKind::Proration);
    assert_eq!(rated.charges[0].quantity, money("0.5"));
}

#[test]
fn after_an_upgrade_both_plans_count_by_their_seconds_and_what_was_used_carries_over() {
    let basic = Term { until: Some(at("2026-11-11T00:00:00Z")), ..term(1, "30", Some(3_000), Some("6")) };
    let pro = Term { from: at("2026-11-11T00:00:00Z"), ..term(2, "90", Some(30_000), Some("1.5")) };
    // 1,000 + 20,000 are included; 25,000 were used, so the last 4,000 are beyond, at the later plan's price.
    let usage = [used(1, "2026-11-05T00:00:00Z", 5_000), used(2, "2026-11-25T00:00:00Z", 20_000)];
    let rated = bill(&[basic, pro], &usage);
    assert_eq!(rated.included, Some(21_000));
    assert_eq!(amounts(&rated), [1_000, 6_000, 600]);
    // The later plan was hardly used: the rest was used under the earlier one, at its price.
    let usage = [used(1, "2026-11-05T00:00:00Z", 24_000), used(2, "2026-11-25T00:00:00Z", 1_000)];
    let rated = bill(&[basic, pro], &usage);
    assert_eq!(amounts(&rated), [1_000, 6_000, 150, 1_800]);
}

#[test]
fn a_trial_is_free_and_neither_its_seconds_nor_its_requests_count() {
    let trial = Term {
        from: at("2026-11-01T00:00:00Z"),
        free_until: Some(at("2026-11-16T00:00:00Z")),
        ..term(1, "30", Some(1_000), Some("2"))
    };
    let usage = [used(1, "2026-11-15T23:45:00Z", 90_000), used(1, "2026-11-16T00:00:00Z", 600)];
    let rated = bill(&[trial], &usage);
    assert_eq!(amounts(&rated), [1_500, 20], "half a month, and 100 beyond the half of 1,000");
    let whole = Term { free_until: Some(at("2026-12-05T00:00:00Z")), ..trial };
    let rated = bill(&[whole], &usage);
    assert_eq!((amounts(&rated), rated.charges[0].units), (vec![0], 0));
}

#[test]
fn three_thirds_make_a_whole() {
    let parts: Vec<Term> = [(1, 11), (11, 21), (21, 31)]
        .iter()
        .map(|(from, until)| Term {
            from: at("2026-10-31T00:00:00Z").checked_add((from * 24).hours()).unwrap(),
            until: Some(at("2026-10-31T00:00:00Z").checked_add((until * 24).hours()).unwrap()),
            ..term(1, "10", None, None)
        })
        .collect();
    let rated = bill(&parts, &[]);
    assert_eq!((amounts(&rated), rated.total), (vec![333, 334, 333], Minor(1_000)));
}

#[test]
fn usage_of_a_plan_that_was_not_held_is_rated_by_its_time() {
    let basic = Term { until: Some(at("2026-11-11T00:00:00Z")), ..term(1, "0", Some(0), Some("1000")) };
    let pro = Term { from: at("2026-11-11T00:00:00Z"), ..term(2, "0", Some(0), Some("2000")) };
    let rated = bill(&[basic, pro], &[used(9, "2026-11-10T23:45:00Z", 1), used(9, "2026-11-11T00:00:00Z", 1)]);
    assert_eq!(amounts(&rated), [0, 0, 200, 100]);
}

#[test]
fn months_are_counted_in_their_own_seconds() {
    let price = term(1, "31", None, None);
    for (from, until, days) in [
        ("2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", 29), // a leap year
        ("2026-03-01T05:00:00Z", "2026-04-01T04:00:00Z", 31), // New York loses an hour
    ] {
        let month = Month { from: at(from), until: at(until) };
        let seconds = month.until.as_second() - month.from.as_second();
        assert!(seconds == days * 86_400 || seconds == days * 86_400 - 3_600);
        assert_eq!(rate(month, &[price], &[], "USD").unwrap().total, Minor(3_100));
    }
    let empty = Month { from: at("2026-03-01T05:00:00Z"), until: at("2026-03-01T05:00:00Z") };
    assert_eq!(rate(empty, &[price], &[], "USD"), Err(RatingFault::NoMonth));
}

#[test]
fn sums_that_do_not_fit_are_refused_and_not_wrapped() {
    let huge = term(1, "99999999999999.999999", Some(0), Some("99999999999999.999999"));
    let flat = rate(november(), &[huge], &[], "USD").unwrap();
    assert_eq!(flat.total, Minor(10_000_000_000_000_000));
    let many = rate(november(), &[huge], &[used(1, "2026-11-03T10:00:00Z", i64::MAX)], "USD");
    assert_eq!(many, Err(RatingFault::TooLarge(TooLarge)));
    let negative = rate(november(), &[huge], &[used(1, "2026-11-03T10:00:00Z", -1)], "USD");
    assert_eq!(negative, Err(RatingFault::NegativeUsage { plan: plan(1) }));
}
