//! Transactions that meet: one holds a lock, and others are seen to wait for it.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;

use super::App;
use crate::api::fixture::{Shop, ask_database};

const WAIT_MAX: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A transaction that holds the lock of the shop's consumer and publisher (`ratings::lock_pair`) until its end.
pub(crate) async fn hold_pair(app: &App, shop: &Shop) -> Object {
    let (consumer, publisher) = (shop.consumer_organization, shop.publisher_organization);
    let client = app.state.store.connection().await.unwrap();
    let lock = format!("SELECT pg_advisory_xact_lock(hashtextextended('billing:{consumer}:{publisher}', 0))");
    client.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
    client
}

/// Until so many transactions of this database wait for a lock.
pub(crate) async fn until_waiting(app: &App, count: i64) {
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE NOT l.granted AND d.datname = current_database()";
    let deadline = Instant::now() + WAIT_MAX;
    while ask_database(app, waiting).await < count {
        assert!(Instant::now() < deadline, "nobody waits for the lock");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
