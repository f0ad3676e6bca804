//! One consumer's account with one publisher: its months read from the store and rated. What an invoice, a preview, an alert and the
//! verification say comes from here, so they say the same. Writes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::money::{Minor, TooLarge};
use super::rating::{Month, Price, RatingFault, Term, Usage, rate};
use super::statement::{Named, RatedMonth, Settled, Statement, state};
use crate::store::billing_months::{self, MonthFault, MonthRow};
use crate::store::plans::PlanRow;
use crate::store::ratings::{self, Pair, TermRow, UsageRow};
use crate::store::{StoreError, Transaction, billing_events};

/// Invoiced months that are looked at again for late usage. Gateways keep what they have not delivered for less than this.
pub const LATE_MONTHS_MAX: i64 = 3;
/// The shortest time for which the billing record can be kept, in days: a month that is invoiced, those before it that are looked at again
/// (123 days together), and five weeks for which the invoice may be held back. What is rated again without its usage would be refunded.
pub const RECORD_DAYS_MIN: u64 = 160;

#[derive(Debug, thiserror::Error)]
pub enum AccountFault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Month(#[from] MonthFault),
    #[error(transparent)]
    Rating(#[from] RatingFault),
    #[error("subscription {subscription} was priced in {first} and in {second} within one month")]
    Currencies { subscription: Uuid, first: String, second: String },
}

impl From<TooLarge> for AccountFault {
    fn from(fault: TooLarge) -> AccountFault {
        AccountFault::Rating(fault.into())
    }
}

/// What is owed for a month, by currency.
pub type Statements = BTreeMap<String, Statement>;

/// Charges, late usage of earlier months, and credit: what an invoice of this month would say now.
pub async fn statements(tx: &Transaction<'_>, pair: Pair, month: &MonthRow) -> Result<Statements, AccountFault> {
    let mut current: BTreeMap<String, Vec<RatedMonth>> = BTreeMap::new();
    let mut settled: BTreeMap<String, Vec<Settled>> = BTreeMap::new();
    for (currency, rated) in rated_months(tx, pair, month).await? {
        current.entry(currency).or_default().push(rated);
    }
    for earlier in billing_months::earlier(tx, month, LATE_MONTHS_MAX).await? {
        for (currency, month) in settled_months(tx, pair, &earlier).await? {
            settled.entry(currency).or_default().push(month);
        }
    }
    let currencies: Vec<String> = current.keys().chain(settled.keys()).cloned().collect();
    let mut found = Statements::new();
    for currency in currencies {
        let credit = Minor::of_decimal(billing_events::credit(tx, pair, &currency).await?, &currency)?;
        let now = current.remove(&currency).unwrap_or_default();
        let before = settled.remove(&currency).unwrap_or_default();
        let statement = state(&now, &before, credit, &currency)?;
        if !statement.lines.is_empty() {
            found.insert(currency, statement);
        }
    }
    Ok(found)
}

/// Each subscription's month as far as it was invoiced. One that was not is not rated at all.
async fn settled_months(
    tx: &Transaction<'_>,
    pair: Pair,
    month: &MonthRow,
) -> Result<Vec<(String, Settled)>, AccountFault> {
    let issued = ratings::issued_currencies(tx, pair, month.month).await?;
    if issued.is_empty() {
        return Ok(Vec::new());
    }
    let billed = ratings::billed(tx, pair, month.month).await?;
    let mut found = Vec::new();
    for (currency, rated) in rated_months(tx, pair, month).await? {
        if issued.contains(&currency) {
            let billed = Minor::of_decimal(billed.of(rated.named.subscription), &currency)?;
            found.push((currency, Settled { rated, billed }));
        }
    }
    Ok(found)
}

/// Each subscription's month with its currency.
pub async fn rated_months(
    tx: &Transaction<'_>,
    pair: Pair,
    month: &MonthRow,
) -> Result<Vec<(String, RatedMonth)>, AccountFault> {
    let terms = ratings::terms(tx, pair, month).await?;
    let mut meters: Vec<i64> = terms.iter().map(|term| term.subscription_meter).collect();
    meters.dedup();
    let usage = ratings::usage(tx, month, &meters, &bounds(month, &terms)).await?;
    let mut found = Vec::new();
    for held in terms.chunk_by(|one, next| one.subscription == next.subscription) {
        found.extend(rate_subscription(month, held, &usage)?);
    }
    Ok(found)
}

/// Another plan from a moment on, as it is thought of.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub plan: &'a PlanRow,
    pub at: Timestamp,
}

