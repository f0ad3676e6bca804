//! Invoices of months that are over: drafted while usage may still come, with the reason in plain sight; issued once, with the
//! publisher's next number, when it is all there. Any number of control planes may do it: a pair's lock and the database's own rules
//! let one invoice be. Refuses to issue what is held back.

use jiff::SignedDuration;
use rust_decimal::Decimal;
use serde_json::json;
use uuid::Uuid;

use super::account::{AccountFault, LATE_MONTHS_MAX, statements};
use super::attempts::Attempts;
use super::money::{Minor, TooLarge};
use super::statement::{Line, Statement};
use crate::settings::Billing;
use crate::store::audit::{self, Actor, Target};
use crate::store::billing_events::{self, NewEvent};
use crate::store::billing_months::{self, MonthRow};
use crate::store::invoices::{self, Issue, LineRow};
use crate::store::metering::{Completeness, period_completeness};
use crate::store::ratings::{self, Pair};
use crate::store::{Store, StoreError, Transaction};

#[cfg(test)]
mod tests;

/// After the end of a month, what is on its way still arrives.
pub const GRACE: SignedDuration = SignedDuration::from_hours(1);
/// Months, publishers, and consumers of one month, that one statement reads.
const PAGE: i64 = 200;
/// Pages of one run, so that a fault of ours cannot keep it running: two million.
const PAGES_MAX: u32 = 10_000;
/// Reasons on a draft, and letters of one.
const REASONS_MAX: usize = 20;
const REASON_CHARS_MAX: usize = 500;
/// A day, in the billing time that due dates are told in.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What a run did. What failed is in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    pub issued: u64,
    pub held_back: u64,
    pub failed: u64,
}

/// What became of one pair's month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Issued,
    HeldBack,
    Nothing,
}

/// `only`: one publisher's.
pub async fn run(store: &Store, billing: &Billing, only: Option<Uuid>) -> Result<Issued, StoreError> {
    let mut attempts = Attempts::new(store);
    make_months(store, only, &mut attempts).await?;
    let mut done = Issued::default();
    let mut last: Option<MonthRow> = None;
    for _ in 0..PAGES_MAX {
        let after = last.as_ref();
        let page =
            store.read("unsettled_months", |tx| Box::pin(billing_months::unsettled(tx, only, after, PAGE))).await?;
        for month in &page {
            let settled = settle(store, billing, month, &mut attempts, &mut done).await;
            let publisher = month.organization;
            let tell = |error| tracing::error!(%publisher, month = %month.month, %error, "a month cannot be settled");
            attempts.take(settled, tell).await?;
        }
        last = page.into_iter().last();
        if last.is_none() {
            break;
        }
    }
    Ok(Issued { failed: attempts.failed(), ..done })
}

/// Every publisher with subscriptions has the month that runs, and those before it.
async fn make_months(store: &Store, only: Option<Uuid>, attempts: &mut Attempts<'_>) -> Result<(), StoreError> {
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let page = match only {
            Some(publisher) => vec![publisher],
            None => {
                store.read("billing_publishers", |tx| Box::pin(billing_months::publishers(tx, after, PAGE))).await?
            }
        };
        for publisher in &page {
            let publisher = *publisher;
            let made = store.run_tx("billing_month", |tx| Box::pin(billing_months::current(tx, publisher))).await;
            // One publisher's time zone must not stop everybody else's bills.
            attempts.take(made, |error| tracing::error!(%publisher, %error, "a month cannot be made")).await?;
        }
        after = page.last().copied();
        if only.is_some() || after.is_none() {
            break;
        }
    }
    Ok(())
}

async fn settle(
    store: &Store,
    billing: &Billing,
    month: &MonthRow,
    attempts: &mut Attempts<'_>,
    done: &mut Issued,
) -> Result<(), StoreError> {
    let (reasons, from) = store
        .read("month_reasons", |tx| {
            Box::pin(async move {
                let earliest = billing_months::earlier(tx, month, LATE_MONTHS_MAX).await?.pop();
                let from = earliest.map_or(month.starts_at, |earliest| earliest.starts_at);
                Ok::<_, StoreError>((held_back_by(tx, month).await?, from))
            })
        })
        .await?;
    let failed_before = attempts.failed();
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let page = store.read("owing", |tx| Box::pin(ratings::owing(tx, month, from, after, PAGE))).await?;
        for consumer in &page {
            let pair = Pair { consumer: *consumer, publisher: month.organization };
            let reasons = &reasons;
            let outcome =
                store.run_slow_tx("issue_invoice", |tx| Box::pin(issue_pair(tx, pair, month, reasons, billing))).await;
            let (consumer, publisher) = (pair.consumer, pair.publisher);
            let tell = |error| tracing::error!(%consumer, %publisher, %error, "an invoice cannot be made");
            match attempts.take(outcome, tell).await? {
                Some(Outcome::Issued) => done.issued += 1,
                Some(Outcome::HeldBack) => done.held_back += 1,
                Some(Outcome::Nothing) | None => {}
            }
        }
        let Some(last) = page.last() else { break };
        after = Some(*last);
    }
    if reasons.is_empty() && attempts.failed() == failed_before {
        store.run_tx("settle_month", |tx| Box::pin(billing_months::settle(tx, month))).await?;
    }
    Ok(())
}

