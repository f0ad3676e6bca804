//! The largest groups of a time, by one of their sums, and all their sums.

use std::collections::HashMap;

use jiff::Timestamp;

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::rank::{Order, rank};
use super::series::read_sums;
use super::source::{Bound, Question, group_column, segments, sums_of_rows};
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
    let question = &Question { bound, window: ask.window, fresh_from: ask.fresh_from };
    let by_days = ask.window.step == Step::Day && ask.window.zone.is_utc();
    let winners = rank(tx, question, ask.group, Order { by: ask.by, most: ask.rows, by_days }).await?;
    let mut sums = sum_up(tx, question, ask.group, &winners).await?;
    // Who was found a moment ago and has no row now has been made anew in between.
    let row = |group: i64| TopRow { group, sums: sums.remove(&group).unwrap_or_default() };
    Ok(winners.into_iter().map(row).collect())
}

async fn sum_up(
    tx: &Transaction<'_>,
    question: &Question<'_>,
    group: GroupBy,
    winners: &[i64],
) -> Result<HashMap<i64, Sums>, StoreError> {
    let (family, column) = (question.bound.family(Some(group)), group_column(Some(group)));
    let mut q = Composed::named("top");
    for (place, segment) in segments(family, question).iter().enumerate() {
        q.push(if place == 0 { "SELECT " } else { "\nUNION ALL SELECT " });
        q.push(&format!("{column} AS grp, {}", sums_of_rows(family)));
        segment.push_from(&mut q);
        let place = q.bind(winners.to_vec());
        q.push(&format!(" AND {column} = ANY({place})"));
        match group {
            // Looked up one by one; they were found within the bounds.
            GroupBy::Subscription => question.bound.push_fine_conditions(&mut q),
            _ => question.bound.push_conditions(&mut q),
        }
        q.push(" GROUP BY 1");
    }
    let mut sums: HashMap<i64, Sums> = HashMap::new();
    for row in q.rows(tx).await? {
        sums.entry(row.try_get(0)?).or_default().add(&read_sums(&row, 1)?);
    }
    Ok(sums)
}
