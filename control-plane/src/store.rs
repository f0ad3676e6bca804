//! The store: the only room that knows SQL. One file per table; every statement is named in its first line and prepared
//! once per connection; every transaction goes through `run_tx`, which retries what Postgres asks to retry, measures, and
//! ends within a deadline. It refuses to know JSON requests and the wire to the gateways.

pub mod access_tokens;
pub mod analytics;
pub mod audit;
pub mod billing_events;
pub mod billing_months;
pub mod billing_totals;
pub mod budgets;
pub mod catalog;
pub mod changes;
mod copy;
pub mod dunning;
pub mod endpoints;
mod error;
pub mod fleet;
pub mod health;
pub mod housekeeping;
pub mod idempotency;
pub mod invoices;
pub mod jobs;
pub mod keys;
pub mod live;
pub mod members;
pub mod metering;
pub mod nodes;
pub mod organizations;
pub mod periods;
pub mod plans;
pub mod product_hosts;
pub mod products;
pub mod quota;
pub mod ratings;
pub mod registration;
pub mod releases;
pub mod rollups;
mod row;
pub mod sessions;
pub mod snapshot_rows;
pub mod subscriptions;
mod transaction;
pub mod usage;
pub mod users;
pub mod what_if;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};

pub use error::StoreError;
pub use transaction::{Transaction, Values};

use crate::metrics::Metrics;
use crate::postgres::{Driver, Link};
use crate::settings::Database;

/// What a unit of work returns: it may borrow from the caller, because `Transaction` carries the caller's lifetime.
pub type Work<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A free connection is waited for this long; more would break the promise of 503 within 5 s.
const POOL_WAIT_MAX: Duration = Duration::from_secs(3);
/// Reaching Postgres, likewise.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Asking a connection whether it still lives, likewise.
const RECYCLE_MAX: Duration = Duration::from_secs(1);
/// A silent connection is asked for a sign of life after this long, then this often, and is lost after so many in vain: a
/// Postgres whose machine vanished is noticed within half a minute, on every connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// The whole of a transaction with its retries and its wait for a connection: REST answers 503 within 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);
/// The same for background work that nobody waits for.
const SLOW_DEADLINE: Duration = Duration::from_secs(90);
/// Beyond the deadline nobody waits for a statement any more, so Postgres gives it up too; and when the connection is closed
/// in the middle of one, it notices within a second. What reads for longer says so in its own transaction.
const POOLED_OPTIONS: &str = "-c statement_timeout=5s -c client_connection_check_interval=1s";
/// Serialization failures and deadlocks are tried again this often.
const RETRIES_MAX: u32 = 5;
/// Pause before the first retry; doubled for each further one.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Postgres, through a bounded pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    link: Link,
    metrics: Metrics,
}