/// Why the month's invoices cannot be issued yet. A month that the simulation clock ended waits for nobody: what comes later is
/// counted in the next one.
async fn held_back_by(tx: &Transaction<'_>, month: &MonthRow) -> Result<Vec<String>, StoreError> {
    if month.ended_by_clock {
        return Ok(Vec::new());
    }
    let mut reasons: Vec<String> = match period_completeness(tx, month.usage_until).await? {
        Completeness::Complete => Vec::new(),
        Completeness::Provisional { reasons } => shown(reasons.into_iter().map(|reason| reason.detail).collect()),
    };
    let grace = month.usage_until.checked_add(GRACE).unwrap_or(month.usage_until);
    if jiff::Timestamp::now() < grace {
        reasons.push(format!("usage may still arrive until {grace}"));
    }
    Ok(reasons)
}

/// As many as a draft can show, none of them longer than it can.
fn shown(mut reasons: Vec<String>) -> Vec<String> {
    let more = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    for reason in &mut reasons {
        *reason = reason.chars().take(REASON_CHARS_MAX).collect();
    }
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    reasons
}

async fn issue_pair(
    tx: &Transaction<'_>,
    pair: Pair,
    month: &MonthRow,
    reasons: &[String],
    billing: &Billing,
) -> Result<Outcome, AccountFault> {
    ratings::allow_time(tx).await?;
    ratings::lock_pair(tx, pair).await?;
    if !reasons.is_empty() && invoices::has_recent_draft(tx, pair, month.month, reasons).await? {
        return Ok(Outcome::HeldBack);
    }
    let statements = statements(tx, pair, month).await?;
    let currencies: Vec<String> = statements.keys().cloned().collect();
    invoices::drop_drafts(tx, pair, month.month, &currencies).await?;
    let mut outcome = Outcome::Nothing;
    for (currency, statement) in &statements {
        let Some(id) = invoices::fresh_draft(tx, pair, month, currency).await? else { continue };
        write_lines(tx, id, statement, currency).await?;
        if reasons.is_empty() {
            issue(tx, id, pair, statement, currency, billing).await?;
            outcome = Outcome::Issued;
        } else {
            invoices::hold_back(tx, id, reasons, statement.total.decimal(currency)?).await?;
            outcome = Outcome::HeldBack;
        }
    }
    Ok(outcome)
}

async fn write_lines(
    tx: &Transaction<'_>,
    invoice: Uuid,
    statement: &Statement,
    currency: &str,
) -> Result<(), AccountFault> {
    for (place, line) in (1..).zip(&statement.lines) {
        invoices::add_line(tx, invoice, place, &row_of(line, currency)?).await?;
    }
    Ok(())
}

/// A line as the database keeps it.
pub fn row_of(line: &Line, currency: &str) -> Result<LineRow, TooLarge> {
    Ok(line.with_amount(line.amount.decimal(currency)?))
}

async fn issue(
    tx: &Transaction<'_>,
    id: Uuid,
    pair: Pair,
    statement: &Statement,
    currency: &str,
    billing: &Billing,
) -> Result<(), AccountFault> {
    let at = billing_months::billing_now(tx, pair.publisher).await?;
    let due_at = at.checked_add(DAY * i32::from(billing.due_days)).unwrap_or(at);
    let total = statement.total.decimal(currency)?;
    let fee = fee_on(statement.charged, billing.fee_percent)?.decimal(currency)?;
    let issue = Issue { total, fee_percent: billing.fee_percent, fee, at, due_at };
    let number = invoices::issue(tx, id, pair.publisher, &issue).await?;
    let event = |kind: &'static str, amount: Decimal, dedupe: String| NewEvent {
        kind,
        at,
        pair,
        subscription: None,
        invoice: Some(id),
        amount: Some((amount, currency)),
        details: json!({"number": number}),
        dedupe,
    };
    billing_events::append(tx, &event("invoice.issued", total, format!("invoice.issued:{id}"))).await?;
    if fee > Decimal::ZERO {
        billing_events::append(tx, &event("fee.charged", fee, format!("fee:{id}"))).await?;
    }
    if statement.credit != Minor(0) {
        let (kind, change) = match statement.credit > Minor(0) {
            true => ("credit.used", Minor(0).minus(statement.credit)?),
            false => ("credit.kept", Minor(0).minus(statement.credit)?),
        };
        billing_events::append(tx, &event(kind, change.decimal(currency)?, format!("credit:{id}"))).await?;
    }
    if total == Decimal::ZERO {
        // Nothing is left to pay.
        invoices::pay(tx, id, at).await?;
    }
    let target = Target { kind: "invoice", id, organization_id: Some(pair.consumer) };
    let after = json!({"number": number, "total": total, "currency": currency, "due_at": due_at});
    Ok(audit::write(tx, &Actor::default(), "invoice.issue", target, None, Some(after)).await?)
}

/// What the platform keeps: of what was charged, before credit, which had been paid for before.
pub fn fee_on(charged: Minor, percent: Decimal) -> Result<Minor, TooLarge> {
    charged.max(Minor(0)).percent(percent)
}
