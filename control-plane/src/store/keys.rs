//! `api_keys`: digests and what an owner recognises a key by. The key itself is not in any column, and a digest is never
//! read back here. `get` and `list` are bound to the consumer's organization; `owner_of` finds it out, and the writes rely on a
//! caller who holds the subscription's lock.

use jiff::Timestamp;
use snapshot::key::MintedKey;
use tokio_postgres::Row;
use uuid::Uuid;

use super::row::closed_text;
use super::{After, StoreError, Transaction, Values};
use crate::domain::key::{Environment, KeyStatus};

#[derive(Clone, Debug)]
pub struct KeyRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub subscription_id: Uuid,
    pub name: String,
    pub prefix: String,
    pub last_four: String,
    pub environment: Environment,
    pub status: KeyStatus,
    pub scopes: Vec<String>,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub predecessor_id: Option<Uuid>,
    pub successor_id: Option<Uuid>,
    pub created_by: Uuid,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Whose a key is, and of which subscription.
#[derive(Clone, Copy, Debug)]
pub struct KeyOwner {
    pub organization: Uuid,
    pub subscription: Uuid,
}

/// What a list is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyFilter {
    pub status: Option<KeyStatus>,
    pub environment: Option<Environment>,
}

/// A key to be written; of the minted key only what may be stored.
#[derive(Debug)]
pub struct NewKey<'a> {
    pub id: Uuid,
    pub subscription: Uuid,
    pub name: &'a str,
    pub minted: &'a MintedKey,
    pub environment: Environment,
    pub scopes: &'a [String],
    pub expires_at: Option<Timestamp>,
    pub predecessor: Option<Uuid>,
    pub created_by: Uuid,
}

macro_rules! columns {
    () => {
        "k.id, k.meter_id, k.subscription_id, k.name, k.prefix, k.last_four, k.environment, k.status, k.scopes, k.expires_at, \
         k.last_used_at, k.revoked_at, k.predecessor_id, \
         (SELECT n.id FROM api_keys n WHERE n.predecessor_id = k.id) AS successor_id, \
         k.created_by, k.version, k.created_at, k.updated_at"
    };
}

macro_rules! joined {
    () => {
        " FROM api_keys k JOIN subscriptions s ON s.id = k.subscription_id "
    };
}

pub async fn owner_of(tx: &Transaction<'_>, id: Uuid) -> Result<Option<KeyOwner>, StoreError> {
    let sql = "-- keys.owner_of\n\
        SELECT s.organization_id, s.id FROM api_keys k JOIN subscriptions s ON s.id = k.subscription_id WHERE k.id = $1";
    let Some(row) = tx.query_opt_cached(sql, &[&id]).await? else { return Ok(None) };
    Ok(Some(KeyOwner { organization: row.try_get("organization_id")?, subscription: row.try_get("id")? }))
}

pub async fn insert(tx: &Transaction<'_>, new: &NewKey<'_>) -> Result<KeyRow, StoreError> {
    let sql = concat!(
        "-- keys.insert\n\
         INSERT INTO api_keys AS k (id, subscription_id, name, key_digest, prefix, last_four, environment, scopes, expires_at, \
             predecessor_id, created_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING ",
        columns!()
    );
    let digest: &[u8] = &new.minted.digest.0;
    let row = tx
        .query_one_cached(
            sql,
            &[
                &new.id,
                &new.subscription,
                &new.name,
                &digest,
                &new.minted.prefix,
                &new.minted.last_four,
                &new.environment.as_str(),
                &new.scopes,
                &new.expires_at,
                &new.predecessor,
                &new.created_by,
            ],
        )
        .await?;
    KeyRow::try_from(&row)
}

pub async fn get(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!("-- keys.get\nSELECT ", columns!(), joined!(), "WHERE k.id = $1 AND s.organization_id = $2");
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(KeyRow::try_from).transpose()
}

pub async fn list(
    tx: &Transaction<'_>,
    organization: Uuid,
    subscription: Uuid,
    filter: KeyFilter,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<KeyRow>, StoreError> {
    let sql = concat!(
        "-- keys.list\nSELECT ",
        columns!(),
        joined!(),
        "WHERE k.subscription_id = $1 AND s.organization_id = $2 AND ($3::text IS NULL OR k.status = $3) \
         AND ($4::text IS NULL OR k.environment = $4) \
         AND ($5::timestamptz IS NULL OR (k.created_at, k.id) > ($5, $6)) ORDER BY k.created_at, k.id LIMIT $7"
    );
    let (status, environment) = (filter.status.map(KeyStatus::as_str), filter.environment.map(Environment::as_str));
    let (created_at, id) = After::split(after);
    let values: Values<'_> = &[&subscription, &organization, &status, &environment, &created_at, &id, &limit];
    tx.query_cached(sql, values).await?.iter().map(KeyRow::try_from).collect()
}

/// Keys that count against the limit: not revoked, and not past their expiry. Asked under the subscription's lock.
pub async fn count_active(tx: &Transaction<'_>, subscription: Uuid) -> Result<i64, StoreError> {
    let sql = "-- keys.count_active\n\
        SELECT count(*) AS n FROM api_keys \
        WHERE subscription_id = $1 AND status = 'active' AND (expires_at IS NULL OR expires_at > now())";
    Ok(tx.query_one_cached(sql, &[&subscription]).await?.try_get("n")?)
}

pub async fn update(
    tx: &Transaction<'_>,
    id: Uuid,
    name: &str,
    expires_at: Option<Timestamp>,
) -> Result<KeyRow, StoreError> {
    let sql = concat!(
        "-- keys.update\nUPDATE api_keys AS k SET name = $2, expires_at = $3 WHERE k.id = $1 AND k.status = 'active' RETURNING ",
        columns!()
    );
    KeyRow::try_from(&tx.query_one_cached(sql, &[&id, &name, &expires_at]).await?)
}

pub async fn revoke(tx: &Transaction<'_>, id: Uuid) -> Result<KeyRow, StoreError> {
    let sql = concat!(
        "-- keys.revoke\nUPDATE api_keys AS k SET status = 'revoked', revoked_at = now() \
         WHERE k.id = $1 AND k.status = 'active' RETURNING ",
        columns!()
    );
    KeyRow::try_from(&tx.query_one_cached(sql, &[&id]).await?)
}

impl TryFrom<&Row> for KeyRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(KeyRow {
            id: row.try_get("id")?,
            meter_id: row.try_get("meter_id")?,
            subscription_id: row.try_get("subscription_id")?,
            name: row.try_get("name")?,
            prefix: row.try_get("prefix")?,
            last_four: row.try_get("last_four")?,
            environment: closed_text(row, "environment", Environment::parse)?,
            status: closed_text(row, "status", KeyStatus::parse)?,
            scopes: row.try_get("scopes")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
            revoked_at: row.try_get("revoked_at")?,
            predecessor_id: row.try_get("predecessor_id")?,
            successor_id: row.try_get("successor_id")?,
            created_by: row.try_get("created_by")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}
