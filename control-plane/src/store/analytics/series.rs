//! Sums by point and group. Only the largest groups stand for themselves; the others are added up as the rest, so that the
//! sums of a chart are the sums of everything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::logged::list_histograms;
use super::rank::{Order, rank};
use super::source::{Bound, Family, Question, group_column, segments, sums_of_rows};
use crate::domain::analytics::sums::Sums;
use crate::domain::analytics::{Filter, GroupBy, Scope, TopBy, Window};

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

/// A point of a group may come in parts, from tables that each have some of it.
pub async fn list_cells(tx: &Transaction<'_>, ask: &SeriesAsk<'_>) -> Result<Vec<Cell>, StoreError> {
    let bound = Bound { scope: ask.scope, filter: ask.filter };
    let question = &Question { bound, window: ask.window, fresh_from: ask.fresh_from };
    let Some(group) = ask.group else {
        return read_cells(tx, question, bound.family(None), &Groups::All).await;
    };
    let by_days = ask.window.to.duration_since(ask.window.from).as_hours() >= RANK_BY_DAYS_FROM_H;
    let winners = rank(tx, question, group, Order { by: TopBy::Requests, most: ask.groups, by_days }).await?;
    if bound.is_over_many(ask.group) {
        return read_many(tx, question, winners).await;
    }
    read_cells(tx, question, bound.family(ask.group), &Groups::Largest { group, winners }).await
}

/// Which groups are told apart.
enum Groups {
    /// None: one sum.
    All,
    /// These; all others are the rest.
    Largest { group: GroupBy, winners: Vec<i64> },
    /// These subscriptions alone, looked up one by one.
    Only { subscriptions: Vec<i64> },
}

/// Among thousands of subscriptions the largest are looked up one by one, and the rest is what the products' rollup has
/// beyond them: nothing is read for each of the thousands and each point.
async fn read_many(tx: &Transaction<'_>, question: &Question<'_>, winners: Vec<i64>) -> Result<Vec<Cell>, StoreError> {
    let groups = Groups::Only { subscriptions: winners };
    let mut cells = read_cells(tx, question, Family::Consumers, &groups).await?;
    let mut rest: BTreeMap<Timestamp, Sums> = BTreeMap::new();
    for cell in read_cells(tx, question, Family::Products, &Groups::All).await? {
        rest.entry(cell.at).or_default().add(&cell.sums);
    }
    for cell in &cells {
        if let Some(rest) = rest.get_mut(&cell.at) {
            rest.remove(&cell.sums);
        }
    }
    for (at, mut sums) in rest.into_iter().filter(|(_, sums)| sums.requests > 0) {
        // Of the rest alone no percentile is known: the others' are not.
        sums.histogram.clear();
        cells.push(Cell { at, group: None, sums });
    }
    Ok(cells)
}

async fn read_cells(
    tx: &Transaction<'_>,
    question: &Question<'_>,
    family: Family,
    groups: &Groups,
) -> Result<Vec<Cell>, StoreError> {
    let mut q = Composed::named("series");
    for (place, segment) in segments(family, question).iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        segment.push_bucket(&mut q);
        let group = groups.column(&mut q);
        q.push(&format!(" AS at, {group} AS grp, {}", sums_of_rows(family)));
        segment.push_from(&mut q);
        if let Groups::Only { subscriptions } = groups {
            let place = q.bind(subscriptions.clone());
            q.push(&format!(" AND r.subscription_meter_id = ANY({place})"));
            question.bound.push_fine_conditions(&mut q);
        } else {
            question.bound.push_conditions(&mut q);
        }
        q.push(" GROUP BY 1, 2");
    }
    let mut cells: Vec<Cell> = q.rows(tx).await?.iter().map(Cell::read).collect::<Result<_, StoreError>>()?;
    if family == Family::Consumers {
        let only = match groups {
            Groups::Only { subscriptions } => Some(subscriptions.as_slice()),
            Groups::All | Groups::Largest { .. } => None,
        };
        let mut known = list_histograms(tx, question, only, |q| groups.column(q)).await?;
        for cell in &mut cells {
            // A point may come in parts; one of them has the histogram of all.
            cell.sums.histogram = known.remove(&(cell.at, cell.group)).unwrap_or_default();
        }
    }
    Ok(cells)
}

impl Groups {
    /// The group of a row `r`.
    fn column(&self, q: &mut Composed) -> String {
        match self {
            Groups::All => "NULL::bigint".to_owned(),
            Groups::Largest { group, winners } => {
                let (column, place) = (group_column(Some(*group)), q.bind(winners.clone()));
                format!("CASE WHEN {column} = ANY({place}) THEN {column} END")
            }
            Groups::Only { .. } => group_column(Some(GroupBy::Subscription)).to_owned(),
        }
    }
}

impl Cell {
    fn read(row: &Row) -> Result<Cell, StoreError> {
        Ok(Cell { at: row.try_get(0)?, group: row.try_get(1)?, sums: read_sums(row, 2)? })
    }
}

/// `sums_of_rows`, from the column `first`. By place: thousands of rows would look for their names.
pub(super) fn read_sums(row: &Row, first: usize) -> Result<Sums, StoreError> {
    let sum = |place: usize| row.try_get::<_, i64>(first + place);
    Ok(Sums {
        requests: sum(0)?,
        admitted: sum(1)?,
        failed: sum(2)?,
        rate_limited: sum(3)?,
        payment_required: sum(4)?,
        billable: sum(5)?,
        client_errors: sum(10)?,
        errors: sum(11)?,
        request_bytes: sum(6)?,
        response_bytes: sum(7)?,
        latency_us: sum(8)?,
        upstream_latency_us: sum(9)?,
        histogram: row.try_get(first + 12)?,
    })
}
