//! The size of the fleet: for how many gateways the limits' bounds are stated, and how many there are. Raised as soon as there
//! are more, in one transaction that only one session runs at a time; refuses to lower it unasked.

use tokio_postgres::Row;
use uuid::Uuid;

use super::audit::{self, Actor, Target};
use super::changes::{ChangeId, EntityKind, insert_change};
use super::nodes::CONNECTED_WITHIN_S;
use super::{Store, StoreError, Transaction};

/// The most that the column takes.
pub const FLEET_SIZE_MAX: i32 = 10_000;
/// Key of the advisory lock of whoever changes the size: two nodes that come at the same time both see both.
const FLEET_LOCK: i64 = 0x6170_6968_7562_0002;
/// It has no row of its own among the things that have ids.
const TARGET: Target = Target { kind: "fleet", id: Uuid::nil(), organization_id: None };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetRow {
    pub fleet_max: i32,
    /// Gateways that there are: expected nodes, whether they are seen or not, further processes of one node (an upgrade), and
    /// drained nodes for as long as they are connected, since they serve.
    pub nodes: i64,
}

impl FleetRow {
    /// What it has to be raised to, if it has to.
    fn wanted(self) -> Option<i32> {
        let nodes = i32::try_from(self.nodes).unwrap_or(FLEET_SIZE_MAX).min(FLEET_SIZE_MAX);
        (nodes > self.fleet_max).then_some(nodes)
    }
}

pub async fn get(tx: &Transaction<'_>) -> Result<FleetRow, StoreError> {
    let sql = "-- fleet.get
        SELECT f.fleet_max, (
            SELECT coalesce(sum(greatest(p.live, (n.state = 'active')::int)), 0)::bigint
            FROM nodes n CROSS JOIN LATERAL (
                SELECT count(*) AS live FROM node_processes o
                WHERE o.node_id = n.id AND o.is_connected AND o.last_seen_at > now() - make_interval(secs => $1)) AS p)
        FROM feed_state f";
    let row: Row = tx.query_one_cached(sql, &[&f64::from(CONNECTED_WITHIN_S)]).await?;
    Ok(FleetRow { fleet_max: row.try_get(0)?, nodes: row.try_get(1)? })
}

/// As `get`, and nobody else changes the size before the transaction ends.
pub async fn lock(tx: &Transaction<'_>) -> Result<FleetRow, StoreError> {
    tx.query_one_cached("-- fleet.lock\nSELECT pg_advisory_xact_lock($1)::text", &[&FLEET_LOCK]).await?;
    get(tx).await
}

/// Under the lock. `before` is what stood there.
pub async fn set(
    tx: &Transaction<'_>,
    actor: &Actor,
    action: &str,
    before: FleetRow,
    fleet_max: i32,
) -> Result<ChangeId, StoreError> {
    let sql = "-- fleet.set\nUPDATE feed_state SET fleet_max = $1, updated_at = now()";
    StoreError::expect_one("fleet.set", tx.execute_cached(sql, &[&fleet_max]).await?)?;
    let json = |fleet_max: i32| Some(serde_json::json!({ "fleet_max": fleet_max, "nodes": before.nodes }));
    audit::write(tx, actor, action, TARGET, json(before.fleet_max), json(fleet_max)).await?;
    insert_change(tx, EntityKind::Fleet, None).await
}

/// Makes room for every node that there is, in the caller's transaction. `None`: there is room.
pub async fn make_room_in(tx: &Transaction<'_>, actor: &Actor) -> Result<Option<ChangeId>, StoreError> {
    let before = lock(tx).await?;
    match before.wanted() {
        Some(wanted) => set(tx, actor, "fleet.raise", before, wanted).await.map(Some),
        None => Ok(None),
    }
}

/// As `make_room_in`; costs one read where there is room.
pub async fn make_room(store: &Store) -> Result<Option<ChangeId>, StoreError> {
    let now = store.read("find_fleet", |tx| Box::pin(get(tx))).await?;
    if now.wanted().is_none() {
        return Ok(None);
    }
    let raised = store.run_tx("raise_fleet", |tx| Box::pin(async move { make_room_in(tx, &Actor::default()).await }));
    let raised = raised.await?;
    if raised.is_some() {
        tracing::info!(from = now.fleet_max, nodes = now.nodes, "the fleet has grown, and its limits' bounds with it");
    }
    Ok(raised)
}
