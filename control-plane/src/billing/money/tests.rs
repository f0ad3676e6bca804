//! Rounding: to the nearest, halves away from zero, the same on both sides of it; and amounts survive the way to the database.

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;

#[test]
fn halves_go_away_from_zero_on_both_sides() {
    let rounded: Vec<i128> =
        [-25, -15, -14, -5, -4, 0, 4, 5, 14, 15, 25].iter().map(|tenths| round(*tenths, 10)).collect();
    assert_eq!(rounded, [-3, -2, -1, -1, 0, 0, 0, 1, 1, 2, 3]);
}

#[test]
fn each_currency_has_its_own_minor_units() {
    let price = Decimal::new(12_345_500, 6); // 12.3455
    let of = |currency: &str| Minor::of_decimal(price, currency).unwrap().decimal(currency).unwrap().to_string();
    assert_eq!((of("USD"), of("JPY"), of("KWD")), ("12.35".to_owned(), "12".to_owned(), "12.346".to_owned()));
}

#[test]
fn a_price_with_more_digits_than_the_database_keeps_is_refused() {
    assert_eq!(micros(Decimal::new(1, 7)), None);
    assert_eq!(micros(Decimal::new(10, 7)), Some(1));
}

#[test]
fn a_percentage_is_rounded_once() {
    assert_eq!(Minor(1_050).percent(Decimal::new(25, 1)).unwrap(), Minor(26), "26.25 is 26");
    assert_eq!(Minor(1_060).percent(Decimal::new(25, 1)).unwrap(), Minor(27), "26.5 is 27");
}

proptest! {
    #[test]
    fn rounding_is_within_a_half_and_symmetric(value in -1_000_000_000_000_i128..1_000_000_000_000, over in 1_i128..1_000_000) {
        let rounded = round(value, over);
        prop_assert!((rounded * over - value).abs() * 2 <= over);
        prop_assert_eq!(round(-value, over), -rounded);
    }

    #[test]
    fn amounts_come_back_from_the_database_as_they_went(minor in -1_000_000_000_000_i128..1_000_000_000_000) {
        for currency in ["USD", "JPY", "KWD"] {
            let stored = Minor(minor).decimal(currency).unwrap();
            prop_assert_eq!(Minor::of_decimal(stored, currency).unwrap(), Minor(minor));
        }
    }
}
