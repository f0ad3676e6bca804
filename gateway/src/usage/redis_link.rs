//! One connection to the usage Redis: connects when needed, drops a connection that failed, and never waits longer than its
//! time-outs. Knows nothing of batches being resent.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError};
use snapshot::usage::LIVE_STREAM;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The form of an entry: `v` is this, `b` an encoded batch.
const ENTRY_VERSION: u8 = 1;
/// About how many entries the live stream keeps: half an hour of one gateway.
const LIVE_ENTRIES: u32 = 20_000;
/// Which of the entries are still in the stream: 1 or 0 for each, without sending any of them.
const WHICH_ARE_THERE: &str =
    "local there = {} for i, id in ipairs(ARGV) do there[i] = #redis.call('XRANGE', KEYS[1], id, id) end return there";

pub(super) struct RedisLink {
    client: Client,
    stream: String,
    connection: Option<MultiplexedConnection>,
}

impl RedisLink {
    /// Errors: the URL cannot be read. Does not connect.
    pub(super) fn new(url: &str, stream: &str) -> Result<RedisLink, RedisError> {
        Ok(RedisLink { client: Client::open(url)?, stream: stream.to_owned(), connection: None })
    }

    /// Adds entries, in one go. Ok: they are there under these ids, and the stream is this long. Err: each of them may or may
    /// not be there.
    pub(super) async fn add(&mut self, batches: &[Vec<u8>]) -> Result<(Vec<String>, u64), RedisError> {
        let mut pipe = redis::pipe();
        for batch in batches {
            pipe.cmd("XADD").arg(&self.stream).arg("*").arg("v").arg(ENTRY_VERSION).arg("b").arg(batch);
        }
        pipe.cmd("XLEN").arg(&self.stream);
        let mut answers: Vec<redis::Value> = self.ask(&pipe).await?;
        let length = answers.pop().ok_or((ErrorKind::Client, "no length"))?;
        let ids = answers.into_iter().map(String::from_redis_value).collect::<Result<_, _>>()?;
        Ok((ids, u64::from_redis_value(length)?))
    }

    pub(super) async fn length(&mut self) -> Result<u64, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XLEN").arg(&self.stream);
        let (length,): (u64,) = self.ask(&pipe).await?;
        Ok(length)
    }

    /// What the control plane says of each key's epoch: every batch up to this number is in the database. None: it says nothing.
    pub(super) async fn acknowledged(&mut self, keys: &[String]) -> Result<Vec<Option<u64>>, RedisError> {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("GET").arg(key);
        }
        self.ask(&pipe).await
    }

    /// For each entry, whether it is still in the stream.
    pub(super) async fn are_there(&mut self, ids: &[&str]) -> Result<Vec<bool>, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(WHICH_ARE_THERE).arg(1).arg(&self.stream).arg(ids);
        let (there,): (Vec<u8>,) = self.ask(&pipe).await?;
        Ok(there.into_iter().map(|count| count > 0).collect())
    }

    pub(super) async fn add_live(&mut self, batch: &[u8]) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XADD").arg(LIVE_STREAM).arg("MAXLEN").arg("~").arg(LIVE_ENTRIES).arg("*");
        pipe.arg("v").arg(ENTRY_VERSION).arg("b").arg(batch).ignore();
        self.ask(&pipe).await
    }

    async fn ask<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> Result<T, RedisError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // A connection that failed is dropped: it may still hold an answer that belongs to an earlier question.
        let answer = pipe.query_async(&mut connection).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}
