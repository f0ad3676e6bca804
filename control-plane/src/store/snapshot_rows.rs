//! Rows that the snapshot is made of, read inside one repeatable-read transaction. Says which rows are served at all
//! (one predicate per table, the same for a whole build and for a single row); knows no wire types.

use std::collections::BTreeSet;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Store, StoreError, Transaction};
use crate::domain::key::Environment;
use crate::domain::plan::{Algorithm, OnRedisDown, QuotaMode};
use crate::domain::product::ProductCaps;
use crate::domain::subscription::SubscriptionStatus;

/// How long an expired key stays in the snapshot, so that a clock that is behind still meets it. The gateways judge expiry.
pub const EXPIRED_KEY_KEPT_MS: i64 = 7 * 24 * 3_600_000;

/// Products read at once: each brings its whole release.
const PRODUCTS_AT_ONCE: usize = 100;

/// The feed's own state as this transaction sees it.
#[derive(Clone, Copy, Debug)]
pub struct FeedState {
    pub epoch: Uuid,
    pub revision: i64,
    pub fleet_max: i32,
    pub now_ms: i64,
}

#[derive(Clone, Debug)]
pub struct ProductRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub organization_id: Uuid,
    pub organization_slug: String,
    pub slug: String,
    pub hosts: Vec<String>,
    pub release: i32,
    /// The stored release, an encoded product.
    pub compiled: Vec<u8>,
    pub quarantine_reason: Option<String>,
    pub caps: ProductCaps,
}

#[derive(Clone, Debug)]
pub struct PlanRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub name: String,
    pub version: i32,
    pub requests_per_minute: i32,
    pub burst_limit: i32,
    pub algorithm: Algorithm,
    pub on_redis_down: OnRedisDown,
    pub strict: bool,
    pub included_requests: Option<i64>,
    pub quota_mode: QuotaMode,
}

#[derive(Clone, Debug)]
pub struct SubscriptionRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub product_id: Uuid,
    pub plan_id: Uuid,
    pub consumer_id: Uuid,
    pub consumer_username: String,
    pub status: SubscriptionStatus,
    pub override_requests_per_minute: Option<i32>,
    pub override_burst_limit: Option<i32>,
    pub period_id: i32,
    pub period_end_ms: Option<i64>,
    /// Where it is not the plan's: what its plans include together in this period, each by its seconds.
    pub period_included: Option<i64>,
    pub next_period_id: Option<i32>,
    pub next_period_end_ms: Option<i64>,
    pub cancel_at_ms: Option<i64>,
    pub refuse_unpaid_from_ms: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct KeyRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub digest: Vec<u8>,
    pub subscription_id: Uuid,
    pub environment: Environment,
    pub expires_at_ms: Option<i64>,
    pub scopes: Vec<String>,
}

/// What one build reads, or one part of a whole one.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRows {
    pub products: Vec<ProductRow>,
    pub plans: Vec<PlanRow>,
    pub subscriptions: Vec<SubscriptionRow>,
    pub keys: Vec<KeyRow>,
}

impl SnapshotRows {
    pub fn is_empty(&self) -> bool {
        self.products.is_empty() && self.plans.is_empty() && self.subscriptions.is_empty() && self.keys.is_empty()
    }
}

/// The rows that some changes are about, by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub fleet: bool,
    pub organizations: BTreeSet<Uuid>,
    pub products: BTreeSet<Uuid>,
    pub plans: BTreeSet<Uuid>,
    pub subscriptions: BTreeSet<Uuid>,
    pub keys: BTreeSet<Uuid>,
}

// Each text is written once, as a cursor over all rows and with a filter by ids: a single statement for both would be planned
// as a scan.
macro_rules! products_sql {
    ($name:literal, $before:literal, $after:literal) => {
        concat!(
            "-- ",
            $name,
            "\n",
            $before,
            "SELECT p.id, p.meter_id, p.organization_id, o.slug AS organization_slug, p.slug, p.hosts, r.number, r.compiled,
                p.quarantine_reason, p.requests_in_flight_max, p.upstream_connections_max
             FROM api_products p
             JOIN organizations o ON o.id = p.organization_id
             JOIN releases r ON r.id = p.live_release_id
             WHERE p.status IN ('published', 'deprecated') AND o.status = 'active' ",
            $after
        )
    };
}

// An archived version is served while a subscription in the snapshot names it.
macro_rules! plans_sql {
    ($name:literal, $before:literal, $after:literal) => {
        concat!(
            "-- ",
            $name,
            "\n",
            $before,
            "SELECT l.id, l.meter_id, l.name, l.version, r.requests_per_minute, r.burst_limit, r.algorithm, r.on_redis_down,
                r.strict, l.included_requests, l.quota_mode
             FROM plans l
             JOIN rate_limit_policies r ON r.plan_id = l.id
             JOIN api_products p ON p.id = l.product_id
             WHERE p.live_release_id IS NOT NULL
               AND (l.status = 'active' OR (l.status = 'archived' AND EXISTS (
                    SELECT FROM subscriptions s WHERE s.plan_id = l.id AND (s.status <> 'cancelled' OR EXISTS (
                        SELECT FROM api_keys k WHERE k.subscription_id = s.id AND k.status = 'active'))))) ",
            $after
        )
    };
}

