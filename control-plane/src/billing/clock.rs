//! The simulation clock: ends a publisher's running month now and moves his billing time to its end. Periods move with it, and invoices
//! follow; the time of an event never changes. Refuses where the settings do not allow it (`AppState` asks first).

use uuid::Uuid;

use crate::changes::{self, ChangeId, EntityKind};
use crate::store::Transaction;
use crate::store::audit::{self, Actor, Target};
use crate::store::billing_months::{self, MonthFault, MonthRow};

/// A move of the clock.
#[derive(Clone, Debug)]
pub struct Advanced {
    /// The month that ended.
    pub ended: MonthRow,
    /// The one that runs now.
    pub running: MonthRow,
    /// All the publisher's ends are told anew: gateways know only the time of events.
    pub change: ChangeId,
}

pub async fn advance(tx: &Transaction<'_>, publisher: Uuid, actor: &Actor) -> Result<Advanced, MonthFault> {
    billing_months::lock_clock(tx, publisher).await?;
    let month = billing_months::current(tx, publisher).await?;
    billing_months::end_by_clock(tx, &month).await?;
    // The month that follows begins where this one has just ended.
    let running = billing_months::current(tx, publisher).await?;
    let target = Target { kind: "organization", id: publisher, organization_id: Some(publisher) };
    let after = serde_json::json!({"month": running.month.to_string(), "starts_at": running.starts_at});
    audit::write(tx, actor, "billing_clock.advance", target, None, Some(after)).await?;
    let change = changes::record(tx, EntityKind::Organization, publisher).await?;
    Ok(Advanced { ended: month, running, change })
}
