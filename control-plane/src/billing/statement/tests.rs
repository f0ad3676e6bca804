//! Statements: lines add up, corrections and credit come in their place, and nothing goes below zero.

use jiff::Timestamp;
use jiff::civil::date;
use proptest::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::*;

fn month(amounts: &[i128]) -> RatedMonth {
    let charges: Vec<Charge> = amounts
        .iter()
        .map(|amount| Charge {
            kind: ChargeKind::Overage,
            plan: Uuid::from_u128(7),
            from: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
            units: 1_234,
            quantity: Decimal::new(1_234, 3),
            unit_price: Decimal::ONE,
            amount: Minor(*amount),
        })
        .collect();
    let total = Minor(amounts.iter().sum());
    RatedMonth {
        named: Named {
            subscription: Uuid::from_u128(1),
            product: "Weather".to_owned(),
            plans: vec![(Uuid::from_u128(7), "Basic".to_owned(), 2)],
        },
        month: date(2026, 11, 1),
        rated: Rated { charges, total, used: 11_234, included: Some(10_000) },
    }
}

fn settled(rated: i128, billed: i128) -> Settled {
    Settled { rated: month(&[rated]), billed: Minor(billed) }
}

fn kinds(statement: &Statement) -> Vec<(LineKind, i128)> {
    statement.lines.iter().map(|line| (line.kind, line.amount.0)).collect()
}

#[test]
fn late_usage_becomes_an_adjustment_and_credit_comes_last() {
    let statement = state(&[month(&[1_990, 10])], &[settled(500, 450), settled(300, 300)], Minor(700), "USD").unwrap();
    assert_eq!(
        kinds(&statement),
        [(LineKind::Overage, 1_990), (LineKind::Overage, 10), (LineKind::Adjustment, 50), (LineKind::Credit, -700)]
    );
    assert_eq!((statement.charged, statement.credit, statement.total), (Minor(2_050), Minor(700), Minor(1_350)));
    assert_eq!(statement.lines[0].description, "Weather, Basic v2: 1,234 requests beyond the 10,000 included");
}

#[test]
fn credit_pays_no_more_than_is_owed() {
    let statement = state(&[month(&[100])], &[], Minor(700), "USD").unwrap();
    assert_eq!((kinds(&statement)[1], statement.total), ((LineKind::Credit, -100), Minor(0)));
}

#[test]
fn what_was_billed_too_much_is_kept_as_credit() {
    let statement = state(&[month(&[100])], &[settled(50, 450)], Minor(0), "USD").unwrap();
    assert_eq!(kinds(&statement), [(LineKind::Overage, 100), (LineKind::Adjustment, -400), (LineKind::Credit, 300)]);
    assert_eq!((statement.credit, statement.total), (Minor(-300), Minor(0)));
}

#[test]
fn nothing_owed_is_nothing_stated() {
    assert_eq!(state(&[], &[settled(10, 10)], Minor(50), "USD").unwrap(), Statement::default());
}

#[test]
fn numbers_are_grouped_by_three() {
    let shown = [0, 12, 123, 1_234, 123_456, -1_234_567].map(grouped);
    assert_eq!(shown, ["0", "12", "123", "1,234", "123,456", "-1,234,567"]);
}

proptest! {
    #[test]
    fn the_total_is_the_sum_of_the_lines_and_never_negative(
        charges in proptest::collection::vec(0_i128..1_000_000, 0..6), rated in 0_i128..100_000, billed in 0_i128..100_000,
        credit in -1_000_i128..1_000_000,
    ) {
        let statement = state(&[month(&charges)], &[settled(rated, billed)], Minor(credit), "USD").unwrap();
        prop_assert_eq!(statement.lines.iter().map(|line| line.amount.0).sum::<i128>(), statement.total.0);
        prop_assert!(statement.total >= Minor(0));
        prop_assert!(statement.credit <= Minor(credit.max(0)), "credit is not overdrawn");
    }
}
