//! Moves subscriptions into the month that runs, and ends those whose wanted end has come; each with its audit line and its
//! change, so that the gateways learn it. Refuses to wait for a row that somebody else holds: the next run takes it.

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::changes::{self, EntityKind};
use crate::store::audit::{self, Actor, Target};
use crate::store::billing_months::{self, MonthFault};
use crate::store::periods::{self as rows, EndedPeriod};
use crate::store::{Store, StoreError, Transaction, subscriptions};

/// Subscriptions in one transaction: it must end within the store's deadline.
const BATCH_MAX: i64 = 100;
/// Batches in one run, so that a fault of ours cannot keep it running: a million subscriptions.
const BATCHES_MAX: u32 = 10_000;

/// How far a batch came.
struct Batch {
    count: usize,
    last: Option<(Timestamp, Uuid)>,
}

/// Safe to run on several control planes at once, and as often as anybody likes.
pub(super) async fn run(store: &Store) -> Result<(), StoreError> {
    for _ in 0..BATCHES_MAX {
        if store.run_tx("end_due_subscriptions", |tx| Box::pin(end_due(tx))).await? == 0 {
            break;
        }
    }
    let mut after = None;
    for _ in 0..BATCHES_MAX {
        let batch = store.run_tx("advance_periods", |tx| Box::pin(advance_batch(tx, after))).await?;
        if batch.count == 0 {
            break;
        }
        after = batch.last;
    }
    Ok(())
}

async fn end_due(tx: &Transaction<'_>) -> Result<usize, StoreError> {
    let ended = rows::end_due(tx, BATCH_MAX).await?;
    for subscription in &ended {
        let after = json!({"status": "cancelled", "cancelled_at": subscription.cancelled_at});
        note(tx, "subscription.end", subscription.id, subscription.organization_id, None, Some(after)).await?;
    }
    Ok(ended.len())
}

async fn advance_batch(tx: &Transaction<'_>, after: Option<(Timestamp, Uuid)>) -> Result<Batch, StoreError> {
    let ended = rows::lock_ended(tx, after, BATCH_MAX).await?;
    for row in &ended {
        match advance(tx, row).await {
            Ok(()) => {}
            Err(MonthFault::Store(error)) => return Err(error),
            // One organization's time zone must not stop everybody else's months.
            Err(error) => tracing::error!(subscription = %row.id, %error, "a subscription's period cannot be moved"),
        }
    }
    Ok(Batch { count: ended.len(), last: ended.last().map(|row| (row.period_end, row.id)) })
}

/// Moves a subscription, which the caller has locked, into its publisher's month that runs: the only way into another period. A
/// plan that waited takes effect.
pub(crate) async fn advance(tx: &Transaction<'_>, row: &EndedPeriod) -> Result<(), MonthFault> {
    let period = billing_months::current(tx, row.publisher).await?.period();
    rows::advance(tx, row.id, &period).await?;
    if let Some(next) = row.next_plan {
        subscriptions::drop_unsuited_override(tx, row.id).await?;
        // A plan that is sold no more is in the snapshot as long as somebody holds it.
        changes::record(tx, EntityKind::Plan, row.plan).await?;
        changes::record(tx, EntityKind::Plan, next).await?;
    }
    let before = json!({"period_id": row.period_id, "period_end": row.period_end});
    let after = json!({"period_id": period.id, "period_end": period.ends_at});
    Ok(note(tx, "subscription.advance", row.id, row.organization_id, Some(before), Some(after)).await?)
}

async fn note(
    tx: &Transaction<'_>,
    action: &str,
    id: Uuid,
    organization: Uuid,
    before: Option<serde_json::Value>,
    after: Option<serde_json::Value>,
) -> Result<(), StoreError> {
    let target = Target { kind: "subscription", id, organization_id: Some(organization) };
    audit::write(tx, &Actor::default(), action, target, before, after).await?;
    changes::record(tx, EntityKind::Subscription, id).await.map(|_| ())
}
