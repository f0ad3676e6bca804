//! `access_tokens`: what programs show instead of a session. Refuses to know the token: only its digest comes here.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{After, StoreError, Transaction};
use crate::domain::accounts::Scope;

#[derive(Clone, Debug)]
pub struct AccessTokenRow {
    pub id: Uuid,
    pub organization_id: Option<Uuid>,
    pub name: String,
    pub prefix: String,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// Who a valid token speaks for.
#[derive(Clone, Debug)]
pub struct TokenOwner {
    pub token_id: Uuid,
    pub user_id: Uuid,
    pub is_admin: bool,
    pub organization_id: Option<Uuid>,
    pub scopes: Vec<Scope>,
    /// Whether `touch_access_token` is due.
    pub is_stale: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct NewAccessToken<'a> {
    pub id: Uuid,
    pub user_id: Uuid,
    pub organization_id: Option<Uuid>,
    pub name: &'a str,
    pub prefix: &'a str,
    pub token_digest: &'a [u8],
    pub scopes: &'a [Scope],
    pub expires_at: Option<Timestamp>,
}

impl AccessTokenRow {
    fn read(row: &Row) -> Result<AccessTokenRow, StoreError> {
        Ok(AccessTokenRow {
            id: row.try_get("id")?,
            organization_id: row.try_get("organization_id")?,
            name: row.try_get("name")?,
            prefix: row.try_get("prefix")?,
            scopes: read_scopes(row)?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

pub async fn insert_access_token(tx: &Transaction<'_>, new: NewAccessToken<'_>) -> Result<AccessTokenRow, StoreError> {
    let sql = "-- insert_access_token
        INSERT INTO access_tokens (id, user_id, organization_id, name, prefix, token_digest, scopes, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        RETURNING id, organization_id, name, prefix, scopes, expires_at, last_used_at, created_at";
    let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
    let values: super::Values<'_> = &[
        &new.id,
        &new.user_id,
        &new.organization_id,
        &new.name,
        &new.prefix,
        &new.token_digest,
        &scopes,
        &new.expires_at,
    ];
    AccessTokenRow::read(&tx.query_one_cached(sql, values).await?)
}

/// Tokens that still speak for the user.
pub async fn count_valid(tx: &Transaction<'_>, user_id: Uuid) -> Result<i64, StoreError> {
    let sql = "-- count_valid
        SELECT count(*) FROM access_tokens
        WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())";
    Ok(tx.query_one_cached(sql, &[&user_id]).await?.try_get(0)?)
}

/// Tokens that ended, and those of suspended users, speak for nobody.
pub async fn find_token_owner(tx: &Transaction<'_>, digest: &[u8]) -> Result<Option<TokenOwner>, StoreError> {
    let sql = "-- find_token_owner
        SELECT t.id, t.user_id, u.is_admin, t.organization_id, t.scopes,
               coalesce(t.last_used_at < now() - interval '1 minute', true) AS is_stale
        FROM access_tokens t JOIN users u ON u.id = t.user_id
        WHERE t.token_digest = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
          AND u.status = 'active'";
    let Some(row) = tx.query_opt_cached(sql, &[&digest]).await? else { return Ok(None) };
    Ok(Some(TokenOwner {
        token_id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        is_admin: row.try_get("is_admin")?,
        organization_id: row.try_get("organization_id")?,
        scopes: read_scopes(&row)?,
        is_stale: row.try_get("is_stale")?,
    }))
}

pub async fn touch_access_token(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- touch_access_token\nUPDATE access_tokens SET last_used_at = now() WHERE id = $1";
    // It may have been removed a moment ago; then there is nothing to note.
    tx.execute_cached(sql, &[&id]).await.map(|_| ())
}

/// Tokens that are not revoked; expired ones are shown until then.
pub async fn list_access_tokens(
    tx: &Transaction<'_>,
    user_id: Uuid,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<AccessTokenRow>, StoreError> {
    let sql = "-- list_access_tokens
        SELECT id, organization_id, name, prefix, scopes, expires_at, last_used_at, created_at FROM access_tokens
        WHERE user_id = $1 AND revoked_at IS NULL AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3))
        ORDER BY created_at, id LIMIT $4";
    let (at, id) = After::split(after);
    tx.query_cached(sql, &[&user_id, &at, &id, &rows]).await?.iter().map(AccessTokenRow::read).collect()
}

/// The token as it was, if there was such a one of this user.
pub async fn revoke_access_token(
    tx: &Transaction<'_>,
    user_id: Uuid,
    id: Uuid,
) -> Result<Option<AccessTokenRow>, StoreError> {
    let sql = "-- revoke_access_token
        UPDATE access_tokens SET revoked_at = now() WHERE user_id = $1 AND id = $2 AND revoked_at IS NULL
        RETURNING id, organization_id, name, prefix, scopes, expires_at, last_used_at, created_at";
    tx.query_opt_cached(sql, &[&user_id, &id]).await?.as_ref().map(AccessTokenRow::read).transpose()
}

pub(super) fn read_scopes(row: &Row) -> Result<Vec<Scope>, StoreError> {
    let texts: Vec<&str> = row.try_get("scopes")?;
    let parse = |text: &str| Scope::from_stored(text).ok_or_else(|| StoreError::BadRow(format!("a scope is '{text}'")));
    texts.into_iter().map(parse).collect()
}
