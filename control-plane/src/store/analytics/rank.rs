//! Which groups are the largest: asked first and cheaply, so that only these are then added up in full. Compared as floats,
//! which order counts as well and add up many times faster; thousands of subscriptions are compared by whole days, from a
//! rollup that is made for it.

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::source::{Bound, Question, group_column, segments};
use crate::domain::analytics::{GroupBy, TopBy};

/// By what, how many, and whether whole days of UTC are exact enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) by: TopBy,
    pub(super) most: i64,
    pub(super) by_days: bool,
}

/// The largest first, by meter id.
pub(super) async fn rank(
    tx: &Transaction<'_>,
    question: &Question<'_>,
    group: GroupBy,
    order: Order,
) -> Result<Vec<i64>, StoreError> {
    let bound = question.bound;
    let mut q = Composed::named("rank");
    q.push("WITH parts AS (");
    if bound.is_over_many(Some(group)) && bound.is_coarse() && order.by_days {
        push_subscription_days(&mut q, question, bound, order.by);
    } else {
        push_segments(&mut q, question, group, order.by);
    }
    let most = q.bind(order.most);
    let size = match order.by {
        TopBy::Latency => "sum(part) / nullif(sum(requests), 0)",
        TopBy::Requests | TopBy::Errors | TopBy::RateLimited | TopBy::Bytes => "sum(part)",
    };
    q.push(&format!(")\nSELECT grp FROM parts GROUP BY grp ORDER BY {size} DESC NULLS LAST, grp LIMIT {most}"));
    q.rows(tx).await?.iter().map(|row| Ok(row.try_get("grp")?)).collect()
}

fn push_segments(q: &mut Composed, question: &Question<'_>, group: GroupBy, by: TopBy) {
    let family = question.bound.family(Some(group));
    let part = match by {
        TopBy::Requests => "sum(r.request_count::float8)",
        TopBy::Errors => "coalesce(sum(r.request_count::float8) FILTER (WHERE r.status_class = 5), 0)",
        TopBy::RateLimited => "sum(r.limited_count::float8)",
        TopBy::Latency => "sum(r.latency_us_sum::float8)",
        TopBy::Bytes => "sum((r.request_bytes + r.response_bytes)::float8)",
    };
    for (place, segment) in segments(family, question).iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        q.push(&format!("{} AS grp, {part} AS part, {} AS requests", group_column(Some(group)), divisor_of(by)));
        segment.push_from(q);
        question.bound.push_conditions(q);
        q.push(" GROUP BY 1");
    }
}

fn push_subscription_days(q: &mut Composed, question: &Question<'_>, bound: Bound, by: TopBy) {
    let part = match by {
        TopBy::Requests => "sum(r.request_count::float8)",
        TopBy::Errors => "sum(r.server_error_count::float8)",
        TopBy::RateLimited => "sum(r.limited_count::float8)",
        TopBy::Latency => "sum(r.latency_us_sum::float8)",
        TopBy::Bytes => "sum((r.request_bytes + r.response_bytes)::float8)",
    };
    let (from, to) = (q.bind(question.window.from), q.bind(question.window.to));
    // A window that ends within a day touches it.
    q.push(&format!(
        "SELECT r.subscription_meter_id AS grp, {part} AS part, {} AS requests FROM usage_subscription_days r \
         WHERE r.day >= ({from}::timestamptz AT TIME ZONE 'UTC')::date \
         AND r.day <= (({to}::timestamptz - interval '1 microsecond') AT TIME ZONE 'UTC')::date",
        divisor_of(by)
    ));
    bound.push_reach(q, "r");
    q.push(" GROUP BY 1");
}

/// A mean needs the requests too; the others leave them out.
fn divisor_of(by: TopBy) -> &'static str {
    match by {
        TopBy::Latency => "sum(r.request_count::float8)",
        TopBy::Requests | TopBy::Errors | TopBy::RateLimited | TopBy::Bytes => "NULL::float8",
    }
}
