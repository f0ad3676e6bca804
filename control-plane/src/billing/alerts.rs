//! Warnings before the bill: at 85 and 100 % of a budget, and of the requests that a plan includes. Each is one billing event, written
//! once a month however often it is looked for. Refuses to stop anything: a hard quota does that.

use jiff::civil::Date;
use rust_decimal::Decimal;
use serde_json::json;
use uuid::Uuid;

use super::account::{self, AccountFault};
use super::attempts::{Attempts, Done};
use super::money::Minor;
use crate::store::billing_events::{self, NewEvent};
use crate::store::billing_months;
use crate::store::budgets::{self, BudgetRow, QuotaUse, Which};
use crate::store::ratings::{self, Pair};
use crate::store::{Store, StoreError, Transaction};

/// Per cent at which somebody is told.
pub const THRESHOLDS: [i128; 2] = [85, 100];
/// Rows of one statement, and statements of one run.
const PAGE: i64 = 200;
const PAGES_MAX: u32 = 10_000;

/// Which thresholds `spent` has reached of `limit`; none where there was nothing to spend.
pub fn reached(spent: i128, limit: i128) -> impl Iterator<Item = i128> {
    let share = spent.saturating_mul(100);
    THRESHOLDS.into_iter().filter(move |threshold| limit > 0 && share >= limit.saturating_mul(*threshold))
}

/// Looks where something has happened lately. Answers how many events are new.
pub async fn run(store: &Store) -> Result<Done, StoreError> {
    let mut attempts = Attempts::new(store);
    let told =
        look_at_budgets(store, Which::Touched, &mut attempts).await? + look_at_quotas(store, &mut attempts).await?;
    Ok(attempts.done(told))
}

/// Looks at every budget, for what came late: usage of a gateway that was cut off, or of hours in which nobody looked.
pub async fn run_all(store: &Store) -> Result<Done, StoreError> {
    let mut attempts = Attempts::new(store);
    let told = look_at_budgets(store, Which::All, &mut attempts).await?;
    Ok(attempts.done(told))
}

async fn look_at_budgets(store: &Store, which: Which, attempts: &mut Attempts<'_>) -> Result<u64, StoreError> {
    let mut told = 0;
    let mut last: Option<BudgetRow> = None;
    for _ in 0..PAGES_MAX {
        let after = last.as_ref();
        let page = store.read("budgets", |tx| Box::pin(budgets::page(tx, which, after, PAGE))).await?;
        for budget in &page {
            let outcome = store.run_slow_tx("budget_alert", |tx| Box::pin(tell_budget(tx, budget))).await;
            let Pair { consumer, publisher } = budget.pair;
            let tell = |error| tracing::error!(%consumer, %publisher, %error, "a budget cannot be compared");
            told += attempts.take(outcome, tell).await?.unwrap_or(0);
        }
        last = page.into_iter().last();
        if last.is_none() {
            break;
        }
    }
    Ok(told)
}

async fn tell_budget(tx: &Transaction<'_>, budget: &BudgetRow) -> Result<u64, AccountFault> {
    ratings::allow_time(tx).await?;
    let month = billing_months::current(tx, budget.pair.publisher).await?;
    let statements = account::statements(tx, budget.pair, &month).await?;
    let Some(statement) = statements.get(&budget.currency) else { return Ok(0) };
    let limit = Minor::of_decimal(budget.amount, &budget.currency)?;
    let spent = statement.charged.decimal(&budget.currency)?;
    let mut told = 0;
    for threshold in reached(statement.charged.0, limit.0) {
        let pair = budget.pair;
        let event = NewEvent {
            kind: "alert.budget",
            at: billing_months::billing_now(tx, pair.publisher).await?,
            pair,
            subscription: None,
            invoice: None,
            amount: Some((spent, &budget.currency)),
            details: json!({"percent": threshold_number(threshold), "budget": budget.amount, "month": shown(month.month)}),
            // A new amount is a new budget: he is told again.
            dedupe: format!(
                "alert.budget:{}:{}:{}:{}:{}:{threshold}",
                pair.consumer,
                pair.publisher,
                budget.currency,
                shown(month.month),
                budget.amount.normalize()
            ),
        };
        told += u64::from(billing_events::append(tx, &event).await?);
    }
    Ok(told)
}

async fn look_at_quotas(store: &Store, attempts: &mut Attempts<'_>) -> Result<u64, StoreError> {
    let mut told = 0;
    let mut after: Option<Uuid> = None;
    for _ in 0..PAGES_MAX {
        let page = store.read("quota_use", |tx| Box::pin(budgets::quota_use(tx, after, PAGE))).await?;
        for quota in page.iter().filter(|quota| reached(quota.used.into(), quota.included.into()).next().is_some()) {
            let outcome = store.run_tx("quota_alert", |tx| Box::pin(tell_quota(tx, quota))).await;
            let tell = |error| tracing::error!(subscription = %quota.subscription, %error, "a quota cannot be told");
            told += attempts.take(outcome, tell).await?.unwrap_or(0);
        }
        after = page.last().map(|quota| quota.subscription);
        if after.is_none() {
            break;
        }
    }
    Ok(told)
}

async fn tell_quota(tx: &Transaction<'_>, quota: &QuotaUse) -> Result<u64, StoreError> {
    let mut told = 0;
    for threshold in reached(quota.used.into(), quota.included.into()) {
        let event = NewEvent {
            kind: "alert.quota",
            at: billing_months::billing_now(tx, quota.pair.publisher).await?,
            pair: quota.pair,
            subscription: Some(quota.subscription),
            invoice: None,
            amount: None,
            details: json!({
                "percent": threshold_number(threshold), "used": quota.used, "included": quota.included,
                "month": shown(quota.month),
            }),
            dedupe: format!("alert.quota:{}:{}:{}:{threshold}", quota.subscription, shown(quota.month), quota.included),
        };
        told += u64::from(billing_events::append(tx, &event).await?);
    }
    Ok(told)
}

fn shown(month: Date) -> String {
    month.strftime("%Y-%m").to_string()
}

fn threshold_number(threshold: i128) -> Decimal {
    Decimal::try_from_i128_with_scale(threshold, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::reached;

    #[test]
    fn a_threshold_is_reached_at_its_very_per_cent() {
        let at = |spent: i128| reached(spent, 200).collect::<Vec<_>>();
        assert_eq!((at(169), at(170), at(199), at(200)), (vec![], vec![85], vec![85], vec![85, 100]));
    }
}
