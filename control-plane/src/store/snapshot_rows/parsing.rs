//! What the texts of this room select, as types that cannot be wrong. Runs no statement.

use tokio_postgres::Row;

use super::{KeyRow, PlanRow, ProductRow, SnapshotRows, SubscriptionRow};
use crate::domain::key::Environment;
use crate::domain::plan::{Algorithm, OnRedisDown, QuotaMode};
use crate::domain::product::ProductCaps;
use crate::domain::subscription::SubscriptionStatus;
use crate::store::StoreError;
use crate::store::row::closed_text;

pub(super) fn parse(
    products: &[Row],
    plans: &[Row],
    subscriptions: &[Row],
    keys: &[Row],
) -> Result<SnapshotRows, StoreError> {
    Ok(SnapshotRows {
        products: products.iter().map(product).collect::<Result<_, _>>()?,
        plans: plans.iter().map(plan).collect::<Result<_, _>>()?,
        subscriptions: subscriptions.iter().map(subscription).collect::<Result<_, _>>()?,
        keys: keys.iter().map(key).collect::<Result<_, _>>()?,
    })
}

pub(super) fn product(row: &Row) -> Result<ProductRow, tokio_postgres::Error> {
    Ok(ProductRow {
        id: row.try_get(0)?,
        meter_id: row.try_get(1)?,
        organization_id: row.try_get(2)?,
        organization_slug: row.try_get(3)?,
        slug: row.try_get(4)?,
        hosts: row.try_get(5)?,
        release: row.try_get(6)?,
        compiled: row.try_get(7)?,
        quarantine_reason: row.try_get(8)?,
        caps: ProductCaps { requests_in_flight_max: row.try_get(9)?, upstream_connections_max: row.try_get(10)? },
    })
}

fn plan(row: &Row) -> Result<PlanRow, StoreError> {
    Ok(PlanRow {
        id: row.try_get(0)?,
        meter_id: row.try_get(1)?,
        name: row.try_get(2)?,
        version: row.try_get(3)?,
        requests_per_minute: row.try_get(4)?,
        burst_limit: row.try_get(5)?,
        algorithm: closed_text(row, "algorithm", Algorithm::parse)?,
        on_redis_down: closed_text(row, "on_redis_down", OnRedisDown::parse)?,
        strict: row.try_get(8)?,
        included_requests: row.try_get(9)?,
        quota_mode: closed_text(row, "quota_mode", QuotaMode::parse)?,
    })
}

fn subscription(row: &Row) -> Result<SubscriptionRow, StoreError> {
    Ok(SubscriptionRow {
        id: row.try_get(0)?,
        meter_id: row.try_get(1)?,
        product_id: row.try_get(2)?,
        plan_id: row.try_get(3)?,
        consumer_id: row.try_get(4)?,
        consumer_username: row.try_get(5)?,
        status: closed_text(row, "status", SubscriptionStatus::parse)?,
        override_requests_per_minute: row.try_get(7)?,
        override_burst_limit: row.try_get(8)?,
        period_id: row.try_get(9)?,
        period_end_ms: row.try_get(10)?,
        next_period_id: row.try_get(11)?,
        next_period_end_ms: row.try_get(12)?,
        cancel_at_ms: row.try_get(13)?,
        refuse_unpaid_from_ms: row.try_get(14)?,
        period_included: row.try_get(15)?,
    })
}

fn key(row: &Row) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        id: row.try_get(0)?,
        meter_id: row.try_get(1)?,
        digest: row.try_get(2)?,
        subscription_id: row.try_get(3)?,
        environment: closed_text(row, "environment", Environment::parse)?,
        expires_at_ms: row.try_get(5)?,
        scopes: row.try_get(6)?,
    })
}
