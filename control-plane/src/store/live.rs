//! What live usage asks of Postgres: what meter ids stand for, whether a watcher still may watch, and one-time tickets.
//! Refuses to know a ticket: only its digest comes here.

use tokio_postgres::Row;
use uuid::Uuid;

use super::access_tokens::read_scopes;
use super::housekeeping::remove_in_batches;
use super::{Store, StoreError, Transaction, Values};
use crate::domain::accounts::Scope;

/// Meter ids to be named.
#[derive(Debug, Default)]
pub struct Unknown {
    pub products: Vec<i64>,
    pub subscriptions: Vec<i64>,
    pub endpoints: Vec<i64>,
    pub keys: Vec<i64>,
    pub plans: Vec<i64>,
}

/// A product with its publisher, or a subscription with its consumer.
#[derive(Debug)]
pub struct OwnedName {
    pub meter_id: i64,
    pub id: Uuid,
    pub organization: Uuid,
    /// The product's, or the consumer's.
    pub slug: String,
}

#[derive(Debug, Default)]
pub struct Names {
    pub products: Vec<OwnedName>,
    pub subscriptions: Vec<OwnedName>,
    /// Meter id, id, pattern.
    pub endpoints: Vec<(i64, Uuid, String)>,
    pub keys: Vec<(i64, Uuid)>,
    pub plans: Vec<(i64, Uuid)>,
}

/// By what a watcher proved who he is.
#[derive(Clone, Copy, Debug)]
pub enum Credential {
    Session(Uuid),
    Token(Uuid),
}

/// Whom a credential that still holds speaks for.
#[derive(Clone, Debug)]
pub struct Holder {
    pub user_id: Uuid,
    pub is_admin: bool,
    /// Of a token: its scopes and the organization it is bound to.
    pub token: Option<(Vec<Scope>, Option<Uuid>)>,
}

impl Unknown {
    pub fn is_empty(&self) -> bool {
        [&self.products, &self.subscriptions, &self.endpoints, &self.keys, &self.plans].iter().all(|ids| ids.is_empty())
    }
}

pub async fn name(tx: &Transaction<'_>, unknown: &Unknown) -> Result<Names, StoreError> {
    Ok(Names {
        products: name_products(tx, &unknown.products).await?,
        subscriptions: name_subscriptions(tx, &unknown.subscriptions).await?,
        endpoints: name_endpoints(tx, &unknown.endpoints).await?,
        keys: name_keys(tx, &unknown.keys).await?,
        plans: name_plans(tx, &unknown.plans).await?,
    })
}

async fn name_products(tx: &Transaction<'_>, ids: &[i64]) -> Result<Vec<OwnedName>, StoreError> {
    let sql = "-- live.name_products
        SELECT meter_id, id, organization_id, slug FROM api_products WHERE meter_id = ANY($1)";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    tx.query_cached(sql, &[&ids]).await?.iter().map(OwnedName::read).collect()
}

async fn name_subscriptions(tx: &Transaction<'_>, ids: &[i64]) -> Result<Vec<OwnedName>, StoreError> {
    let sql = "-- live.name_subscriptions
        SELECT s.meter_id, s.id, s.organization_id, o.slug
        FROM subscriptions s JOIN organizations o ON o.id = s.organization_id WHERE s.meter_id = ANY($1)";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    tx.query_cached(sql, &[&ids]).await?.iter().map(OwnedName::read).collect()
}

