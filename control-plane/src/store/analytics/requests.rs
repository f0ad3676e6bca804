//! The request log, newest first, by keyset. Each product or subscription that may be seen is looked up by its own index;
//! the log of the whole platform is read from its newest end, a window at a time.

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::{After, StoreError, Transaction};
use super::compose::Composed;
use super::source::Bound;
use crate::domain::analytics::{Filter, Scope};
use crate::domain::verdict::Verdict;

/// What is asked of the log beside the common filter.
#[derive(Clone, Copy, Debug)]
pub struct LogFilter {
    pub from: Timestamp,
    pub to: Timestamp,
    pub status: Option<i16>,
    pub verdict: Option<Verdict>,
    pub request_id: Option<Uuid>,
}

/// Where the last page ended.
pub type LogAfter = After;

#[derive(Clone, Debug)]
pub struct LogRow {
    pub at: Timestamp,
    pub request_id: Uuid,
    pub node_id: Uuid,
    pub product: Option<(Uuid, String)>,
    pub endpoint: Option<(Uuid, String)>,
    pub subscription_id: Option<Uuid>,
    pub consumer: Option<String>,
    pub plan: Option<(Uuid, String)>,
    /// Publishers must not see it.
    pub key: Option<(Uuid, String)>,
    pub is_test: Option<bool>,
    pub method: String,
    pub status: i16,
    pub verdict: Verdict,
    pub failed_by: Option<String>,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us: i64,
    pub upstream_latency_us: Option<i64>,
    pub billable: bool,
}

/// The first window of the platform's log, and by how much the next one is longer.
const WINDOW_FIRST: SignedDuration = SignedDuration::from_mins(1);
const WINDOW_GROWTH: i32 = 8;
/// The status of a request whose client went away.
const CLIENT_GONE: i16 = 499;

pub async fn list_requests(
    tx: &Transaction<'_>,
    scope: Scope,
    filter: Filter,
    log: LogFilter,
    after: Option<LogAfter>,
    rows: i64,
) -> Result<Vec<LogRow>, StoreError> {
    let bound = Bound { scope, filter };
    let is_of_everything = !bound.reaches_by_subscription() && !bound.is_bound_to_products();
    if !is_of_everything || log.request_id.is_some() {
        return read_page(tx, bound, log, after, rows).await;
    }
    let upper = after.map_or(log.to, |after| after.created_at.min(log.to));
    let mut length = WINDOW_FIRST;
    loop {
        let from = upper.checked_sub(length).unwrap_or(log.from).max(log.from);
        let found = read_page(tx, bound, LogFilter { from, ..log }, after, rows).await?;
        let is_full = i64::try_from(found.len()).unwrap_or(i64::MAX) >= rows;
        if is_full || from <= log.from {
            return Ok(found);
        }
        length = length.saturating_mul(WINDOW_GROWTH);
    }
}

async fn read_page(
    tx: &Transaction<'_>,
    bound: Bound,
    log: LogFilter,
    after: Option<LogAfter>,
    rows: i64,
) -> Result<Vec<LogRow>, StoreError> {
    let mut q = Composed::named("requests");
    let most = q.bind(rows);
    let newest_first = format!("ORDER BY l.occurred_at DESC, l.request_id DESC LIMIT {most}");
    q.push("WITH page AS MATERIALIZED (SELECT l.* FROM ");
    let is_by_owner = log.request_id.is_none() && (bound.reaches_by_subscription() || bound.is_bound_to_products());
    if is_by_owner {
        q.push("unnest(");
        let column = if bound.reaches_by_subscription() {
            bound.push_subscriptions(&mut q);
            "subscription_meter_id"
        } else {
            bound.push_products(&mut q);
            "product_meter_id"
        };
        q.push(&format!(
            ") AS owner (meter_id) CROSS JOIN LATERAL (SELECT l.* FROM usage_logs l WHERE l.{column} = owner.meter_id"
        ));
        push_conditions(&mut q, bound.filter, log, after);
        q.push(&format!(" {newest_first}) l {newest_first})"));
    } else {
        q.push("usage_logs l WHERE true");
        bound.push_reach(&mut q, "l");
        push_conditions(&mut q, bound.filter, log, after);
        q.push(&format!(" {newest_first})"));
    }
    q.push(NAMED);
    q.rows(tx).await?.iter().map(LogRow::read).collect()
}

