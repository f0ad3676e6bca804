//! One connection while a unit of work has it: statements are prepared once and kept. A connection whose transaction did not
//! end in order is closed, never handed to somebody else. Refuses to know any table.

use std::marker::PhantomData;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use deadpool_postgres::Object;
use futures::SinkExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::StoreError;

/// The values of a statement.
pub type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// `'env` is what the unit of work may borrow: naming it here lets a boxed future hold the caller's references.
pub struct Transaction<'env> {
    /// Gone once the connection is given back.
    client: Option<Object>,
    wants_retry: AtomicBool,
    ended: bool,
    env: PhantomData<&'env ()>,
}

impl<'env> Transaction<'env> {
    pub(super) fn new(client: Object) -> Transaction<'env> {
        Transaction { client: Some(client), wants_retry: AtomicBool::new(false), ended: false, env: PhantomData }
    }

    pub(super) async fn begin(client: Object) -> Result<Transaction<'env>, StoreError> {
        let tx = Transaction::new(client);
        tx.client()?.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        Ok(tx)
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        let outcome = self.client()?.batch_execute("COMMIT").await;
        let outcome = outcome.map_err(StoreError::of_commit);
        // After a refused COMMIT the transaction is over too: Postgres has rolled it back. After a lost one nobody knows, and
        // the connection is not used again.
        self.ended = !matches!(outcome, Err(StoreError::OutcomeUnknown(_)));
        outcome
    }

    pub(super) async fn rollback(mut self) {
        if let Ok(client) = self.client() {
            self.ended = client.batch_execute("ROLLBACK").await.is_ok();
        }
    }

    /// Outside of a transaction nothing has to be undone: the connection may be used again.
    pub(super) fn keep(&mut self) {
        self.ended = true;
    }

    pub(super) fn wants_retry(&self) -> bool {
        self.wants_retry.load(Ordering::Relaxed)
    }

    pub async fn query_cached(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, StoreError> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await.map_err(|error| self.note(error))?;
        client.query(&statement, values).await.map_err(|error| self.note(error))
    }

    /// For a statement put together from parts, whose best plan depends on its values: prepared anew and not kept.
    pub async fn query_once(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, StoreError> {
        self.client()?.query(sql, values).await.map_err(|error| self.note(error))
    }

    pub async fn query_opt_cached(&self, sql: &str, values: Values<'_>) -> Result<Option<Row>, StoreError> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await.map_err(|error| self.note(error))?;
        client.query_opt(&statement, values).await.map_err(|error| self.note(error))
    }

    /// Exactly one row, else an error.
    pub async fn query_one_cached(&self, sql: &str, values: Values<'_>) -> Result<Row, StoreError> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await.map_err(|error| self.note(error))?;
        client.query_one(&statement, values).await.map_err(|error| self.note(error))
    }

    /// How many rows were touched; the caller checks it.
    pub async fn execute_cached(&self, sql: &str, values: Values<'_>) -> Result<u64, StoreError> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await.map_err(|error| self.note(error))?;
        client.execute(&statement, values).await.map_err(|error| self.note(error))
    }

    /// Sends the pieces of a binary COPY; how many rows were taken.
    pub(super) async fn copy_cached(&self, sql: &str, pieces: Vec<Bytes>) -> Result<u64, StoreError> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await.map_err(|error| self.note(error))?;
        let sink = client.copy_in::<_, Bytes>(&statement).await.map_err(|error| self.note(error))?;
        let mut sink = pin!(sink);
        for piece in pieces {
            if sink.send(piece).await.is_err() {
                // Postgres has given up: what it says at the end tells why.
                break;
            }
        }
        sink.finish().await.map_err(|error| self.note(error))
    }

    /// Several statements without values, for what holds for the rest of the transaction.
    pub(super) async fn batch_execute(&self, sql: &str) -> Result<(), StoreError> {
        self.client()?.batch_execute(sql).await.map_err(|error| self.note(error))
    }

    fn client(&self) -> Result<&Object, StoreError> {
        self.client.as_ref().ok_or_else(|| StoreError::unavailable("the connection was already given back"))
    }

    fn note(&self, error: tokio_postgres::Error) -> StoreError {
        let error = StoreError::from(error);
        if matches!(error, StoreError::Retry) {
            self.wants_retry.store(true, Ordering::Relaxed);
        }
        error
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let (false, Some(client)) = (self.ended, self.client.take()) {
            // The work was dropped in the middle (deadline, client gone): taken out of the pool, it closes, and Postgres rolls back.
            drop(Object::take(client));
        }
    }
}
