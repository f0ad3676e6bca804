//! `nodes` and `node_processes`: which gateways exist, and which revision each serves. A node is expected to acknowledge until
//! an operator drains or removes it; that a node is not seen changes nothing about that. While two processes of a node are
//! connected (an upgrade), the node serves only what both serve.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{After, Store, StoreError, Transaction};
use crate::store::changes::Channel;

/// A process whose feed gave no sign for so long is not connected any more, in seconds: seven missed touches. As in
/// `reach_sql`.
pub(super) const CONNECTED_WITHIN_S: i32 = 15;
/// Nodes in one answer; a fleet is smaller.
const NODES_MAX: i64 = 1_000;
/// Names, among a process's refusals, those that are not listed: any entity may be one of them.
pub const UNLISTED: &str = "others";

/// How a gateway introduces itself.
#[derive(Clone, Debug)]
pub struct NewNode {
    pub id: Uuid,
    pub name: String,
    pub boot_id: Uuid,
    pub version: String,
    pub features: Vec<String>,
    pub address: Option<String>,
    /// What it holds, and so serves, already.
    pub served: Option<(Uuid, i64)>,
}

/// What a process of a node has acknowledged.
#[derive(Clone, Debug)]
pub struct AckRow {
    pub node_id: Uuid,
    pub boot_id: Uuid,
    /// Whether a stream of the process is open here; a word that arrives after the last one ended does not say so.
    pub is_connected: bool,
    pub epoch: Uuid,
    pub revision: i64,
    pub refusals: serde_json::Value,
}

/// An expected node that does not serve a revision yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLag {
    pub name: String,
    /// Of the current epoch.
    pub served_revision: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct NodeRow {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub features: Vec<String>,
    pub state: String,
    pub address: Option<String>,
    pub is_connected: bool,
    /// Of the current epoch.
    pub served_revision: Option<i64>,
    pub newest_revision: i64,
    pub refusals: serde_json::Value,
    pub first_seen_at: Timestamp,
    pub last_seen_at: Timestamp,
}

/// Why a node was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("another node named '{name}' is connected")]
    NameTaken { name: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes a node in. A node that lost its disk comes back under its name with a new id and replaces the former row; a removed
/// one is active again, since it is evidently there; a drained one stays drained.
pub async fn register_node(store: &Store, node: &NewNode) -> Result<(), RegisterError> {
    let outcome = store
        .run_tx("register_node", |tx| {
            Box::pin(async move {
                free_name(tx, node).await?;
                upsert_node(tx, node).await?;
                replace_processes(tx, node).await
            })
        })
        .await;
    match outcome {
        Err(RegisterError::Store(error)) if error.is_conflict_on("nodes_name_key") => {
            Err(RegisterError::NameTaken { name: node.name.clone() })
        }
        other => other,
    }
}

async fn free_name(tx: &Transaction<'_>, node: &NewNode) -> Result<(), RegisterError> {
    let sql = "-- lock_name_holder\nSELECT n.id FROM nodes n WHERE n.name = $1 AND n.id <> $2 FOR UPDATE";
    let Some(row) = tx.query_opt_cached(sql, &[&node.name, &node.id]).await? else {
        return Ok(());
    };
    let holder: Uuid = read(&row, 0)?;
    // Asked once the lock is had: the holder itself may have come back while it was waited for.
    let sql = "-- is_holder_connected
        SELECT EXISTS (SELECT FROM node_processes p WHERE p.node_id = $1 AND p.is_connected
                       AND p.last_seen_at > now() - make_interval(secs => $2))";
    let is_connected: bool = read(&tx.query_one_cached(sql, &[&holder, &f64::from(CONNECTED_WITHIN_S)]).await?, 0)?;
    if is_connected {
        return Err(RegisterError::NameTaken { name: node.name.clone() });
    }
    let sql = "-- retire_name
        UPDATE nodes SET name = left(name, 80) || '~' || id, state = 'removed' WHERE id = $1";
    tx.execute_cached(sql, &[&holder]).await?;
    Ok(())
}

async fn upsert_node(tx: &Transaction<'_>, node: &NewNode) -> Result<(), RegisterError> {
    let sql = "-- upsert_node
        INSERT INTO nodes AS n (id, name, boot_id, version, features, address) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET name = $2, boot_id = $3, version = $4, features = $5, address = $6, last_seen_at = now(),
            state = CASE n.state WHEN 'removed' THEN 'active' ELSE n.state END";
    tx.execute_cached(sql, &[&node.id, &node.name, &node.boot_id, &node.version, &node.features, &node.address])
        .await?;
    Ok(())
}

/// The process that says hello, instead of those of its node that are gone. One that is forgotten too early comes back with
/// its next sign of life.
async fn replace_processes(tx: &Transaction<'_>, node: &NewNode) -> Result<(), RegisterError> {
    let sql = "-- forget_processes
        DELETE FROM node_processes WHERE node_id = $1 AND boot_id <> $2
            AND NOT (is_connected AND last_seen_at > now() - make_interval(secs => $3))";
    tx.execute_cached(sql, &[&node.id, &node.boot_id, &f64::from(CONNECTED_WITHIN_S)]).await?;
    let sql = "-- upsert_process
        INSERT INTO node_processes (node_id, boot_id, served_epoch, served_revision) VALUES ($1, $2, $3, $4)
        ON CONFLICT (node_id, boot_id) DO UPDATE SET is_connected = true, served_epoch = $3, served_revision = $4,
            refusals = '[]', last_seen_at = now()";
    let (epoch, revision) = node.served.unzip();
    tx.execute_cached(sql, &[&node.id, &node.boot_id, &epoch, &revision]).await?;
    Ok(())
}

fn read<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(StoreError::from)
}