async fn name_endpoints(tx: &Transaction<'_>, ids: &[i64]) -> Result<Vec<(i64, Uuid, String)>, StoreError> {
    let sql = "-- live.name_endpoints\nSELECT meter_id, id, path_pattern FROM endpoints WHERE meter_id = ANY($1)";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tx.query_cached(sql, &[&ids]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

async fn name_keys(tx: &Transaction<'_>, ids: &[i64]) -> Result<Vec<(i64, Uuid)>, StoreError> {
    let sql = "-- live.name_keys\nSELECT meter_id, id FROM api_keys WHERE meter_id = ANY($1)";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    tx.query_cached(sql, &[&ids]).await?.iter().map(read_pair).collect()
}

async fn name_plans(tx: &Transaction<'_>, ids: &[i64]) -> Result<Vec<(i64, Uuid)>, StoreError> {
    let sql = "-- live.name_plans\nSELECT meter_id, id FROM plans WHERE meter_id = ANY($1)";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    tx.query_cached(sql, &[&ids]).await?.iter().map(read_pair).collect()
}

fn read_pair(row: &Row) -> Result<(i64, Uuid), StoreError> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

impl OwnedName {
    fn read(row: &Row) -> Result<OwnedName, StoreError> {
        Ok(OwnedName {
            meter_id: row.try_get(0)?,
            id: row.try_get(1)?,
            organization: row.try_get(2)?,
            slug: row.try_get(3)?,
        })
    }
}

/// `None`: the session or token ended, or its user was suspended.
pub async fn find_holder(tx: &Transaction<'_>, credential: Credential) -> Result<Option<Holder>, StoreError> {
    let of_session = "-- live.find_session_holder
        SELECT u.id, u.is_admin FROM sessions s JOIN users u ON u.id = s.user_id
        WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.status = 'active'";
    let of_token = "-- live.find_token_holder
        SELECT u.id, u.is_admin, t.scopes, t.organization_id FROM access_tokens t JOIN users u ON u.id = t.user_id
        WHERE t.id = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
          AND u.status = 'active'";
    let (sql, id) = match credential {
        Credential::Session(id) => (of_session, id),
        Credential::Token(id) => (of_token, id),
    };
    let Some(row) = tx.query_opt_cached(sql, &[&id]).await? else { return Ok(None) };
    let token = match credential {
        Credential::Session(_) => None,
        Credential::Token(_) => Some((read_scopes(&row)?, row.try_get("organization_id")?)),
    };
    Ok(Some(Holder { user_id: row.try_get("id")?, is_admin: row.try_get("is_admin")?, token }))
}

/// Those of `organizations` that the user is a member of.
pub async fn list_memberships(
    tx: &Transaction<'_>,
    user_id: Uuid,
    organizations: &[Uuid],
) -> Result<Vec<Uuid>, StoreError> {
    let sql = "-- live.list_memberships
        SELECT organization_id FROM organization_members WHERE user_id = $1 AND organization_id = ANY($2)";
    let rows = tx.query_cached(sql, &[&user_id, &organizations]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Writes a ticket unless the user has `most` that were not used; his expired ones go. Whether it was written.
pub async fn insert_ticket(
    tx: &Transaction<'_>,
    digest: &[u8],
    user_id: Uuid,
    credential: Credential,
    (lifetime_s, most): (i32, i64),
) -> Result<bool, StoreError> {
    let sql = "-- live.forget_tickets\nDELETE FROM live_tickets WHERE user_id = $1 AND expires_at <= now()";
    tx.execute_cached(sql, &[&user_id]).await?;
    let sql = "-- live.insert_ticket
        INSERT INTO live_tickets (digest, user_id, session_id, access_token_id, expires_at)
        SELECT $1::bytea, $2::uuid, $3::uuid, $4::uuid, now() + make_interval(secs => $5)
        WHERE (SELECT count(*) FROM live_tickets WHERE user_id = $2) < $6";
    let (session, token) = match credential {
        Credential::Session(id) => (Some(id), None),
        Credential::Token(id) => (None, Some(id)),
    };
    let values: Values<'_> = &[&digest, &user_id, &session, &token, &f64::from(lifetime_s), &most];
    Ok(tx.execute_cached(sql, values).await? == 1)
}

/// A ticket is good once.
pub async fn redeem_ticket(tx: &Transaction<'_>, digest: &[u8]) -> Result<Option<Credential>, StoreError> {
    let sql = "-- live.redeem_ticket
        DELETE FROM live_tickets WHERE digest = $1 AND expires_at > now() RETURNING session_id, access_token_id";
    let Some(row) = tx.query_opt_cached(sql, &[&digest]).await? else { return Ok(None) };
    let (session, token): (Option<Uuid>, Option<Uuid>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(session.map(Credential::Session).or(token.map(Credential::Token)))
}

/// Housekeeping: tickets that nobody used.
pub async fn delete_expired_tickets(store: &Store) -> Result<(), StoreError> {
    let sql = "-- live.delete_expired_tickets
        DELETE FROM live_tickets WHERE digest IN (SELECT digest FROM live_tickets
            WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED)";
    remove_in_batches(store, "delete_expired_tickets", sql, &[]).await.map(|_| ())
}
