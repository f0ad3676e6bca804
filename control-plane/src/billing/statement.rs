//! What a consumer owes a publisher for a month, as lines: charges of the month, corrections of earlier ones, then prepaid credit.
//! Pure. The total is the sum of the lines by construction. Refuses a negative total: what is left over becomes credit.

use jiff::civil::Date;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::money::{Minor, TooLarge};
use super::rating::{Charge, ChargeKind, Rated};
use crate::domain::invoice::{self, LineKind};

#[cfg(test)]
mod tests;

/// What a subscription and its plans are called on an invoice.
#[derive(Clone, Debug)]
pub struct Named {
    pub subscription: Uuid,
    pub product: String,
    /// By plan id: name and version.
    pub plans: Vec<(Uuid, String, i32)>,
}

/// A subscription's month, rated.
#[derive(Clone, Debug)]
pub struct RatedMonth {
    pub named: Named,
    pub month: Date,
    pub rated: Rated,
}

/// An earlier month that was invoiced, and what invoices have charged for it so far.
#[derive(Clone, Debug)]
pub struct Settled {
    pub rated: RatedMonth,
    pub billed: Minor,
}

pub type Line = invoice::Line<Minor>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    pub lines: Vec<Line>,
    /// Before credit.
    pub charged: Minor,
    /// What is taken from prepaid credit; negative where credit is given.
    pub credit: Minor,
    pub total: Minor,
}

/// `credit` is what is left of it.
pub fn state(
    current: &[RatedMonth],
    settled: &[Settled],
    credit: Minor,
    currency: &str,
) -> Result<Statement, TooLarge> {
    let mut lines = Vec::new();
    for month in current {
        for charge in &month.rated.charges {
            lines.push(charge_line(month, charge));
        }
    }
    for month in settled {
        let missing = month.rated.rated.total.minus(month.billed)?;
        if missing != Minor(0) {
            lines.push(adjustment_line(&month.rated, missing, currency)?);
        }
    }
    let mut charged = Minor(0);
    for line in &lines {
        charged = charged.plus(line.amount)?;
    }
    let credit = if charged < Minor(0) { charged } else { charged.min(credit.max(Minor(0))) };
    if credit != Minor(0) {
        lines.push(credit_line(credit, currency)?);
    }
    Ok(Statement { lines, charged, credit, total: charged.minus(credit)? })
}

fn charge_line(month: &RatedMonth, charge: &Charge) -> Line {
    let kind = match charge.kind {
        ChargeKind::Plan => LineKind::Plan,
        ChargeKind::Proration => LineKind::Proration,
        ChargeKind::Overage => LineKind::Overage,
    };
    Line {
        kind,
        subscription: Some(month.named.subscription),
        plan: Some(charge.plan),
        month: Some(month.month),
        description: describe(month, charge),
        quantity: charge.quantity,
        unit_price: charge.unit_price,
        amount: charge.amount,
        from: Some(charge.from),
        until: Some(charge.until),
    }
}

fn describe(month: &RatedMonth, charge: &Charge) -> String {
    let name = name_of(&month.named, charge.plan);
    match charge.kind {
        ChargeKind::Plan => format!("{name}: month"),
        ChargeKind::Proration if charge.units == 0 => format!("{name}: free trial"),
        ChargeKind::Proration => format!("{name}: {} seconds of the month", grouped(charge.units)),
        ChargeKind::Overage => {
            let included = grouped(month.rated.included.unwrap_or(0));
            format!("{name}: {} requests beyond the {included} included", grouped(charge.units))
        }
    }
}

fn name_of(named: &Named, plan: Uuid) -> String {
    match named.plans.iter().find(|(id, ..)| *id == plan) {
        Some((_, name, version)) => format!("{}, {name} v{version}", named.product),
        None => named.product.clone(),
    }
}

fn adjustment_line(month: &RatedMonth, missing: Minor, currency: &str) -> Result<Line, TooLarge> {
    let amount = missing.decimal(currency)?;
    Ok(Line {
        kind: LineKind::Adjustment,
        subscription: Some(month.named.subscription),
        plan: None,
        month: Some(month.month),
        description: format!(
            "{}: usage of {} that arrived after its invoice",
            month.named.product,
            month.month.strftime("%Y-%m")
        ),
        quantity: Decimal::ONE,
        unit_price: amount,
        amount: missing,
        from: None,
        until: None,
    })
}

fn credit_line(credit: Minor, currency: &str) -> Result<Line, TooLarge> {
    let amount = Minor(0).minus(credit)?;
    let description = if credit > Minor(0) { "Prepaid credit" } else { "Kept as credit" };
    Ok(Line {
        kind: LineKind::Credit,
        subscription: None,
        plan: None,
        month: None,
        description: description.to_owned(),
        quantity: Decimal::ONE,
        unit_price: amount.decimal(currency)?,
        amount,
        from: None,
        until: None,
    })
}

/// 1,234,567.
pub fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let first = digits.len() % 3;
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
