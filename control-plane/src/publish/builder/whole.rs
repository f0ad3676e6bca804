//! A whole build: every served row of one moment, read and compiled a few thousand at a time, so that a database of any size
//! passes through bounded memory. What remains is the pages.

use uuid::Uuid;

use super::look::bounded;
use super::{BuildError, expiry};
use crate::publish::pages::{Pages, PagesInOrder};
use crate::publish::records::{FLEET, QuarantineChange, compile_rows, fleet};
use crate::store::Transaction;
use crate::store::snapshot_rows::{FeedState, SnapshotRows, Table, fetch_rows, open_table};

/// What a whole build made.
pub(super) struct Whole {
    pub(super) pages: Pages,
    pub(super) quarantine_changes: Vec<QuarantineChange>,
    /// Keys that expire, by when.
    pub(super) expiring: Vec<(i64, Uuid)>,
}

#[derive(Default)]
struct Made {
    pages: PagesInOrder,
    quarantine_changes: Vec<QuarantineChange>,
    expiring: Vec<(i64, Uuid)>,
}

/// Compiles what was read while the next rows are on their way.
pub(super) async fn read_whole(tx: &Transaction<'_>, state: FeedState) -> Result<Whole, BuildError> {
    let mut made = Made::default();
    made.pages.push(FLEET, &fleet(state.fleet_max));
    for table in Table::ALL {
        bounded(open_table(tx, table)).await?;
        let mut rows = bounded(fetch_rows(tx, table)).await?;
        while !rows.is_empty() {
            let compiling = tokio::task::spawn_blocking(move || made.with(rows));
            let next = bounded(fetch_rows(tx, table)).await;
            made = compiling.await?;
            rows = next?;
        }
    }
    let Made { pages, quarantine_changes, expiring } = made;
    Ok(Whole { pages: pages.finish(), quarantine_changes, expiring })
}

impl Made {
    fn with(mut self, rows: SnapshotRows) -> Made {
        let made = compile_rows(rows);
        for (entity, record) in &made.records {
            self.expiring.extend(expiry(entity, record));
            self.pages.push(*entity, record);
        }
        self.quarantine_changes.extend(made.quarantine_changes);
        self
    }
}
