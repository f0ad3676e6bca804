//! `idempotency_keys`: the answer to a create, kept so that a repeated request gets it again instead of a second thing. The
//! claim is part of the creating transaction: a create that fails leaves no claim. Refuses to keep a secret.

use serde_json::Value;
use uuid::Uuid;

use super::housekeeping::remove_in_batches;
use super::{Store, StoreError, Transaction};

/// One request under one key.
#[derive(Clone, Debug)]
pub struct Claim {
    pub user_id: Uuid,
    pub key: String,
    pub method: String,
    pub path: String,
    pub request_digest: [u8; 32],
}

#[derive(Clone, Debug)]
pub enum Claimed {
    /// The first of its key: go on, then `record_response`.
    Fresh,
    /// The same request was answered before.
    Replay { status: i16, response: Value },
    /// The key belongs to another request.
    Reused,
}

/// Waits for a concurrent request with the same key to end, then sees its answer.
pub async fn claim(tx: &Transaction<'_>, claim: &Claim) -> Result<Claimed, StoreError> {
    // An expired row is as good as none.
    let sql = "-- claim_idempotency_key
        INSERT INTO idempotency_keys AS k (user_id, idempotency_key, method, path, request_digest, expires_at)
        VALUES ($1, $2, $3, $4, $5, now() + interval '24 hours')
        ON CONFLICT (user_id, idempotency_key) DO UPDATE
        SET method = excluded.method, path = excluded.path, request_digest = excluded.request_digest,
            status = NULL, response = NULL, created_at = now(), expires_at = excluded.expires_at
        WHERE k.expires_at <= now()";
    let digest: &[u8] = &claim.request_digest;
    let values: super::Values<'_> = &[&claim.user_id, &claim.key, &claim.method, &claim.path, &digest];
    if tx.execute_cached(sql, values).await? == 1 {
        return Ok(Claimed::Fresh);
    }
    let sql = "-- find_idempotency_key
        SELECT method, path, request_digest, status, response FROM idempotency_keys
        WHERE user_id = $1 AND idempotency_key = $2";
    let row = tx.query_one_cached(sql, &[&claim.user_id, &claim.key]).await?;
    let (method, path): (&str, &str) = (row.try_get("method")?, row.try_get("path")?);
    let stored_digest: &[u8] = row.try_get("request_digest")?;
    if method != claim.method || path != claim.path || stored_digest != digest {
        return Ok(Claimed::Reused);
    }
    let status: Option<i16> = row.try_get("status")?;
    let response: Option<Value> = row.try_get("response")?;
    match (status, response) {
        (Some(status), Some(response)) => Ok(Claimed::Replay { status, response }),
        _ => Err(StoreError::BadRow("an idempotency key was committed without its answer".to_owned())),
    }
}

pub async fn record_response(
    tx: &Transaction<'_>,
    claim: &Claim,
    status: i16,
    response: &Value,
) -> Result<(), StoreError> {
    let sql = "-- record_idempotent_response
        UPDATE idempotency_keys SET status = $3, response = $4 WHERE user_id = $1 AND idempotency_key = $2";
    StoreError::expect_one(
        "record_idempotent_response",
        tx.execute_cached(sql, &[&claim.user_id, &claim.key, &status, response]).await?,
    )
}

/// Housekeeping.
pub async fn delete_expired_keys(store: &Store) -> Result<(), StoreError> {
    let sql = "-- delete_expired_keys
        DELETE FROM idempotency_keys WHERE (user_id, idempotency_key) IN (SELECT user_id, idempotency_key
            FROM idempotency_keys WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED)";
    remove_in_batches(store, "delete_expired_keys", sql, &[]).await.map(|_| ())
}
