//! Transactions that meet: one holds a lock, and others are seen to wait for it.

use std::time::Duration;

use deadpool_postgres::Object;

use super::App;
use crate::api::fixture::Shop;
use crate::store::Store;

const PATIENCE: Duration = Duration::from_secs(10);

/// A transaction that holds the lock of the shop's consumer and publisher (`ratings::lock_pair`) until its end.
pub(crate) async fn hold_pair(app: &App, shop: &Shop) -> Object {
    let (consumer, publisher) = (shop.consumer_organization, shop.publisher_organization);
    let client = app.state.store.connection().await.unwrap();
    let lock = format!("SELECT pg_advisory_xact_lock(hashtextextended('billing:{consumer}:{publisher}', 0))");
    client.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
    client
}

/// Until so many sessions of the test's database wait for a lock that another one holds.
pub(crate) async fn until_blocked(store: &Store, sessions: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let client = store.connection().await.unwrap();
    let seen = async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < sessions {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("somebody waits for the lock");
}
