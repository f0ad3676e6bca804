//! One subscription's month as charges: flat price by the seconds that a plan was held, overage by what was used beyond the included
//! requests. Pure: the same terms and counts give the same charges, in whatever order they come. Rounds once per subscription and
//! month; the charges are parts of that one sum, so that no cent is lost or made. Knows no clock, no database, no text.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::money::{MICROS, Minor, TooLarge, micros, of_micros, round};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

/// Requests that one overage price is for.
pub const OVERAGE_UNIT: i128 = 1_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RatingFault {
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("the month has no length")]
    NoMonth,
    #[error("the usage of plan {plan} adds up to less than nothing")]
    NegativeUsage { plan: Uuid },
}

/// What a plan version costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// For a whole month.
    pub flat: Decimal,
    /// Requests in a whole month that cost nothing more; `None`: all of them.
    pub included: Option<u64>,
    /// For 1,000 requests beyond; `None`: nothing more is charged (a hard quota refuses them).
    pub overage: Option<Decimal>,
}

/// A plan as it was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub plan: Uuid,
    pub price: Price,
    pub from: Timestamp,
    /// `None`: it is held still.
    pub until: Option<Timestamp>,
    /// Nothing before it is charged.
    pub free_until: Option<Timestamp>,
}

/// Billable requests, under the plan that the gateway decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub plan: Uuid,
    /// The beginning of their quarter of an hour.
    pub at: Timestamp,
    pub count: i64,
}

/// A month, in billing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month {
    pub from: Timestamp,
    pub until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeKind {
    /// A whole month of a plan.
    Plan,
    /// A part of one.
    Proration,
    /// Requests beyond the included ones.
    Overage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub kind: ChargeKind,
    pub plan: Uuid,
    pub from: Timestamp,
    pub until: Timestamp,
    /// Seconds that were charged, or requests.
    pub units: i128,
    /// As an invoice shows it: months, or thousands of requests.
    pub quantity: Decimal,
    pub unit_price: Decimal,
    pub amount: Minor,
}

/// A subscription's month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rated {
    pub charges: Vec<Charge>,
    pub total: Minor,
    /// Billable requests that count against the included ones.
    pub used: i128,
    /// Included requests, prorated; `None` where no plan limits them.
    pub included: Option<i128>,
}

/// A term cut to the month, in whole seconds.
struct Held {
    term: Term,
    from: i64,
    until: i64,
    /// Where charging begins.
    paid_from: i64,
    used: i128,
}

impl Held {
    fn paid(&self) -> i128 {
        i128::from(self.until - self.paid_from)
    }
}

/// `currency` says how many digits an amount has.
pub fn rate(month: Month, terms: &[Term], usage: &[Usage], currency: &str) -> Result<Rated, RatingFault> {
    let seconds = i128::from(month.until.as_second() - month.from.as_second());
    if seconds <= 0 {
        return Err(RatingFault::NoMonth);
    }
    let mut held = hold(month, terms);
    assign(&mut held, usage)?;
    let (used, included) = against_included(&held, seconds)?;
    let mut sum = Sum { over: seconds * OVERAGE_UNIT, currency, exact: 0, billed: Minor(0) };
    let mut charges = Vec::with_capacity(held.len() + 1);
    for part in &held {
        charges.push(flat(part, seconds, &mut sum)?);
    }
    let mut beyond = used.saturating_sub(included.unwrap_or(used)).max(0);
    // What came last was beyond the included requests: the latest plan's price comes first.
    for part in held.iter().rev().filter(|part| part.term.price.included.is_some()) {
        let units = beyond.min(part.used);
        beyond -= units;
        if let (true, Some(price)) = (units > 0, part.term.price.overage) {
            charges.push(overage(part, units, price, seconds, &mut sum)?);
        }
    }
    Ok(Rated { charges, total: sum.billed, used, included })
}

/// What a whole month of one plan with so many requests costs: for what-if questions.
pub fn month_of(price: Price, count: i64, currency: &str) -> Result<Minor, RatingFault> {
    let month = Month { from: instant(0), until: instant(1) };
    let term = Term { plan: Uuid::nil(), price, from: month.from, until: None, free_until: None };
    let usage = [Usage { plan: Uuid::nil(), at: month.from, count }];
    Ok(rate(month, &[term], &usage, currency)?.total)
}

/// The exact sum so far, as a fraction of micro-units. What a charge bills is the step of the rounded sum.
struct Sum<'a> {
    over: i128,
    currency: &'a str,
    exact: i128,
    billed: Minor,
}