/// Stores what several processes serve now, in one statement, and tells the other control planes. Does not wait for the disk: a
/// lost acknowledgement is given again. An open stream is a sign of life, whatever the end of another one has noted; an
/// acknowledgement that was overtaken on the way is left out.
pub async fn save_acks(store: &Store, acks: &[AckRow]) -> Result<(), StoreError> {
    let sql = "-- save_acks
        WITH relaxed AS (SELECT set_config('synchronous_commit', 'off', true) AS setting), moved AS (
            INSERT INTO node_processes AS p (node_id, boot_id, served_epoch, served_revision, refusals, is_connected)
            SELECT a.id, a.boot_id, a.epoch, a.revision, a.refusals, a.is_connected
            FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::jsonb[], $7::boolean[])
                AS a (id, boot_id, epoch, revision, refusals, is_connected) JOIN nodes n ON n.id = a.id
            ON CONFLICT (node_id, boot_id) DO UPDATE SET served_epoch = excluded.served_epoch,
                is_connected = p.is_connected OR excluded.is_connected,
                served_revision = excluded.served_revision, refusals = excluded.refusals, last_seen_at = now()
            WHERE p.served_epoch IS DISTINCT FROM excluded.served_epoch OR p.served_revision <= excluded.served_revision
            RETURNING p.node_id
        )
        SELECT (SELECT setting FROM relaxed), (SELECT count(*) FROM moved), pg_notify($6, '')::text";
    let column = |pick: fn(&AckRow) -> Uuid| acks.iter().map(pick).collect::<Vec<_>>();
    let (ids, boots, epochs) = (column(|a| a.node_id), column(|a| a.boot_id), column(|a| a.epoch));
    let revisions: Vec<i64> = acks.iter().map(|ack| ack.revision).collect();
    let refusals: Vec<&serde_json::Value> = acks.iter().map(|ack| &ack.refusals).collect();
    let connected: Vec<bool> = acks.iter().map(|ack| ack.is_connected).collect();
    store
        .read("save_acks", |tx| {
            Box::pin(async move {
                let channel = Channel::Acks.as_str();
                let values: super::Values<'_> = &[&ids, &boots, &epochs, &revisions, &refusals, &channel, &connected];
                tx.query_one_cached(sql, values).await.map(|_| ())
            })
        })
        .await
}

/// The processes that are connected here, as (node, boot), are still there.
pub async fn touch_processes(store: &Store, processes: &[(Uuid, Uuid)]) -> Result<(), StoreError> {
    let sql = "-- touch_processes
        INSERT INTO node_processes (node_id, boot_id)
        SELECT a.id, a.boot_id FROM unnest($1::uuid[], $2::uuid[]) AS a (id, boot_id) JOIN nodes n ON n.id = a.id
        ON CONFLICT (node_id, boot_id) DO UPDATE SET is_connected = true, last_seen_at = now()";
    let (nodes, boots): (Vec<Uuid>, Vec<Uuid>) = processes.iter().copied().unzip();
    store
        .read("touch_processes", |tx| {
            Box::pin(async move { tx.execute_cached(sql, &[&nodes, &boots]).await.map(|_| ()) })
        })
        .await
}

/// The last stream of a process has ended; its node's name is free for a successor.
pub async fn mark_disconnected(store: &Store, node: Uuid, boot_id: Uuid) -> Result<(), StoreError> {
    let sql =
        "-- mark_disconnected\nUPDATE node_processes SET is_connected = false WHERE node_id = $1 AND boot_id = $2";
    store
        .read("mark_disconnected", |tx| {
            Box::pin(async move { tx.execute_cached(sql, &[&node, &boot_id]).await.map(|_| ()) })
        })
        .await
}

/// What a node `n` serves of the epoch of `f`: what all of its connected processes serve, or, where none is connected, what the
/// last one did. No epoch, no revision: nothing.
macro_rules! reach_sql {
    () => {
        "LEFT JOIN LATERAL (
            SELECT bool_or(p.is_live) AS is_connected, max(p.last_seen_at) AS last_seen_at,
                CASE WHEN bool_and(p.served_epoch IS NOT DISTINCT FROM f.epoch) THEN min(p.served_revision) END AS served_revision,
                jsonb_path_query_array(jsonb_agg(p.refusals), '$[*][*]') AS refusals
            FROM (SELECT q.*, row_number() OVER (ORDER BY q.is_live DESC, q.last_seen_at DESC) AS place FROM (
                    SELECT o.*, o.is_connected AND o.last_seen_at > now() - make_interval(secs => 15) AS is_live
                    FROM node_processes o WHERE o.node_id = n.id) AS q) AS p
            WHERE p.is_live OR p.place = 1
        ) AS r ON true"
    };
}
pub(super) use reach_sql;

