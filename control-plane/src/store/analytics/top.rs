//! The largest groups of a time, by one of their sums. Thousands of subscriptions are compared by whole days, from a rollup that is made for
//! it.

use jiff::Timestamp;

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::series::read_sums;
use super::source::{Bound, Family, group_column, segments, sums_of_rows, sums_of_sums};
use crate::domain::analytics::sums::Sums;
use crate::domain::analytics::{Filter, GroupBy, Scope, Step, TopBy, Window};

#[derive(Clone, Debug)]
pub struct TopAsk<'a> {
    pub scope: Scope,
    pub filter: Filter,
    pub window: &'a Window,
    pub group: GroupBy,
    pub by: TopBy,
    pub rows: i64,
    /// From here on hours may still be made anew.
    pub fresh_from: Timestamp,
}

#[derive(Clone, Debug)]
pub struct TopRow {
    /// By meter id, or the class of statuses.
    pub group: i64,
    pub sums: Sums,
}

pub async fn list_top(tx: &Transaction<'_>, ask: &TopAsk<'_>) -> Result<Vec<TopRow>, StoreError> {
    let bound = Bound { scope: ask.scope, filter: ask.filter };
    let family = bound.family(Some(ask.group));
    let is_over_many = ask.group == GroupBy::Subscription && !bound.reaches_by_subscription();
    let is_by_utc_day = ask.window.step == Step::Day && ask.window.zone.is_utc();
    let mut q = Composed::named("top");
    q.push("WITH cells AS (");
    if is_over_many && is_by_utc_day && bound.is_coarse() {
        push_subscription_days(&mut q, ask, bound);
    } else {
        push_cells(&mut q, ask, bound, family);
    }
    let rows = q.bind(ask.rows);
    let order = match ask.by {
        TopBy::Requests => "requests",
        TopBy::Errors => "errors",
        TopBy::RateLimited => "rate_limited",
        TopBy::Latency => "latency_us::float8 / nullif(requests, 0)",
        TopBy::Bytes => "request_bytes + response_bytes",
    };
    q.push(&format!(
        "),\nwhole AS (SELECT c.grp, {} FROM cells c GROUP BY 1)\n\
         SELECT * FROM whole ORDER BY {order} DESC NULLS LAST, grp LIMIT {rows}",
        sums_of_sums(family)
    ));
    let found = q.rows(tx).await?;
    found.iter().map(|row| Ok(TopRow { group: row.try_get("grp")?, sums: read_sums(row)? })).collect()
}

fn push_cells(q: &mut Composed, ask: &TopAsk<'_>, bound: Bound, family: Family) {
    for (place, segment) in segments(family, ask.window, ask.fresh_from).iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        q.push(&format!("{} AS grp, {}", group_column(Some(ask.group)), sums_of_rows(family)));
        segment.push_from(q);
        bound.push_conditions(q);
        q.push(" GROUP BY 1");
    }
}

fn push_subscription_days(q: &mut Composed, ask: &TopAsk<'_>, bound: Bound) {
    let (from, to) = (q.bind(ask.window.from), q.bind(ask.window.to));
    q.push(&format!(
        "SELECT r.subscription_meter_id AS grp, sum(r.request_count)::bigint AS requests, \
         sum(r.admitted_count)::bigint AS admitted, sum(r.failed_count)::bigint AS failed, \
         sum(r.limited_count)::bigint AS rate_limited, sum(r.billable_count)::bigint AS billable, \
         sum(r.client_error_count)::bigint AS client_errors, sum(r.server_error_count)::bigint AS errors, \
         sum(r.request_bytes)::bigint AS request_bytes, sum(r.response_bytes)::bigint AS response_bytes, \
         sum(r.latency_us_sum)::bigint AS latency_us, sum(r.upstream_latency_us_sum)::bigint AS upstream_latency_us \
         FROM usage_subscription_days r WHERE r.day >= ({from}::timestamptz AT TIME ZONE 'UTC')::date \
         AND r.day < ({to}::timestamptz AT TIME ZONE 'UTC')::date"
    ));
    bound.push_reach(q, "r");
    q.push(" GROUP BY 1");
}