impl Store {
    /// Makes the pool; connections are opened when they are needed, so a missing Postgres is not an error yet.
    pub fn new(settings: &Database, metrics: Metrics) -> Result<Store, StoreError> {
        let mut link = settings.link().map_err(|fault| StoreError::Settings(fault.to_string()))?;
        let config = &mut link.config;
        config.connect_timeout(CONNECT_MAX);
        config.application_name("apihub-control-plane");
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL);
        config.keepalives_retries(KEEPALIVE_RETRIES);
        let mut pooled = config.clone();
        pooled.options(match config.get_options() {
            Some(options) => format!("{options} {POOLED_OPTIONS}"),
            None => POOLED_OPTIONS.to_owned(),
        });
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(pooled, link.tls.clone(), recycling);
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(POOL_WAIT_MAX), create: Some(CONNECT_MAX), recycle: Some(RECYCLE_MAX) })
            .build()
            .map_err(|_| StoreError::Settings("the connection pool cannot be made".to_owned()))?;
        Ok(Store { pool, link, metrics })
    }

    /// As `new`, and asks Postgres for a sign of life. Errors: `Unavailable`.
    pub async fn connect(settings: &Database, metrics: Metrics) -> Result<Store, StoreError> {
        let store = Store::new(settings, metrics)?;
        store.ping().await?;
        Ok(store)
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read("ping", |tx| Box::pin(async move { tx.query_one_cached("-- ping\nSELECT 1", &[]).await.map(|_| ()) }))
            .await
    }

    /// Runs `work` in one READ COMMITTED transaction and commits it. `work` runs again, from its start, when Postgres asks
    /// for a retry; so it must not have effects outside of the transaction. Errors: those of `work`, and of the commit.
    pub async fn run_tx<'env, T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        F: for<'a> FnMut(&'a Transaction<'env>) -> Work<'a, T, E>,
        E: From<StoreError>,
    {
        self.run_tx_within(DEADLINE, name, work).await
    }

    /// As `run_tx`, for background work: it may take long, and its statements for as long as it says to Postgres itself.
    pub async fn run_slow_tx<'env, T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        F: for<'a> FnMut(&'a Transaction<'env>) -> Work<'a, T, E>,
        E: From<StoreError>,
    {
        self.run_tx_within(SLOW_DEADLINE, name, work).await
    }

    async fn run_tx_within<'env, T, E, F>(&self, deadline: Duration, name: &'static str, mut work: F) -> Result<T, E>
    where
        F: for<'a> FnMut(&'a Transaction<'env>) -> Work<'a, T, E>,
        E: From<StoreError>,
    {
        let started = Instant::now();
        let is_committing = AtomicBool::new(false);
        let bounded = tokio::time::timeout(deadline, self.attempt_until_done(name, &mut work, &is_committing)).await;
        let outcome = bounded.unwrap_or_else(|_| {
            Err(E::from(match is_committing.load(Ordering::Relaxed) {
                true => StoreError::OutcomeUnknown("COMMIT took too long".to_owned()),
                false => StoreError::unavailable("the transaction took too long"),
            }))
        });
        self.metrics.observe_store(name, started.elapsed(), outcome.is_ok());
        outcome
    }

    /// Runs `work` on one connection without a transaction: each statement sees its own moment. For reads; `run_tx` writes.
    pub async fn read<'env, T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        F: for<'a> FnOnce(&'a Transaction<'env>) -> Work<'a, T, E>,
        E: From<StoreError>,
    {
        let started = Instant::now();
        let bounded = tokio::time::timeout(DEADLINE, async {
            let mut tx = Transaction::new(self.connection().await?);
            let outcome = work(&tx).await;
            tx.keep();
            outcome
        });
        let outcome = match bounded.await {
            Ok(outcome) => outcome,
            Err(_) => Err(E::from(StoreError::unavailable("the query took too long"))),
        };
        self.metrics.observe_store(name, started.elapsed(), outcome.is_ok());
        outcome
    }

    /// A connection of the pool, for background work that needs its own kind of transaction or a longer time.
    pub async fn connection(&self) -> Result<deadpool_postgres::Object, StoreError> {
        self.pool.get().await.map_err(StoreError::from)
    }

    /// A connection of its own outside of the pool, for what belongs to a session: advisory locks and notifications. The
    /// caller drives the second half. Errors: `Unavailable`.
    pub async fn session(&self) -> Result<(tokio_postgres::Client, Driver), StoreError> {
        let connecting = tokio::time::timeout(CONNECT_MAX, self.link.connect());
        let connected = connecting.await.map_err(|_| StoreError::unavailable("connecting took too long"))?;
        connected.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn attempt_until_done<'env, T, E, F>(
        &self,
        name: &'static str,
        work: &mut F,
        is_committing: &AtomicBool,
    ) -> Result<T, E>
    where
        F: for<'a> FnMut(&'a Transaction<'env>) -> Work<'a, T, E>,
        E: From<StoreError>,
    {
        let mut pause = RETRY_PAUSE;
        for _ in 0..RETRIES_MAX {
            match self.attempt(work, is_committing).await? {
                Attempt::Done(outcome) => return outcome,
                Attempt::Again => {
                    self.metrics.count_store_retry(name);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
        match self.attempt(work, is_committing).await? {
            Attempt::Done(outcome) => outcome,
            Attempt::Again => Err(E::from(StoreError::unavailable("other writers kept changing the same rows"))),
        }
    }

    async fn attempt<'env, T, E, F>(
        &self,
        work: &mut F,
        is_committing: &AtomicBool,
    ) -> Result<Attempt<T, E>, StoreError>
    where
        F: for<'a> FnMut(&'a Transaction<'env>) -> Work<'a, T, E>,
        E: From<StoreError>,
    {
        let tx = Transaction::begin(self.connection().await?).await?;
        let outcome = work(&tx).await;
        let wants_retry = tx.wants_retry();
        match outcome {
            Ok(value) => {
                is_committing.store(true, Ordering::Relaxed);
                let committed = tx.commit().await;
                is_committing.store(false, Ordering::Relaxed);
                match committed {
                    Ok(()) => Ok(Attempt::Done(Ok(value))),
                    Err(StoreError::Retry) => Ok(Attempt::Again),
                    Err(error) => Ok(Attempt::Done(Err(E::from(error)))),
                }
            }
            Err(error) => {
                tx.rollback().await;
                if wants_retry { Ok(Attempt::Again) } else { Ok(Attempt::Done(Err(error))) }
            }
        }
    }
}

enum Attempt<T, E> {
    Done(Result<T, E>),
    Again,
}

/// A page's keyset position: rows after it come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    pub created_at: jiff::Timestamp,
    pub id: uuid::Uuid,
}

impl After {
    /// As the two nullable values of a statement.
    pub fn split(after: Option<After>) -> (Option<jiff::Timestamp>, Option<uuid::Uuid>) {
        (after.map(|after| after.created_at), after.map(|after| after.id))
    }
}
