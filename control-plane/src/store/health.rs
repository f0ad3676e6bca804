//! What health asks of the database. Refuses to be expensive: each is one look at small tables.

use super::nodes::reach_sql;
use super::{StoreError, Transaction};

/// How far the gateways have come.
#[derive(Clone, Copy, Debug)]
pub struct FeedSummary {
    pub revision: i64,
    pub nodes: i64,
    pub lagging_nodes: i64,
}

/// The last migration that was applied.
pub async fn find_schema_version(tx: &Transaction<'_>) -> Result<i32, StoreError> {
    let sql = "-- find_schema_version\nSELECT coalesce(max(version), 0) FROM refinery_schema_history";
    Ok(tx.query_one_cached(sql, &[]).await?.try_get(0)?)
}

pub async fn summarize_feed(tx: &Transaction<'_>) -> Result<FeedSummary, StoreError> {
    let sql = concat!(
        "-- summarize_feed
        SELECT f.revision, (SELECT count(*) FROM nodes WHERE state = 'active') AS nodes,
               (SELECT count(*) FROM nodes n ",
        reach_sql!(),
        " WHERE n.state = 'active' AND (r.served_revision IS NULL OR r.served_revision < f.revision)) AS lagging_nodes
        FROM feed_state f"
    );
    let row = tx.query_one_cached(sql, &[]).await?;
    Ok(FeedSummary {
        revision: row.try_get("revision")?,
        nodes: row.try_get("nodes")?,
        lagging_nodes: row.try_get("lagging_nodes")?,
    })
}