// A cancelled subscription stays while it has keys, so that their holder reads 403 and not 401. The next period is the next
// month of the publisher: for gateways that lose touch at the turn of a month. Gateways know one time, that of events: a publisher
// whose billing time was moved ahead has his ends told that much earlier. Whoever held his plan all the period has what it includes.
macro_rules! subscriptions_sql {
    ($name:literal, $before:literal, $after:literal) => {
        concat!(
            "-- ",
            $name,
            "\n",
            $before,
            "SELECT s.id, s.meter_id, s.product_id, s.plan_id, s.organization_id, o.slug,
                CASE WHEN o.status <> 'active' AND s.status IN ('active', 'past_due') THEN 'suspended' ELSE s.status END AS status,
                s.override_requests_per_minute, s.override_burst_limit, s.period_id,
                ((extract(epoch FROM s.period_end) - k.ahead_s) * 1000)::bigint AS period_end_ms,
                to_char(m.month + interval '1 month', 'YYYYMM')::int AS next_period_id,
                ((extract(epoch FROM (m.month + interval '2 months') AT TIME ZONE z.time_zone) - k.ahead_s)
                    * 1000)::bigint AS next_period_end_ms,
                ((extract(epoch FROM s.cancel_at) - k.ahead_s) * 1000)::bigint AS cancel_at_ms,
                ((extract(epoch FROM s.refuse_unpaid_from) - k.ahead_s) * 1000)::bigint AS refuse_unpaid_from_ms,
                CASE WHEN t.subscription_id IS NOT NULL AND l.included_requests IS NOT NULL
                    THEN nullif(included_in_period(s.id, s.period_start, s.period_end), l.included_requests) END AS period_included
             FROM subscriptions s
             JOIN plans l ON l.id = s.plan_id
             LEFT JOIN subscription_terms t ON t.subscription_id = s.id AND t.ends_at IS NULL AND t.starts_at > s.period_start
             JOIN organizations o ON o.id = s.organization_id
             JOIN api_products p ON p.id = s.product_id
             JOIN organizations z ON z.id = p.organization_id
             LEFT JOIN billing_clocks c ON c.organization_id = z.id
             CROSS JOIN LATERAL (SELECT coalesce(c.ahead_s, 0) AS ahead_s) k
             CROSS JOIN LATERAL (SELECT to_date(nullif(s.period_id, 0)::text, 'YYYYMM')::timestamp AS month) m
             WHERE (s.status <> 'cancelled'
                OR EXISTS (SELECT FROM api_keys k WHERE k.subscription_id = s.id AND k.status = 'active')) ",
            $after
        )
    };
}

macro_rules! keys_sql {
    ($name:literal, $before:literal, $after:literal) => {
        concat!(
            "-- ",
            $name,
            "\n",
            $before,
            "SELECT k.id, k.meter_id, k.key_digest, k.subscription_id, k.environment,
                (extract(epoch FROM k.expires_at) * 1000)::bigint AS expires_at_ms, k.scopes
             FROM api_keys k
             WHERE k.status = 'active'
               AND (k.expires_at IS NULL OR k.expires_at > now() - $1::bigint * interval '1 millisecond') ",
            $after
        )
    };
}

mod parsing;
// After the texts, so that it can use them.
mod tables;

use parsing::{parse, product};
pub use tables::{Table, fetch_rows, open_table};

/// One statement of a build; the builder gives up after this time too.
const MOMENT_MAX: &str = "120s";

/// Begins a transaction that sees one moment, however long it takes: a whole build may outlast `run_tx`'s deadline.
pub async fn begin_moment(store: &Store) -> Result<Transaction<'static>, StoreError> {
    let tx = Transaction::new(store.connection().await?);
    tx.execute_cached("-- begin_moment\nBEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", &[]).await?;
    tx.query_one_cached("-- bound_moment\nSELECT set_config('statement_timeout', $1, true)", &[&MOMENT_MAX]).await?;
    Ok(tx)
}

/// Dropping the transaction instead closes its connection.
pub async fn end_moment(tx: Transaction<'static>) -> Result<(), StoreError> {
    tx.commit().await
}

pub async fn read_feed_state(tx: &Transaction<'_>) -> Result<FeedState, StoreError> {
    let sql = "-- read_feed_state
        SELECT epoch, revision, fleet_max, (extract(epoch FROM now()) * 1000)::bigint AS now_ms FROM feed_state";
    let row = tx.query_one_cached(sql, &[]).await?;
    Ok(FeedState {
        epoch: row.try_get(0)?,
        revision: row.try_get(1)?,
        fleet_max: row.try_get(2)?,
        now_ms: row.try_get(3)?,
    })
}

