//! Sums by point and group. Only the largest groups stand for themselves; the others are added up as the rest, so that the sums of a chart
//! are the sums of everything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::source::{Bound, Family, group_column, segments, sums_of_rows, sums_of_sums};
use crate::domain::analytics::sums::Sums;
use crate::domain::analytics::{Filter, GroupBy, Scope, Window};

#[derive(Clone, Debug)]
pub struct SeriesAsk<'a> {
    pub scope: Scope,
    pub filter: Filter,
    pub window: &'a Window,
    pub group: Option<GroupBy>,
    /// Groups that stand for themselves.
    pub groups: i64,
    /// From here on hours may still be made anew.
    pub fresh_from: Timestamp,
}

/// One point of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub at: Timestamp,
    /// By meter id, or the class of statuses; `None` for the rest, and where nothing is grouped.
    pub group: Option<i64>,
    pub sums: Sums,
}

/// Ranges of at least this length rank subscriptions by whole days.
const RANK_BY_DAYS_FROM_H: i64 = 24;

pub async fn list_cells(tx: &Transaction<'_>, ask: &SeriesAsk<'_>) -> Result<Vec<Cell>, StoreError> {
    let bound = Bound { scope: ask.scope, filter: ask.filter };
    let range = ask.window.to.duration_since(ask.window.from);
    let is_over_many = ask.group == Some(GroupBy::Subscription) && !bound.reaches_by_subscription();
    if is_over_many && bound.is_coarse() && range.as_hours() >= RANK_BY_DAYS_FROM_H {
        return list_cells_of_many(tx, ask, bound).await;
    }
    let family = bound.family(ask.group);
    let mut q = Composed::named("series");
    q.push("WITH cells AS MATERIALIZED (");
    push_cells(&mut q, ask, bound, family, None);
    q.push(")");
    match ask.group {
        None => q.push(&format!(
            "\nSELECT c.at, NULL::bigint AS grp, {} FROM cells c GROUP BY 1 ORDER BY 1",
            sums_of_sums(family)
        )),
        Some(_) => {
            let most = q.bind(ask.groups);
            q.push(&format!(
                ",\ntop AS (SELECT grp FROM cells GROUP BY grp ORDER BY sum(requests) DESC, grp LIMIT {most})\n\
                 SELECT c.at, t.grp, {} FROM cells c LEFT JOIN top t ON t.grp = c.grp GROUP BY 1, 2 ORDER BY 1, 2",
                sums_of_sums(family)
            ));
        }
    }
    q.rows(tx).await?.iter().map(Cell::read).collect()
}

/// Among thousands of subscriptions: the largest are found by whole days and looked up one by one, and the rest is what the products' rollup
/// has beyond them. So nothing is read for each of the thousands and each point.
async fn list_cells_of_many(
    tx: &Transaction<'_>,
    ask: &SeriesAsk<'_>,
    bound: Bound,
) -> Result<Vec<Cell>, StoreError> {
    let winners = rank_subscriptions(tx, ask, bound).await?;
    let mut q = Composed::named("series_of_subscriptions");
    q.push("WITH cells AS (");
    push_cells(&mut q, ask, bound, Family::Consumers, Some(&winners));
    q.push(&format!(
        ")\nSELECT c.at, c.grp, {} FROM cells c GROUP BY 1, 2 ORDER BY 1, 2",
        sums_of_sums(Family::Consumers)
    ));
    let mut cells: Vec<Cell> = q.rows(tx).await?.iter().map(Cell::read).collect::<Result<_, _>>()?;
    let whole = SeriesAsk { group: None, ..ask.clone() };
    let mut rest: BTreeMap<Timestamp, Sums> =
        Box::pin(list_cells(tx, &whole)).await?.into_iter().map(|cell| (cell.at, cell.sums)).collect();
    for cell in &cells {
        if let Some(rest) = rest.get_mut(&cell.at) {
            rest.remove(&cell.sums);
        }
    }
    for (at, mut sums) in rest {
        // Of the rest alone no percentile is known: the others' are not.
        sums.histogram.clear();
        cells.push(Cell { at, group: None, sums });
    }
    Ok(cells)
}

async fn rank_subscriptions(tx: &Transaction<'_>, ask: &SeriesAsk<'_>, bound: Bound) -> Result<Vec<i64>, StoreError> {
    let mut q = Composed::named("rank_subscriptions");
    let (from, to, most) = (q.bind(ask.window.from), q.bind(ask.window.to), q.bind(ask.groups));
    q.push(&format!(
        "SELECT r.subscription_meter_id FROM usage_subscription_days r \
         WHERE r.day >= ({from}::timestamptz AT TIME ZONE 'UTC')::date AND r.day <= ({to}::timestamptz AT TIME ZONE 'UTC')::date"
    ));
    bound.push_reach(&mut q, "r");
    q.push(&format!(" GROUP BY 1 ORDER BY sum(r.request_count) DESC, 1 LIMIT {most}"));
    q.rows(tx).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Sums by point and group from every table that holds a part of the window.
fn push_cells(q: &mut Composed, ask: &SeriesAsk<'_>, bound: Bound, family: Family, only: Option<&[i64]>) {
    for (place, segment) in segments(family, ask.window, ask.fresh_from).iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        segment.push_bucket(q);
        q.push(&format!(" AS at, {} AS grp, {}", group_column(ask.group), sums_of_rows(family)));
        segment.push_from(q);
        match only {
            // They were found within the bounds.
            Some(subscriptions) => {
                let place = q.bind(subscriptions.to_vec());
                q.push(&format!(" AND r.subscription_meter_id = ANY({place})"));
            }
            None => bound.push_conditions(q),
        }
        q.push(" GROUP BY 1, 2");
    }
}

impl Cell {
    fn read(row: &Row) -> Result<Cell, StoreError> {
        Ok(Cell { at: row.try_get("at")?, group: row.try_get("grp")?, sums: read_sums(row)? })
    }
}

pub(super) fn read_sums(row: &Row) -> Result<Sums, StoreError> {
    Ok(Sums {
        requests: row.try_get("requests")?,
        admitted: row.try_get("admitted")?,
        failed: row.try_get("failed")?,
        rate_limited: row.try_get("rate_limited")?,
        billable: row.try_get("billable")?,
        client_errors: row.try_get("client_errors")?,
        errors: row.try_get("errors")?,
        request_bytes: row.try_get("request_bytes")?,
        response_bytes: row.try_get("response_bytes")?,
        latency_us: row.try_get("latency_us")?,
        upstream_latency_us: row.try_get("upstream_latency_us")?,
        histogram: row.try_get("histogram")?,
    })
}
