//! What happens when nobody pays: from the due date the pair's subscriptions are past due, and after the days of grace the gateways
//! answer 402. Paying (or voiding) the last invoice that is due undoes it at once. Refuses to collect money: payments are simulated.

use jiff::SignedDuration;
use serde_json::json;

use crate::changes::{self, EntityKind};
use crate::settings::Billing;
use crate::store::audit::{self, Actor, Target};
use crate::store::billing_events::{self, NewEvent};
use crate::store::dunning::{self as rows, Overdue, Touched};
use crate::store::ratings::Pair;
use crate::store::{Store, StoreError, Transaction, billing_months};

/// Pairs of one transaction, and transactions of one run.
const BATCH_MAX: i64 = 20;
const BATCHES_MAX: u32 = 10_000;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Safe to run on several control planes at once. Answers how many subscriptions were marked.
pub async fn run(store: &Store, billing: &Billing) -> Result<u64, StoreError> {
    let mut marked = 0;
    for _ in 0..BATCHES_MAX {
        let count = store.run_tx("mark_past_due", |tx| Box::pin(mark_batch(tx, billing))).await?;
        if count == 0 {
            break;
        }
        marked += count;
    }
    Ok(marked)
}

async fn mark_batch(tx: &Transaction<'_>, billing: &Billing) -> Result<u64, StoreError> {
    let mut marked = 0;
    for overdue in rows::overdue(tx, BATCH_MAX).await? {
        let touched = mark(tx, &overdue, billing).await?;
        marked += u64::try_from(touched).unwrap_or(0);
    }
    Ok(marked)
}

async fn mark(tx: &Transaction<'_>, overdue: &Overdue, billing: &Billing) -> Result<usize, StoreError> {
    let refuse_from = overdue.due_at.checked_add(DAY * i32::from(billing.grace_days)).unwrap_or(overdue.due_at);
    let touched = rows::mark(tx, overdue.pair, overdue.due_at, refuse_from).await?;
    for subscription in &touched {
        let event = NewEvent {
            kind: "subscription.past_due",
            at: billing_months::billing_now(tx, overdue.pair.publisher).await?,
            pair: overdue.pair,
            subscription: Some(subscription.id),
            invoice: Some(overdue.invoice),
            amount: None,
            details: json!({"refuse_unpaid_from": refuse_from}),
            dedupe: format!("past_due:{}:{}", subscription.id, overdue.invoice),
        };
        billing_events::append(tx, &event).await?;
        let after = json!({"past_due_since": overdue.due_at, "refuse_unpaid_from": refuse_from});
        note(tx, subscription, "subscription.past_due", after).await?;
    }
    Ok(touched.len())
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
