//! Whole tables of what is served, some rows at a time, inside one moment. Knows no wire types.

use super::{EXPIRED_KEY_KEPT_MS, SnapshotRows, parse};
use crate::store::{StoreError, Transaction};

/// The tables of a whole build, in the order of their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Products,
    Plans,
    Subscriptions,
    Keys,
}

impl Table {
    pub const ALL: [Table; 4] = [Table::Products, Table::Plans, Table::Subscriptions, Table::Keys];
}

/// Begins to read every served row of a table, by id. A cursor: whatever the plan, the work is done once, and neither side ever
/// holds more than it hands over.
pub async fn open_table(tx: &Transaction<'_>, table: Table) -> Result<(), StoreError> {
    let opened = match table {
        Table::Products => {
            let sql = products_sql!("open_products", "DECLARE all_products NO SCROLL CURSOR FOR ", "ORDER BY p.id");
            tx.execute_cached(sql, &[]).await
        }
        Table::Plans => {
            let sql = plans_sql!("open_plans", "DECLARE all_plans NO SCROLL CURSOR FOR ", "ORDER BY l.id");
            tx.execute_cached(sql, &[]).await
        }
        Table::Subscriptions => {
            let sql = subscriptions_sql!(
                "open_subscriptions",
                "DECLARE all_subscriptions NO SCROLL CURSOR FOR ",
                "ORDER BY s.id"
            );
            tx.execute_cached(sql, &[]).await
        }
        Table::Keys => {
            let sql = keys_sql!("open_keys", "DECLARE all_keys NO SCROLL CURSOR FOR ", "ORDER BY k.id");
            tx.execute_cached(sql, &[&EXPIRED_KEY_KEPT_MS]).await
        }
    };
    opened.map(|_| ())
}

/// The next rows of an opened table; none at its end.
pub async fn fetch_rows(tx: &Transaction<'_>, table: Table) -> Result<SnapshotRows, StoreError> {
    let sql = match table {
        Table::Products => "-- fetch_products\nFETCH 100 FROM all_products",
        Table::Plans => "-- fetch_plans\nFETCH 5000 FROM all_plans",
        Table::Subscriptions => "-- fetch_subscriptions\nFETCH 5000 FROM all_subscriptions",
        Table::Keys => "-- fetch_keys\nFETCH 5000 FROM all_keys",
    };
    let rows = tx.query_cached(sql, &[]).await?;
    match table {
        Table::Products => parse(&rows, &[], &[], &[]),
        Table::Plans => parse(&[], &rows, &[], &[]),
        Table::Subscriptions => parse(&[], &[], &rows, &[]),
        Table::Keys => parse(&[], &[], &[], &rows),
    }
}
