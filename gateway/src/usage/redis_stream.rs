//! One Redis stream: adds an entry, says how long the stream is. Connects when needed, drops a connection that failed, and
//! never waits longer than its time-outs. Knows nothing of batches being resent.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The form of an entry: `v` is this, `b` an encoded `UsageBatch`.
const ENTRY_VERSION: u8 = 1;

pub(super) struct RedisStream {
    client: Client,
    name: String,
    connection: Option<MultiplexedConnection>,
}

impl RedisStream {
    /// Errors: the URL cannot be read. Does not connect.
    pub(super) fn new(url: &str, name: String) -> Result<RedisStream, RedisError> {
        Ok(RedisStream { client: Client::open(url)?, name, connection: None })
    }

    /// Adds an entry. Ok: it is there, and the stream is this long. Err: it may or may not be there.
    pub(super) async fn add(&mut self, batch: &[u8]) -> Result<u64, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XADD").arg(&self.name).arg("*").arg("v").arg(ENTRY_VERSION).arg("b").arg(batch).ignore();
        pipe.cmd("XLEN").arg(&self.name);
        self.ask(&pipe).await
    }

    pub(super) async fn length(&mut self) -> Result<u64, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XLEN").arg(&self.name);
        self.ask(&pipe).await
    }

    async fn ask(&mut self, pipe: &redis::Pipeline) -> Result<u64, RedisError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // A connection that failed is dropped: it may still hold an answer that belongs to an earlier question.
        let (length,): (u64,) = pipe.query_async(&mut connection).await?;
        self.connection = Some(connection);
        Ok(length)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}
