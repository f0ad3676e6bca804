//! Which groups are the largest: asked first and cheaply, so that only these are then added up in full. Compared as floats,
//! which order counts as well and add up many times faster; thousands of subscriptions are compared by whole days, from
//! rollups that are made for it.

use jiff::ToSpan as _;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::source::{Question, group_column, segments};
use crate::domain::analytics::{GroupBy, TopBy, Window};

#[cfg(test)]
mod tests;

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
        push_subscription_days(&mut q, question, order.by);
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
    let requests = divisor_of(by, "sum(r.request_count::float8)");
    for (place, segment) in segments(family, question).iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        q.push(&format!("{} AS grp, {part} AS part, {requests} AS requests", group_column(Some(group))));
        segment.push_from(q);
        question.bound.push_conditions(q);
        q.push(" GROUP BY 1");
    }
}

/// Whole weeks, and the days before and after them. A window that ends within a day touches it.
fn push_subscription_days(q: &mut Composed, question: &Question<'_>, by: TopBy) {
    let part = match by {
        TopBy::Requests => "r.request_count::float8",
        TopBy::Errors => "r.server_error_count::float8",
        TopBy::RateLimited => "r.limited_count::float8",
        TopBy::Latency => "r.latency_us_sum::float8",
        TopBy::Bytes => "(r.request_bytes + r.response_bytes)::float8",
    };
    let requests = divisor_of(by, "r.request_count::float8");
    let Weeks { first_day, first_week, end_week, end_day } = Weeks::of(question.window);
    let ranges = [
        ("usage_subscription_days", "day", first_day, first_week),
        ("usage_subscription_weeks", "week", first_week, end_week),
        ("usage_subscription_days", "day", end_week, end_day),
    ];
    for (place, (table, time, from, to)) in ranges.into_iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        let (from, to) = (q.bind(from), q.bind(to));
        q.push(&format!(
            "r.subscription_meter_id AS grp, {part} AS part, {requests} AS requests FROM {table} r \
             WHERE r.{time} >= {from} AND r.{time} < {to}"
        ));
        question.bound.push_reach(q, "r");
    }
}

/// Days in UTC, and the whole weeks among them, from Monday to Monday; the ends are the days after the last. Without a whole week
/// both of its ends are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weeks {
    first_day: Date,
    first_week: Date,
    end_week: Date,
    end_day: Date,
}

impl Weeks {
    fn of(window: &Window) -> Weeks {
        let first_day = window.from.to_zoned(TimeZone::UTC).date();
        let end = window.to.to_zoned(TimeZone::UTC);
        let is_midnight = end.time() == Time::midnight();
        let end_day = if is_midnight { end.date() } else { end.date().tomorrow().unwrap_or(Date::MAX) };
        let after_monday = |day: Date| i32::from(day.weekday().to_monday_zero_offset());
        let first_week = first_day.saturating_add(((7 - after_monday(first_day)) % 7).days());
        let end_week = end_day.saturating_sub(after_monday(end_day).days());
        match first_week < end_week {
            true => Weeks { first_day, first_week, end_week, end_day },
            false => Weeks { first_day, first_week: end_day, end_week: end_day, end_day },
        }
    }
}

/// A mean needs the requests too; the others leave them out.
fn divisor_of(by: TopBy, requests: &'static str) -> &'static str {
    match by {
        TopBy::Latency => requests,
        TopBy::Requests | TopBy::Errors | TopBy::RateLimited | TopBy::Bytes => "NULL::float8",
    }
}
