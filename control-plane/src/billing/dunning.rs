//! What happens when nobody pays: from the due date the pair's subscriptions are past due, and after the days of grace the gateways
//! answer 402. Paying (or voiding) the last invoice that is due undoes it at once. Refuses to collect money: payments are simulated.

use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;

use super::attempts::{Attempts, Done};
use crate::changes::{self, EntityKind};
use crate::settings::Billing;
use crate::store::audit::{self, Actor, Target};
use crate::store::billing_events::{self, NewEvent};
use crate::store::dunning::{self as rows, Touched};
use crate::store::ratings::{self, Pair};
use crate::store::{Store, StoreError, Transaction, billing_months};

#[cfg(test)]
mod tests;

/// Pairs of one statement, and statements of one run.
const PAGE: i64 = 200;
const PAGES_MAX: u32 = 10_000;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Safe to run on several control planes at once. `only`: one publisher's. Answers how many subscriptions were marked.
pub async fn run(store: &Store, billing: &Billing, only: Option<Uuid>) -> Result<Done, StoreError> {
    let mut attempts = Attempts::new(store);
    let (mut marked, mut last) = (0, None);
    for _ in 0..PAGES_MAX {
        let page = store.read("overdue_pairs", |tx| Box::pin(rows::overdue(tx, only, last, PAGE))).await?;
        for pair in &page {
            let outcome = store.run_tx("mark_past_due", |tx| Box::pin(mark(tx, *pair, billing))).await;
            let Pair { consumer, publisher } = *pair;
            let tell = |error| tracing::error!(%consumer, %publisher, %error, "what is past due cannot be marked");
            marked += attempts.take(outcome, tell).await?.unwrap_or(0);
        }
        last = page.last().copied();
        if last.is_none() {
            break;
        }
    }
    Ok(attempts.done(marked))
}

/// Under the pair's lock, so that who pays meanwhile has paid before this or after it.
async fn mark(tx: &Transaction<'_>, pair: Pair, billing: &Billing) -> Result<u64, StoreError> {
    ratings::lock_pair(tx, pair).await?;
    let Some(due) = rows::oldest_due(tx, pair).await? else { return Ok(0) };
    let refuse_from = due.at.checked_add(DAY * i32::from(billing.grace_days)).unwrap_or(due.at);
    let touched = rows::mark(tx, pair, due.at, refuse_from).await?;
    for subscription in &touched {
        let event = NewEvent {
            kind: "subscription.past_due",
            at: billing_months::billing_now(tx, pair.publisher).await?,
            pair,
            subscription: Some(subscription.id),
            invoice: Some(due.invoice),
            amount: None,
            details: json!({"refuse_unpaid_from": refuse_from}),
            dedupe: format!("past_due:{}:{}", subscription.id, due.invoice),
        };
        billing_events::append(tx, &event).await?;
        let after = json!({"past_due_since": due.at, "refuse_unpaid_from": refuse_from});
        note(tx, subscription, "subscription.past_due", after).await?;
    }
    Ok(u64::try_from(touched.len()).unwrap_or(u64::MAX))
}

/// Call it in the transaction that paid or voided an invoice of the pair. Answers the last change, where gateways must learn one.
pub async fn clear(tx: &Transaction<'_>, pair: Pair, actor: &Actor) -> Result<Option<changes::ChangeId>, StoreError> {
    let mut last = None;
    for subscription in rows::clear(tx, pair).await? {
        let target =
            Target { kind: "subscription", id: subscription.id, organization_id: Some(subscription.organization) };
        audit::write(tx, actor, "subscription.paid_up", target, None, Some(json!({"past_due_since": null}))).await?;
        last = Some(changes::record(tx, EntityKind::Subscription, subscription.id).await?);
    }
    Ok(last)
}

async fn note(
    tx: &Transaction<'_>,
    subscription: &Touched,
    action: &str,
    after: serde_json::Value,
) -> Result<(), StoreError> {
    let target = Target { kind: "subscription", id: subscription.id, organization_id: Some(subscription.organization) };
    audit::write(tx, &Actor::default(), action, target, None, Some(after)).await?;
    changes::record(tx, EntityKind::Subscription, subscription.id).await.map(|_| ())
}