/// The expected nodes that do not serve `revision` of the current epoch, or refuse something that was written with it. All of them,
/// where the database has lost that revision: it goes on behind it, and nobody serves what is not there any more.
pub async fn list_lagging(store: &Store, revision: u64) -> Result<Vec<NodeLag>, StoreError> {
    let sql = concat!(
        "-- list_lagging
        SELECT n.name, r.served_revision FROM nodes n CROSS JOIN feed_state f ",
        reach_sql!(),
        " WHERE n.state = 'active' AND (r.served_revision IS NULL OR r.served_revision < $1
            OR ($1 <= f.revision AND NOT EXISTS (SELECT FROM config_changes l WHERE l.revision = $1)) OR EXISTS (
            SELECT FROM jsonb_array_elements(r.refusals) AS e WHERE e ->> 'entity' = $3 OR e ->> 'entity' IN (
                SELECT c.entity || ' ' || coalesce(c.entity_id, '00000000-0000-0000-0000-000000000000')::text
                FROM config_changes c WHERE c.xid = (SELECT w.xid FROM config_changes w WHERE w.revision = $1))))
        ORDER BY n.name LIMIT $2"
    );
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    store
        .read("list_lagging", |tx| {
            Box::pin(async move {
                let rows = tx.query_cached(sql, &[&revision, &NODES_MAX, &UNLISTED]).await?;
                rows.iter()
                    .map(|row| {
                        let served: Option<i64> = row.try_get(1)?;
                        let served_revision = served.and_then(|revision| u64::try_from(revision).ok());
                        Ok(NodeLag { name: row.try_get(0)?, served_revision })
                    })
                    .collect()
            })
        })
        .await
}

const NODE_COLUMNS: &str = concat!(
    "SELECT n.id, n.name, n.version, n.features, n.state, n.address, coalesce(r.is_connected, false), r.served_revision,
    f.revision, coalesce(r.refusals, '[]'), n.first_seen_at, greatest(n.last_seen_at, r.last_seen_at)
    FROM nodes n CROSS JOIN feed_state f ",
    reach_sql!()
);

/// Nodes in the order in which they came; removed ones are left out.
pub async fn list_nodes(tx: &Transaction<'_>, after: Option<After>, limit: i64) -> Result<Vec<NodeRow>, StoreError> {
    let sql = format!(
        "-- list_nodes\n{NODE_COLUMNS} WHERE n.state <> 'removed'
            AND ($1::timestamptz IS NULL OR (n.first_seen_at, n.id) > ($1, $2)) ORDER BY n.first_seen_at, n.id LIMIT $3"
    );
    let (at, id) = After::split(after);
    tx.query_cached(&sql, &[&at, &id, &limit]).await?.iter().map(node).collect()
}

pub async fn find_node(tx: &Transaction<'_>, id: Uuid) -> Result<Option<NodeRow>, StoreError> {
    let sql = format!("-- find_node\n{NODE_COLUMNS} WHERE n.id = $1 AND n.state <> 'removed'");
    tx.query_opt_cached(&sql, &[&id]).await?.as_ref().map(node).transpose()
}

/// As `find_node`, and keeps processes that would come in waiting.
pub async fn lock_node(tx: &Transaction<'_>, id: Uuid) -> Result<Option<NodeRow>, StoreError> {
    // Read by a statement of its own: one that had to wait for a process that comes in would not see it connected.
    let sql = "-- lock_node\nSELECT 1 FROM nodes WHERE id = $1 FOR UPDATE";
    match tx.query_opt_cached(sql, &[&id]).await? {
        Some(_) => find_node(tx, id).await,
        None => Ok(None),
    }
}

/// An operator's word: `active`, `drained` or `removed`.
pub async fn set_state(tx: &Transaction<'_>, id: Uuid, state: &str) -> Result<(), StoreError> {
    let sql = "-- set_node_state\nUPDATE nodes SET state = $2 WHERE id = $1";
    StoreError::expect_one("set_node_state", tx.execute_cached(sql, &[&id, &state]).await?)
}

fn node(row: &Row) -> Result<NodeRow, StoreError> {
    Ok(NodeRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        version: row.try_get(2)?,
        features: row.try_get(3)?,
        state: row.try_get(4)?,
        address: row.try_get(5)?,
        is_connected: row.try_get(6)?,
        served_revision: row.try_get(7)?,
        newest_revision: row.try_get(8)?,
        refusals: row.try_get(9)?,
        first_seen_at: row.try_get(10)?,
        last_seen_at: row.try_get(11)?,
    })
}
