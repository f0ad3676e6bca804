//! `sessions`: who is signed in where. Refuses to know the token: only its digest comes here.

use std::net::IpAddr;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::housekeeping::remove_in_batches;
use super::{After, Store, StoreError, Transaction};

#[derive(Clone, Debug)]
pub struct SessionRow {
    pub id: Uuid,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub expires_at: Timestamp,
    pub user_agent: Option<String>,
    pub address: Option<IpAddr>,
}

/// Who a valid session belongs to.
#[derive(Clone, Debug)]
pub struct SessionOwner {
    pub session_id: Uuid,
    pub user_id: Uuid,
    pub is_admin: bool,
    /// Whether `touch_session` is due.
    pub is_stale: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct NewSession<'a> {
    pub id: Uuid,
    pub user_id: Uuid,
    pub token_digest: &'a [u8],
    pub expires_at: Timestamp,
    pub user_agent: Option<&'a str>,
    pub address: IpAddr,
}

impl SessionRow {
    fn read(row: &Row) -> Result<SessionRow, StoreError> {
        Ok(SessionRow {
            id: row.try_get("id")?,
            created_at: row.try_get("created_at")?,
            last_seen_at: row.try_get("last_seen_at")?,
            expires_at: row.try_get("expires_at")?,
            user_agent: row.try_get("user_agent")?,
            address: row.try_get("address")?,
        })
    }
}

pub async fn insert_session(tx: &Transaction<'_>, new: NewSession<'_>) -> Result<SessionRow, StoreError> {
    let sql = "-- insert_session
        INSERT INTO sessions (id, user_id, token_digest, expires_at, user_agent, address) VALUES ($1, $2, $3, $4, $5, $6)
        RETURNING id, created_at, last_seen_at, expires_at, user_agent, address";
    let values: super::Values<'_> =
        &[&new.id, &new.user_id, &new.token_digest, &new.expires_at, &new.user_agent, &new.address];
    SessionRow::read(&tx.query_one_cached(sql, values).await?)
}

/// Sessions that ended, and those of suspended users, are nobody's.
pub async fn find_session_owner(tx: &Transaction<'_>, digest: &[u8]) -> Result<Option<SessionOwner>, StoreError> {
    let sql = "-- find_session_owner
        SELECT s.id, s.user_id, u.is_admin, s.last_seen_at < now() - interval '1 minute' AS is_stale
        FROM sessions s JOIN users u ON u.id = s.user_id
        WHERE s.token_digest = $1 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.status = 'active'";
    let Some(row) = tx.query_opt_cached(sql, &[&digest]).await? else { return Ok(None) };
    Ok(Some(SessionOwner {
        session_id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        is_admin: row.try_get("is_admin")?,
        is_stale: row.try_get("is_stale")?,
    }))
}

pub async fn touch_session(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- touch_session\nUPDATE sessions SET last_seen_at = now() WHERE id = $1";
    // It may have been removed a moment ago; then there is nothing to note.
    tx.execute_cached(sql, &[&id]).await.map(|_| ())
}

/// Sessions that still let somebody in.
pub async fn list_sessions(
    tx: &Transaction<'_>,
    user_id: Uuid,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<SessionRow>, StoreError> {
    let sql = "-- list_sessions
        SELECT id, created_at, last_seen_at, expires_at, user_agent, address FROM sessions
        WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
          AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3))
        ORDER BY created_at, id LIMIT $4";
    let (at, id) = After::split(after);
    tx.query_cached(sql, &[&user_id, &at, &id, &rows]).await?.iter().map(SessionRow::read).collect()
}

/// Whether there was such a session of this user.
pub async fn revoke_session(tx: &Transaction<'_>, user_id: Uuid, id: Uuid) -> Result<bool, StoreError> {
    let sql = "-- revoke_session
        UPDATE sessions SET revoked_at = now() WHERE user_id = $1 AND id = $2 AND revoked_at IS NULL AND expires_at > now()";
    Ok(tx.execute_cached(sql, &[&user_id, &id]).await? == 1)
}

/// After a change of the password: everybody else must sign in again.
pub async fn revoke_other_sessions(tx: &Transaction<'_>, user_id: Uuid, keep: Option<Uuid>) -> Result<u64, StoreError> {
    let sql = "-- revoke_other_sessions
        UPDATE sessions SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $2";
    tx.execute_cached(sql, &[&user_id, &keep]).await
}

/// Housekeeping: rows that let nobody in for a week.
pub async fn delete_ended_sessions(store: &Store) -> Result<(), StoreError> {
    let sql = "-- delete_ended_sessions
        DELETE FROM sessions WHERE id IN (SELECT id FROM sessions
            WHERE expires_at < now() - interval '7 days' OR revoked_at < now() - interval '7 days'
            LIMIT $1 FOR UPDATE SKIP LOCKED)";
    remove_in_batches(store, "delete_ended_sessions", sql, &[]).await.map(|_| ())
}
