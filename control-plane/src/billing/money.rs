//! Money as whole minor units of a currency, and the one function that rounds. Everything before it is an exact fraction of integers.
//! Refuses floats, and sums that do not fit.

use rust_decimal::Decimal;

use crate::domain::fault::Flaw;
use crate::domain::plan::MONEY_MAX;

#[cfg(test)]
mod tests;

/// Digits that the database keeps after the point; a price is a whole number of these.
const SCALE: u32 = 6;
/// Micro-units of one unit.
pub const MICROS: i128 = 1_000_000;

/// Currencies without minor units, and those with three digits of them; all others have two (ISO 4217).
const NO_DIGITS: &[&str] = &[
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF",
    "XPF",
];
const THREE_DIGITS: &[&str] = &["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sum is too large to be computed")]
pub struct TooLarge;

/// An amount in minor units of a currency that the context names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor(pub i128);

/// Digits of a currency after the point.
pub fn digits(currency: &str) -> u32 {
    match currency {
        code if NO_DIGITS.contains(&code) => 0,
        code if THREE_DIGITS.contains(&code) => 3,
        _ => 2,
    }
}

/// The only rounding there is: to the nearest whole number, and a half away from zero, as on any bill. `over` is positive.
pub fn round(value: i128, over: i128) -> i128 {
    let (whole, rest) = (value.div_euclid(over), value.rem_euclid(over));
    // `rest` is not negative, so a half rounds up; below zero that is towards it, and one less is away.
    match (rest.checked_mul(2).unwrap_or(i128::MAX)).cmp(&over) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal if value < 0 => whole,
        std::cmp::Ordering::Equal => whole + 1,
    }
}

/// A price or amount of the database, exactly, in micro-units. `None`: it has more digits than the database keeps.
pub fn micros(amount: Decimal) -> Option<i128> {
    let amount = amount.normalize();
    let missing = SCALE.checked_sub(amount.scale())?;
    amount.mantissa().checked_mul(10_i128.checked_pow(missing)?)
}

/// Micro-units as the database writes them.
pub fn of_micros(micros: i128) -> Result<Decimal, TooLarge> {
    Decimal::try_from_i128_with_scale(micros, SCALE).map_err(|_| TooLarge)
}

impl Minor {
    /// A fraction of micro-units, rounded to minor units: the end of every computation.
    pub fn of_fraction(micros: i128, over: i128, currency: &str) -> Result<Minor, TooLarge> {
        let per_minor = MICROS / 10_i128.pow(digits(currency));
        Ok(Minor(round(micros, over.checked_mul(per_minor).ok_or(TooLarge)?)))
    }

    /// An amount that is in minor units already, as every amount on an invoice is; else it is rounded.
    pub fn of_decimal(amount: Decimal, currency: &str) -> Result<Minor, TooLarge> {
        Minor::of_fraction(micros(amount).ok_or(TooLarge)?, 1, currency)
    }

    /// As the database and people write it: with the currency's digits.
    pub fn decimal(self, currency: &str) -> Result<Decimal, TooLarge> {
        Decimal::try_from_i128_with_scale(self.0, digits(currency)).map_err(|_| TooLarge)
    }

    pub fn plus(self, other: Minor) -> Result<Minor, TooLarge> {
        self.0.checked_add(other.0).map(Minor).ok_or(TooLarge)
    }

    pub fn minus(self, other: Minor) -> Result<Minor, TooLarge> {
        self.0.checked_sub(other.0).map(Minor).ok_or(TooLarge)
    }

    /// So many per cent of it, rounded.
    pub fn percent(self, percent: Decimal) -> Result<Minor, TooLarge> {
        let share = micros(percent).and_then(|share| share.checked_mul(self.0)).ok_or(TooLarge)?;
        Ok(Minor(round(share, MICROS * 100)))
    }
}

/// A sum that somebody pays, gives or means to spend: more than nothing, in whole minor units.
pub fn parse_amount(amount: Decimal, currency: &str) -> Result<Decimal, Flaw> {
    if amount <= Decimal::ZERO || amount > Decimal::from(MONEY_MAX) {
        return Err(Flaw::new(format!("must be more than 0 and at most {MONEY_MAX}")));
    }
    let amount = amount.normalize();
    if amount.scale() > digits(currency) {
        let mend = format!("use {} digits after the point at most", digits(currency));
        return Err(Flaw::new(format!("is less than a minor unit of {currency}")).mend(mend));
    }
    Ok(amount)
}
