//! `audit_log`: who changed what, written in the transaction of the change, append-only. Refuses secrets: fields that could
//! hold one are struck out whatever the caller passed.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{After, StoreError, Transaction};

/// Who acts; all `None` but the request id when the system itself does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Actor {
    pub user_id: Option<Uuid>,
    pub token_id: Option<Uuid>,
    pub address: Option<IpAddr>,
    pub request_id: Option<Uuid>,
}

/// What is acted on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As the table, singular: `product`, `api_key`.
    pub kind: &'static str,
    pub id: Uuid,
    /// In whose audit log it is read; `None` for a user's own matters.
    pub organization_id: Option<Uuid>,
}

#[derive(Clone, Debug)]
pub struct AuditRow {
    pub id: Uuid,
    pub occurred_at: Timestamp,
    pub actor_user_id: Option<Uuid>,
    pub actor_token_id: Option<Uuid>,
    pub action: String,
    pub target_kind: String,
    pub target_id: Option<Uuid>,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub address: Option<IpAddr>,
    pub request_id: Option<Uuid>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct AuditFilter<'a> {
    pub action: Option<&'a str>,
    pub target_kind: Option<&'a str>,
    pub target_id: Option<Uuid>,
    pub actor_user_id: Option<Uuid>,
}

/// Words in a field's name that make its value a secret.
const SECRET_WORDS: &[&str] = &["password", "secret", "digest", "token", "challenge", "key_value"];

impl AuditRow {
    fn read(row: &Row) -> Result<AuditRow, StoreError> {
        Ok(AuditRow {
            id: row.try_get("id")?,
            occurred_at: row.try_get("occurred_at")?,
            actor_user_id: row.try_get("actor_user_id")?,
            actor_token_id: row.try_get("actor_token_id")?,
            action: row.try_get("action")?,
            target_kind: row.try_get("target_kind")?,
            target_id: row.try_get("target_id")?,
            before: row.try_get("before")?,
            after: row.try_get("after")?,
            address: row.try_get("address")?,
            request_id: row.try_get("request_id")?,
        })
    }
}

/// `action` as in `product.publish`. Call it in the transaction that makes the change.
pub async fn write(
    tx: &Transaction<'_>,
    actor: &Actor,
    action: &str,
    target: Target,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<(), StoreError> {
    let sql = "-- write_audit
        INSERT INTO audit_log (id, actor_user_id, actor_token_id, organization_id, action, target_kind, target_id,
                               before, after, address, request_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let (before, after) = (before.map(redact), after.map(redact));
    let values: super::Values<'_> = &[
        &Uuid::now_v7(),
        &actor.user_id,
        &actor.token_id,
        &target.organization_id,
        &action,
        &target.kind,
        &target.id,
        &before,
        &after,
        &actor.address,
        &actor.request_id,
    ];
    StoreError::expect_one("write_audit", tx.execute_cached(sql, values).await?)
}

/// Newest first.
pub async fn list_audit(
    tx: &Transaction<'_>,
    organization_id: Uuid,
    filter: AuditFilter<'_>,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<AuditRow>, StoreError> {
    let sql = "-- list_audit
        SELECT id, occurred_at, actor_user_id, actor_token_id, action, target_kind, target_id, before, after, address,
               request_id
        FROM audit_log
        WHERE organization_id = $1 AND ($2::uuid IS NULL OR id < $2)
          AND ($3::text IS NULL OR action = $3) AND ($4::text IS NULL OR target_kind = $4)
          AND ($5::uuid IS NULL OR target_id = $5) AND ($6::uuid IS NULL OR actor_user_id = $6)
        ORDER BY id DESC LIMIT $7";
    let before_id = after.map(|after| after.id);
    let values: super::Values<'_> = &[
        &organization_id,
        &before_id,
        &filter.action,
        &filter.target_kind,
        &filter.target_id,
        &filter.actor_user_id,
        &rows,
    ];
    tx.query_cached(sql, values).await?.iter().map(AuditRow::read).collect()
}

/// Whoever passes a value had it as JSON before, so its nesting is bounded.
fn redact(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().map(redact_field).collect()),
        Value::Array(items) => Value::Array(items.into_iter().map(redact).collect()),
        other => other,
    }
}

fn redact_field((name, value): (String, Value)) -> (String, Value) {
    let is_secret = value.is_string() && SECRET_WORDS.iter().any(|word| name.contains(word));
    let value = if is_secret { Value::from("(redacted)") } else { redact(value) };
    (name, value)
}