impl Sum<'_> {
    fn add(&mut self, part: i128) -> Result<Minor, TooLarge> {
        self.exact = self.exact.checked_add(part).ok_or(TooLarge)?;
        let rounded = Minor::of_fraction(self.exact, self.over, self.currency)?;
        let step = rounded.minus(self.billed)?;
        self.billed = rounded;
        Ok(step)
    }
}

/// In order of time, without the terms that do not touch the month.
fn hold(month: Month, terms: &[Term]) -> Vec<Held> {
    let (start, end) = (month.from.as_second(), month.until.as_second());
    let cut = |term: &Term| {
        let from = term.from.as_second().max(start);
        let until = term.until.map_or(end, Timestamp::as_second).min(end);
        let free_until = term.free_until.map_or(from, Timestamp::as_second);
        let paid_from = free_until.clamp(from, until.max(from));
        (from < until).then_some(Held { term: *term, from, until, paid_from, used: 0 })
    };
    let mut held: Vec<Held> = terms.iter().filter_map(cut).collect();
    held.sort_by_key(|part| part.from);
    held
}

/// Usage belongs to the latest term of its plan that had begun by its time; a gateway that decided by a plan shortly after it was
/// changed has it assigned by time. What was used while nothing is charged is not counted.
fn assign(held: &mut [Held], usage: &[Usage]) -> Result<(), RatingFault> {
    for used in usage {
        let at = used.at.as_second();
        let is_begun = |part: &Held| part.from <= at;
        let of_plan = |part: &Held| part.term.plan == used.plan;
        let place = held
            .iter()
            .rposition(|part| of_plan(part) && is_begun(part))
            .or_else(|| held.iter().position(of_plan))
            .or_else(|| held.iter().rposition(is_begun))
            .or(Some(0));
        let Some(part) = place.and_then(|place| held.get_mut(place)) else { continue };
        let is_free = part.paid_from == part.until || (part.from < part.paid_from && at < part.paid_from);
        if !is_free {
            part.used = part.used.checked_add(i128::from(used.count)).ok_or(TooLarge)?;
        }
    }
    match held.iter().find(|part| part.used < 0) {
        Some(part) => Err(RatingFault::NegativeUsage { plan: part.term.plan }),
        None => Ok(()),
    }
}

/// What was used under plans that count, and what they include together, each by its seconds; a started request is given.
fn against_included(held: &[Held], seconds: i128) -> Result<(i128, Option<i128>), TooLarge> {
    let (mut used, mut included) = (0_i128, None);
    for part in held {
        let Some(quota) = part.term.price.included else { continue };
        used = used.checked_add(part.used).ok_or(TooLarge)?;
        let share = i128::from(quota).checked_mul(part.paid()).ok_or(TooLarge)?;
        included = Some(share.checked_add(included.unwrap_or(0)).ok_or(TooLarge)?);
    }
    Ok((used, included.map(|exact| exact / seconds + i128::from(exact % seconds != 0))))
}

fn flat(part: &Held, seconds: i128, sum: &mut Sum<'_>) -> Result<Charge, TooLarge> {
    let price = micros(part.term.price.flat).ok_or(TooLarge)?;
    let exact = price.checked_mul(part.paid()).and_then(|exact| exact.checked_mul(OVERAGE_UNIT)).ok_or(TooLarge)?;
    Ok(Charge {
        kind: if part.paid() == seconds { ChargeKind::Plan } else { ChargeKind::Proration },
        plan: part.term.plan,
        from: instant(part.from),
        until: instant(part.until),
        units: part.paid(),
        quantity: of_micros(round(part.paid() * MICROS, seconds))?,
        unit_price: part.term.price.flat,
        amount: sum.add(exact)?,
    })
}

fn overage(part: &Held, units: i128, price: Decimal, seconds: i128, sum: &mut Sum<'_>) -> Result<Charge, TooLarge> {
    let exact = micros(price).and_then(|price| price.checked_mul(units)?.checked_mul(seconds)).ok_or(TooLarge)?;
    Ok(Charge {
        kind: ChargeKind::Overage,
        plan: part.term.plan,
        from: instant(part.from),
        until: instant(part.until),
        units,
        quantity: of_micros(units.checked_mul(MICROS / OVERAGE_UNIT).ok_or(TooLarge)?)?,
        unit_price: price,
        amount: sum.add(exact)?,
    })
}

/// Seconds of instants that were instants before.
fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}
