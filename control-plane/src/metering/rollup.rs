//! Makes hours and days anew for what merges have marked. Any number of control planes may do it at once, and as often as
//! anybody likes: whole cells are computed from the finer rollup, never added to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::store::rollups::{
    self, MarkRow, Places, delete_marks, list_marks, remake_consumer_rollups, remake_product_rollups, touch_keys,
};
use crate::store::{Store, StoreError, Transaction};

#[cfg(test)]
mod tests;

/// Marks read at once: those of one cell are served together, however often it was marked.
const MARKS_MAX: i64 = 50_000;
/// Subscriptions' hours in one transaction: it must end within the store's deadline.
const CELLS_MAX: usize = 500;
/// Rounds of one run, so that a fault of ours cannot keep it running; the next run does the rest.
const ROUNDS_MAX: u32 = 100;
/// In milliseconds.
const DAY_MS: i64 = 24 * 3_600_000;

/// What one transaction does.
#[derive(Debug, Default)]
struct Work {
    marks: Vec<i64>,
    hours: BTreeSet<(i64, Timestamp)>,
    product_hours: BTreeSet<(i64, Timestamp)>,
    used: BTreeMap<i64, Timestamp>,
}

/// Serves every mark that is there. `oldest` is the first hour whose quarters are still all kept; older marks are let go, and
/// what they stand for is in the billing record alone. Answers how many marks were served.
pub async fn roll_up(store: &Store, oldest: Timestamp) -> Result<usize, StoreError> {
    let mut served = 0;
    for _ in 0..ROUNDS_MAX {
        let marks = list_marks(store, MARKS_MAX).await?;
        for work in pieces(&marks, oldest) {
            let work = &work;
            store.run_tx("roll_up", |tx| Box::pin(async move { work.run(tx).await })).await?;
        }
        served += marks.len();
        if marks.len() < usize::try_from(MARKS_MAX).unwrap_or(usize::MAX) {
            break;
        }
    }
    Ok(served)
}

fn pieces(marks: &[MarkRow], oldest: Timestamp) -> Vec<Work> {
    let mut cells: BTreeMap<(i64, Timestamp), Vec<&MarkRow>> = BTreeMap::new();
    for mark in marks {
        cells.entry((mark.subscription, mark.hour)).or_default().push(mark);
    }
    let cells: Vec<_> = cells.into_iter().collect();
    cells.chunks(CELLS_MAX).map(|chunk| Work::of(chunk, oldest)).collect()
}

impl Work {
    fn of(cells: &[((i64, Timestamp), Vec<&MarkRow>)], oldest: Timestamp) -> Work {
        let mut work = Work::default();
        for (cell, marks) in cells {
            if cell.1 >= oldest {
                work.hours.insert(*cell);
            }
            for mark in marks {
                work.marks.push(mark.id);
                if mark.hour >= oldest {
                    work.product_hours.insert((mark.product, mark.hour));
                }
                let used = work.used.entry(mark.key).or_insert(mark.used_at);
                *used = mark.used_at.max(*used);
            }
        }
        work
    }

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        rollups::lock(tx).await?;
        delete_marks(tx, &self.marks).await?;
        remake_consumer_rollups(tx, &places(&self.hours), &places(&days(&self.hours))).await?;
        remake_product_rollups(tx, &places(&self.product_hours), &places(&days(&self.product_hours))).await?;
        let used =
            Places { meters: self.used.keys().copied().collect(), starts: self.used.values().copied().collect() };
        touch_keys(tx, &used).await
    }
}

fn places(of: &BTreeSet<(i64, Timestamp)>) -> Places {
    let (meters, starts) = of.iter().copied().unzip();
    Places { meters, starts }
}

/// The UTC days that these hours lie in.
fn days(hours: &BTreeSet<(i64, Timestamp)>) -> BTreeSet<(i64, Timestamp)> {
    let day = |hour: Timestamp| {
        let at_ms = hour.as_millisecond();
        Timestamp::from_millisecond(at_ms - at_ms.rem_euclid(DAY_MS)).unwrap_or(hour)
    };
    hours.iter().map(|(meter, hour)| (*meter, day(*hour))).collect()
}