/// One subscription's charges of a month, as they are or as they would be with a change of its plan.
pub async fn subscription(
    tx: &Transaction<'_>,
    pair: Pair,
    month: &MonthRow,
    subscription: Uuid,
    change: Option<Change<'_>>,
) -> Result<Statement, AccountFault> {
    let mut held = ratings::terms(tx, pair, month).await?;
    held.retain(|term| term.subscription == subscription);
    if let Some((change, open)) = change.zip(held.last_mut()) {
        let next = changed_term(open, change);
        open.until = Some(change.at);
        held.push(next);
    }
    let meters: Vec<i64> = held.first().map(|term| term.subscription_meter).into_iter().collect();
    let usage = ratings::usage(tx, month, &meters, &bounds(month, &held)).await?;
    match rate_subscription(month, &held, &usage)? {
        Some((currency, rated)) => Ok(state(&[rated], &[], Minor(0), &currency)?),
        None => Ok(Statement::default()),
    }
}

/// A trial that the plan itself would give is left out: it counts from the activation, which is mostly past.
fn changed_term(open: &TermRow, change: Change<'_>) -> TermRow {
    TermRow {
        plan: change.plan.id,
        plan_meter: change.plan.meter_id,
        plan_name: change.plan.name.clone(),
        plan_version: change.plan.version,
        price: change.plan.price,
        currency: change.plan.currency.clone(),
        included: change.plan.included_requests,
        overage: change.plan.overage_price_per_1000,
        from: change.at,
        until: None,
        free_until: None,
        ..open.clone()
    }
}

/// Where counting must be cut, in event time: the month's beginning, and each moment from which something else holds.
fn bounds(month: &MonthRow, terms: &[TermRow]) -> Vec<Timestamp> {
    let ahead = month.ahead();
    let moments = terms.iter().flat_map(|term| [Some(term.from), term.free_until]).flatten();
    let inside = moments.filter_map(|at| at.checked_sub(ahead).ok());
    let mut bounds: Vec<Timestamp> =
        inside.filter(|at| month.usage_from < *at && *at < month.usage_until).chain([month.usage_from]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    bounds
}

fn rate_subscription(
    month: &MonthRow,
    held: &[TermRow],
    usage: &[UsageRow],
) -> Result<Option<(String, RatedMonth)>, AccountFault> {
    let Some(first) = held.first() else { return Ok(None) };
    if let Some(other) = held.iter().find(|term| term.currency != first.currency) {
        let (first_currency, second) = (first.currency.clone(), other.currency.clone());
        return Err(AccountFault::Currencies { subscription: first.subscription, first: first_currency, second });
    }
    let terms: Vec<Term> = held.iter().map(term_of).collect();
    let plans: Vec<(Uuid, String, i32)> =
        held.iter().map(|term| (term.plan, term.plan_name.clone(), term.plan_version)).collect();
    let used: Vec<Usage> = usage
        .iter()
        .filter(|row| row.subscription_meter == first.subscription_meter)
        .map(|row| usage_of(month, held, row))
        .collect();
    let bounds = Month { from: month.starts_at, until: month.ends_at };
    let rated = rate(bounds, &terms, &used, &first.currency)?;
    let named = Named { subscription: first.subscription, product: first.product_name.clone(), plans };
    Ok(Some((first.currency.clone(), RatedMonth { named, month: month.month, rated })))
}

/// The database's checks keep counts from being negative.
pub fn price_of(price: Decimal, included: Option<i64>, overage: Option<Decimal>) -> Price {
    Price { flat: price, included: included.and_then(|count| u64::try_from(count).ok()), overage }
}

fn term_of(row: &TermRow) -> Term {
    Term {
        plan: row.plan,
        price: price_of(row.price, row.included, row.overage),
        from: row.from,
        until: row.until,
        free_until: row.free_until,
    }
}

/// A plan that the subscription did not hold in this month has no id here; its usage is rated by its time.
fn usage_of(month: &MonthRow, held: &[TermRow], row: &UsageRow) -> Usage {
    let plan = held.iter().find(|term| term.plan_meter == row.plan_meter).map_or(Uuid::nil(), |term| term.plan);
    Usage { plan, at: row.at.checked_add(month.ahead()).unwrap_or(row.at), count: row.count }
}