/// Names only for the rows of the page.
const NAMED: &str = "\nSELECT l.occurred_at, l.request_id, l.node_id, p.id AS product_id, p.slug AS product, e.id AS endpoint_id, \
    e.path_pattern AS endpoint, s.id AS subscription_id, o.slug AS consumer, n.id AS plan_id, n.name AS plan, k.id AS key_id, \
    k.prefix || '…' || k.last_four AS key, k.environment = 'test' AS is_test, l.method, l.status, l.verdict, l.failed_by, \
    l.request_bytes, l.response_bytes, l.latency_us, l.upstream_latency_us, l.billable \
    FROM page l LEFT JOIN api_products p ON p.meter_id = l.product_meter_id \
    LEFT JOIN endpoints e ON e.meter_id = l.endpoint_meter_id \
    LEFT JOIN subscriptions s ON s.meter_id = l.subscription_meter_id \
    LEFT JOIN organizations o ON o.id = s.organization_id LEFT JOIN plans n ON n.meter_id = l.plan_meter_id \
    LEFT JOIN api_keys k ON k.meter_id = l.key_meter_id ORDER BY l.occurred_at DESC, l.request_id DESC";

fn push_conditions(q: &mut Composed, filter: Filter, log: LogFilter, after: Option<LogAfter>) {
    let (from, to) = (q.bind(log.from), q.bind(log.to));
    q.push(&format!(" AND l.occurred_at >= {from} AND l.occurred_at < {to}"));
    if let Some(After { created_at, id }) = after {
        let (at, id) = (q.bind(created_at), q.bind(id));
        // The first half lets older partitions alone be looked at.
        q.push(&format!(" AND l.occurred_at <= {at} AND (l.occurred_at, l.request_id) < ({at}, {id})"));
    }
    let by_id = [
        ("endpoint_meter_id", "endpoints", filter.endpoint),
        ("plan_meter_id", "plans", filter.plan),
        ("key_meter_id", "api_keys", filter.key),
    ];
    for (column, table, id) in by_id {
        if let Some(id) = id {
            let place = q.bind(id);
            q.push(&format!(" AND l.{column} = (SELECT f.meter_id FROM {table} f WHERE f.id = {place})"));
        }
    }
    if let Some(class) = filter.status_class {
        let place = q.bind(i32::from(class.0));
        q.push(&format!(" AND l.status / 100 = {place}"));
    }
    if let Some(status) = log.status {
        let place = q.bind(status);
        q.push(&format!(" AND l.status = {place}"));
    }
    if let Some(request) = log.request_id {
        let place = q.bind(request);
        q.push(&format!(" AND l.request_id = {place}"));
    }
    match log.verdict {
        None => {}
        Some(Verdict::ClientGone) => q.push(" AND l.verdict = 'admitted' AND l.status = 499"),
        Some(Verdict::UpstreamError) => {
            q.push(" AND l.verdict = 'admitted' AND l.failed_by IN ('gateway', 'upstream')")
        }
        Some(Verdict::Proxied) => {
            q.push(" AND l.verdict = 'admitted' AND l.status <> 499 AND coalesce(l.failed_by, 'client') = 'client'")
        }
        Some(refused) => {
            let place = q.bind(refused.as_str());
            q.push(&format!(" AND l.verdict = {place}"));
        }
    }
}

impl LogRow {
    fn read(row: &Row) -> Result<LogRow, StoreError> {
        let failed_by: Option<String> = row.try_get("failed_by")?;
        let named = |id: &str, name: &str| -> Result<Option<(Uuid, String)>, StoreError> {
            Ok(row.try_get::<_, Option<Uuid>>(id)?.zip(row.try_get::<_, Option<String>>(name)?))
        };
        Ok(LogRow {
            at: row.try_get("occurred_at")?,
            request_id: row.try_get("request_id")?,
            node_id: row.try_get("node_id")?,
            product: named("product_id", "product")?,
            endpoint: named("endpoint_id", "endpoint")?,
            subscription_id: row.try_get("subscription_id")?,
            consumer: row.try_get("consumer")?,
            plan: named("plan_id", "plan")?,
            key: named("key_id", "key")?,
            is_test: row.try_get("is_test")?,
            method: row.try_get("method")?,
            status: row.try_get("status")?,
            verdict: read_verdict(row.try_get("verdict")?, failed_by.as_deref(), row.try_get("status")?)?,
            failed_by,
            request_bytes: row.try_get("request_bytes")?,
            response_bytes: row.try_get("response_bytes")?,
            latency_us: row.try_get("latency_us")?,
            upstream_latency_us: row.try_get("upstream_latency_us")?,
            billable: row.try_get("billable")?,
        })
    }
}

/// The log says 'admitted' of all that were, and beside it who failed.
fn read_verdict(text: &str, failed_by: Option<&str>, status: i16) -> Result<Verdict, StoreError> {
    match (text, failed_by) {
        ("admitted", _) if status == CLIENT_GONE => Ok(Verdict::ClientGone),
        ("admitted", Some("gateway" | "upstream")) => Ok(Verdict::UpstreamError),
        ("admitted", _) => Ok(Verdict::Proxied),
        (refused, _) => Verdict::parse(refused).ok_or_else(|| StoreError::BadRow(format!("a verdict is '{refused}'"))),
    }
}