/// The served ones among the touched rows; a row that is missing from the answer is not served any more.
pub async fn load_touched(tx: &Transaction<'_>, touched: &Touched) -> Result<SnapshotRows, StoreError> {
    let ids = |set: &BTreeSet<Uuid>| set.iter().copied().collect::<Vec<_>>();
    let mut found: [Vec<Row>; 3] = Default::default();
    let [plans, subscriptions, keys] = &mut found;
    if !touched.plans.is_empty() {
        *plans = tx.query_cached(plans_sql!("load_plans", "", "AND l.id = ANY($1)"), &[&ids(&touched.plans)]).await?;
    }
    if !touched.subscriptions.is_empty() {
        let sql = subscriptions_sql!("load_subscriptions", "", "AND s.id = ANY($1)");
        *subscriptions = tx.query_cached(sql, &[&ids(&touched.subscriptions)]).await?;
    }
    if !touched.keys.is_empty() {
        let sql = keys_sql!("load_keys", "", "AND k.id = ANY($2)");
        *keys = tx.query_cached(sql, &[&EXPIRED_KEY_KEPT_MS, &ids(&touched.keys)]).await?;
    }
    Ok(SnapshotRows {
        products: load_products(tx, &ids(&touched.products)).await?,
        ..parse(&[], plans, subscriptions, keys)?
    })
}

async fn load_products(tx: &Transaction<'_>, ids: &[Uuid]) -> Result<Vec<ProductRow>, StoreError> {
    let sql = products_sql!("load_products", "", "AND p.id = ANY($1)");
    let mut products = Vec::new();
    for ids in ids.chunks(PRODUCTS_AT_ONCE) {
        for row in tx.query_cached(sql, &[&ids]).await? {
            products.push(product(&row)?);
        }
    }
    Ok(products)
}

/// Keys that are not served any more because they expired long ago, and were at the time of the change of `revision`.
pub async fn list_forgotten_keys(tx: &Transaction<'_>, revision: i64) -> Result<Vec<Uuid>, StoreError> {
    let sql = "-- list_forgotten_keys
        SELECT k.id FROM api_keys k
        WHERE k.status = 'active' AND k.expires_at <= now() - $1::bigint * interval '1 millisecond'
          AND k.expires_at > (SELECT c.created_at FROM config_changes c WHERE c.revision = $2) - $1::bigint * interval '1 millisecond'";
    let rows = tx.query_cached(sql, &[&EXPIRED_KEY_KEPT_MS, &revision]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// Adds the rows whose record follows from a touched row: products of an organization, subscriptions that it holds or
/// sells, plans of a product, the subscription of a key, the plan of a subscription.
pub async fn add_followers(tx: &Transaction<'_>, touched: &mut Touched) -> Result<(), StoreError> {
    let sql = "-- add_followers
        SELECT 'product' AS kind, id FROM api_products WHERE organization_id = ANY($1)
        UNION ALL SELECT 'subscription', id FROM subscriptions WHERE organization_id = ANY($1)
        UNION ALL SELECT 'subscription', s.id FROM subscriptions s JOIN api_products p ON p.id = s.product_id
            WHERE p.organization_id = ANY($1)
        UNION ALL SELECT 'plan', id FROM plans WHERE product_id = ANY($2)
        UNION ALL SELECT 'plan', plan_id FROM subscriptions WHERE id = ANY($3)
        UNION ALL SELECT 'subscription', subscription_id FROM api_keys WHERE id = ANY($4)
        UNION ALL SELECT 'plan', s.plan_id FROM api_keys k JOIN subscriptions s ON s.id = k.subscription_id WHERE k.id = ANY($4)";
    let ids = |set: &BTreeSet<Uuid>| set.iter().copied().collect::<Vec<_>>();
    let (organizations, products) = (ids(&touched.organizations), ids(&touched.products));
    let (subscriptions, keys) = (ids(&touched.subscriptions), ids(&touched.keys));
    for row in tx.query_cached(sql, &[&organizations, &products, &subscriptions, &keys]).await? {
        let (kind, id): (&str, Uuid) = (row.try_get(0)?, row.try_get(1)?);
        let set = match kind {
            "product" => &mut touched.products,
            "plan" => &mut touched.plans,
            _ => &mut touched.subscriptions,
        };
        set.insert(id);
    }
    Ok(())
}

/// Adds the archived plans that a touched subscription may have left: whoever knows no former snapshot knows no former plan either.
pub async fn add_archived_plans(tx: &Transaction<'_>, touched: &mut Touched) -> Result<(), StoreError> {
    let sql = "-- add_archived_plans
        SELECT id FROM plans WHERE status = 'archived'
            AND product_id IN (SELECT product_id FROM subscriptions WHERE id = ANY($1))";
    let subscriptions: Vec<Uuid> = touched.subscriptions.iter().copied().collect();
    for row in tx.query_cached(sql, &[&subscriptions]).await? {
        touched.plans.insert(row.try_get(0)?);
    }
    Ok(())
}

/// Remembers why a product's release does not compile here, or that it does again. Does nothing where that is known.
pub async fn set_quarantine(tx: &Transaction<'_>, product: Uuid, reason: Option<&str>) -> Result<(), StoreError> {
    let sql = "-- set_quarantine
        UPDATE api_products SET quarantine_reason = $2 WHERE id = $1 AND quarantine_reason IS DISTINCT FROM $2";
    tx.execute_cached(sql, &[&product, &reason]).await?;
    Ok(())
}
