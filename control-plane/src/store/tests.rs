//! The store against a real Postgres: retries, rollbacks, named refusals, and no connection that is handed on half-used.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Store, StoreError};
use crate::metrics::Metrics;
use crate::settings::Database;
use crate::testing::empty_database;

async fn store(pool_size: usize) -> Store {
    let database = empty_database().await;
    let url = settings::Secret::new(database.url);
    let settings = Database { url, ca_file: None, pool_size, migrate_at_start: false };
    let store = Store::connect(&settings, Metrics::new().unwrap()).await.unwrap();
    execute(&store, "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL CHECK (n >= 0))").await.unwrap();
    execute(&store, "INSERT INTO counters VALUES (1, 0), (2, 0)").await.unwrap();
    store
}

async fn execute(store: &Store, sql: &str) -> Result<u64, StoreError> {
    store.run_tx("test", |tx| Box::pin(async move { tx.execute_cached(sql, &[]).await })).await
}

async fn count(store: &Store, id: i32) -> i32 {
    let found = store.read("test", |tx| {
        Box::pin(async move {
            let row = tx.query_one_cached("SELECT n FROM counters WHERE id = $1", &[&id]).await?;
            Ok::<i32, StoreError>(row.try_get(0)?)
        })
    });
    found.await.unwrap()
}

#[tokio::test]
async fn work_that_fails_leaves_nothing_behind() {
    let store = store(2).await;
    let outcome: Result<(), StoreError> = store
        .run_tx("test", |tx| {
            Box::pin(async move {
                tx.execute_cached("UPDATE counters SET n = 7", &[]).await?;
                Err(StoreError::Settings("on purpose".to_owned()))
            })
        })
        .await;
    assert!(outcome.is_err());
    assert_eq!(count(&store, 1).await, 0);
}

#[tokio::test]
async fn a_deadlock_is_retried_until_both_writers_are_done() {
    let store = store(4).await;
    let attempts = AtomicU32::new(0);
    let barrier = tokio::sync::Barrier::new(2);
    let add = async |first: i32, second: i32| {
        let (attempts, barrier) = (&attempts, &barrier);
        let outcome: Result<(), StoreError> = store
            .run_tx("test", |tx| {
                Box::pin(async move {
                    let sql = "UPDATE counters SET n = n + 1 WHERE id = $1";
                    tx.execute_cached(sql, &[&first]).await?;
                    if attempts.fetch_add(1, Ordering::SeqCst) < 2 {
                        barrier.wait().await;
                    }
                    tx.execute_cached(sql, &[&second]).await.map(|_| ())
                })
            })
            .await;
        outcome
    };
    let (one, other) = tokio::join!(add(1, 2), add(2, 1));
    one.unwrap();
    other.unwrap();
    assert_eq!((count(&store, 1).await, count(&store, 2).await), (2, 2));
    assert_eq!(attempts.load(Ordering::SeqCst), 3, "the loser of the deadlock ran twice");
}

#[tokio::test]
async fn refusals_are_told_apart_by_their_constraint() {
    let store = store(2).await;
    let duplicate = execute(&store, "INSERT INTO counters VALUES (1, 1)").await.unwrap_err();
    assert!(duplicate.is_conflict_on("counters_pkey"), "{duplicate}");
    let check = execute(&store, "UPDATE counters SET n = -1").await.unwrap_err();
    assert!(matches!(&check, StoreError::Refused { constraint, .. } if constraint == "counters_n_check"), "{check}");
    execute(&store, "CREATE TABLE children (parent int REFERENCES counters)").await.unwrap();
    execute(&store, "INSERT INTO children VALUES (1)").await.unwrap();
    let held = execute(&store, "DELETE FROM counters WHERE id = 1").await.unwrap_err();
    assert!(matches!(&held, StoreError::Referenced { table, .. } if table == "children"), "{held}");
}

#[tokio::test]
async fn a_deferred_constraint_speaks_at_commit_with_its_name() {
    let store = store(2).await;
    let sql =
        "CREATE TABLE later (parent int CONSTRAINT later_parent REFERENCES counters DEFERRABLE INITIALLY DEFERRED)";
    execute(&store, sql).await.unwrap();
    let error = execute(&store, "INSERT INTO later VALUES (99)").await.unwrap_err();
    assert_eq!(error.constraint(), Some("later_parent"), "{error}");
}

#[tokio::test]
async fn a_unit_of_work_that_is_given_up_does_not_poison_the_pool() {
    let store = store(1).await;
    let stuck = store.run_tx("test", |tx| {
        Box::pin(async move {
            tx.execute_cached("UPDATE counters SET n = 9", &[]).await?;
            std::future::pending::<Result<(), StoreError>>().await
        })
    });
    assert!(tokio::time::timeout(Duration::from_millis(200), stuck).await.is_err());
    // The only connection was in that transaction: a new one is made, and nothing of the old one is seen.
    assert_eq!(count(&store, 1).await, 0);
    execute(&store, "UPDATE counters SET n = 1").await.unwrap();
}

/// Runs at COMMIT, in the middle of it.
async fn at_commit(store: &Store, deed: &str) {
    let function = format!(
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {deed}; RETURN NULL; END $$"
    );
    execute(store, &function).await.unwrap();
    let trigger = "CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit()";
    execute(store, trigger).await.unwrap();
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_of_a_commit_is_not_told_as_nothing_done() {
    let store = store(2).await;
    at_commit(&store, "pg_terminate_backend(pg_backend_pid())").await;
    let error = execute(&store, "UPDATE counters SET n = 3 WHERE id = 1").await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{error}");
    count(&store, 1).await;
}

#[tokio::test]
async fn a_commit_that_outlasts_the_deadline_is_not_told_as_nothing_done() {
    let store = store(2).await;
    at_commit(&store, "pg_sleep(30)").await;
    let error = execute(&store, "UPDATE counters SET n = 3 WHERE id = 1").await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{error}");
}

#[tokio::test]
async fn postgres_gives_up_what_nobody_waits_for_any_more() {
    let store = store(2).await;
    let found: Result<(String, String), StoreError> = store
        .read("test", |tx| {
            Box::pin(async move {
                let sql =
                    "SELECT current_setting('statement_timeout'), current_setting('client_connection_check_interval')";
                let row = tx.query_one_cached(sql, &[]).await?;
                Ok((row.try_get(0)?, row.try_get(1)?))
            })
        })
        .await;
    assert_eq!(found.unwrap(), ("5s".to_owned(), "1s".to_owned()));
}

#[tokio::test]
async fn a_full_pool_is_told_within_the_promised_time() {
    let store = store(1).await;
    let _held = store.connection().await.unwrap();
    let started = Instant::now();
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_missing_postgres_is_unavailable_and_not_an_internal_error() {
    let url = settings::Secret::new("postgres://nobody@127.0.0.1:1/none");
    let settings = Database { url, ca_file: None, pool_size: 1, migrate_at_start: false };
    let error = Store::connect(&settings, Metrics::new().unwrap()).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}
