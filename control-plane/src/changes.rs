//! How a write becomes a revision, and when every gateway serves it. Changes are recorded in the writer's transaction without
//! a number; one session at a time numbers them afterwards. Refuses to hold a lock through anybody's commit.

mod listener;
mod revisions;
mod sequencer;
mod signals;

#[cfg(test)]
mod tests;

use uuid::Uuid;

pub use crate::store::changes::{ChangeId, EntityKind};
pub use crate::store::nodes::NodeLag;
pub use revisions::{NotNumbered, Revisions, Served};
pub use signals::Signals;

use crate::store::{StoreError, Transaction, changes};

/// Says in the writer's own transaction that an entity changed. The last id of a transaction is the one to wait for.
pub async fn record(tx: &Transaction<'_>, kind: EntityKind, entity: Uuid) -> Result<ChangeId, StoreError> {
    let entity = (kind != EntityKind::Fleet).then_some(entity);
    changes::insert_change(tx, kind, entity).await
}
