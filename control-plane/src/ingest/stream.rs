//! The usage stream in Redis, as one member of its consumer group. Transport only: Redis may lose all of it at any time, and
//! the group is then made anew. Refuses to decode an entry.

use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, Value};
use snapshot::usage::acknowledgement_key;

use crate::store::usage::Reached;

/// Entries read at once; each is bounded, and so is what lies in memory.
pub(super) const ENTRIES_MAX: usize = 64;
/// An acknowledgement that no gateway has asked for in so long is forgotten, in seconds: 7 days.
const ACK_TTL_S: u64 = 7 * 24 * 3_600;
/// How long a read waits for an entry.
const BLOCK: Duration = Duration::from_secs(1);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take beyond the block.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the usage stream failed: {0}")]
    Redis(#[from] RedisError),
    #[error("an answer of Redis cannot be read: {0}")]
    Answer(#[from] redis::ParsingError),
}

/// An entry as it came.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) version: Option<Bytes>,
    pub(super) payload: Option<Bytes>,
    /// For keeping an entry that nobody can read: its fields as text, where it has no payload.
    pub(super) fields: String,
    /// Somebody took it off the stream while it was pending: there is nothing left to count or to keep.
    pub(super) is_gone: bool,
}

pub(super) struct UsageStream {
    client: Client,
    pub(super) name: String,
    group: String,
    consumer: String,
    connection: Option<MultiplexedConnection>,
}

impl UsageStream {
    /// Errors: the URL cannot be read. Does not connect.
    pub(super) fn new(url: &str, name: &str, group: &str, consumer: &str) -> Result<UsageStream, StreamError> {
        let (name, group, consumer) = (name.to_owned(), group.to_owned(), consumer.to_owned());
        Ok(UsageStream { client: Client::open(url)?, name, group, consumer, connection: None })
    }

    /// Connects anew, and makes the group where it is missing, from the stream's beginning.
    pub(super) async fn open(&mut self) -> Result<(), StreamError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(BLOCK + RESPONSE_TIMEOUT));
        self.connection = Some(self.client.get_multiplexed_async_connection_with_config(&config).await?);
        self.make_group().await
    }

    pub(super) async fn make_group(&mut self) -> Result<(), StreamError> {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(&self.name).arg(&self.group).arg("0").arg("MKSTREAM");
        match self.ask::<()>(&command).await {
            Err(StreamError::Redis(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            other => other,
        }
    }

    /// What was delivered to this consumer and never acknowledged, oldest first.
    pub(super) async fn read_pending(&mut self) -> Result<Vec<Entry>, StreamError> {
        self.read("0", None).await
    }

    /// Waits a moment for new entries.
    pub(super) async fn read_new(&mut self) -> Result<Vec<Entry>, StreamError> {
        self.read(">", Some(BLOCK)).await
    }

    async fn read(&mut self, from: &str, block: Option<Duration>) -> Result<Vec<Entry>, StreamError> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer).arg("COUNT").arg(ENTRIES_MAX);
        if let Some(block) = block {
            command.arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(1));
        }
        command.arg("STREAMS").arg(&self.name).arg(from);
        let reply: Option<StreamReadReply> = self.ask(&command).await?;
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        Ok(keys.into_iter().flat_map(|key| key.ids).map(Entry::from).collect())
    }

    /// Takes over what another consumer left unacknowledged for `idle`; answers the next place to look from.
    pub(super) async fn claim(&mut self, idle: Duration, from: &str) -> Result<(String, Vec<Entry>), StreamError> {
        let mut command = redis::cmd("XAUTOCLAIM");
        command.arg(&self.name).arg(&self.group).arg(&self.consumer);
        command.arg(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)).arg(from).arg("COUNT").arg(ENTRIES_MAX);
        let reply: StreamAutoClaimReply = self.ask(&command).await?;
        Ok((reply.next_stream_id, reply.claimed.into_iter().map(Entry::from).collect()))
    }

    /// Takes entries off the stream, for good.
    pub(super) async fn remove(&mut self, ids: &[String]) -> Result<(), StreamError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("XACK").arg(&self.name).arg(&self.group).arg(ids).ignore();
        pipe.cmd("XDEL").arg(&self.name).arg(ids).ignore();
        let mut connection = self.connection()?;
        let () = pipe.query_async(&mut connection).await?;
        Ok(())
    }

    /// Tells each producer what is counted without a gap, so that its spool may let go of it. A number may go back, when Postgres
    /// was restored; then the gateway sends again from there. Without the first batch there is no number at all.
    pub(super) async fn acknowledge(&mut self, reached: &[Reached]) -> Result<(), StreamError> {
        if reached.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        for Reached { producer, contiguous_seq } in reached {
            let key = acknowledgement_key(producer.node, producer.epoch);
            match contiguous_seq {
                0.. => pipe.cmd("SET").arg(key).arg(*contiguous_seq).arg("EX").arg(ACK_TTL_S).ignore(),
                _ => pipe.cmd("DEL").arg(key).ignore(),
            };
        }
        let mut connection = self.connection()?;
        let () = pipe.query_async(&mut connection).await?;
        Ok(())
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, StreamError> {
        let mut connection = self.connection()?;
        Ok(command.query_async(&mut connection).await?)
    }

    /// A clone is a handle to the same connection.
    fn connection(&self) -> Result<MultiplexedConnection, StreamError> {
        let missing = || RedisError::from((redis::ErrorKind::Io, "not connected"));
        self.connection.clone().ok_or_else(|| StreamError::Redis(missing()))
    }
}

impl StreamError {
    /// The stream or its group is gone: someone emptied Redis.
    pub(super) fn is_no_group(&self) -> bool {
        matches!(self, StreamError::Redis(error) if error.code() == Some("NOGROUP"))
    }
}

impl From<StreamId> for Entry {
    fn from(mut entry: StreamId) -> Entry {
        let (fields, is_gone) = (format!("{:?}", entry.map), entry.map.is_empty());
        let mut take = |name: &str| match entry.map.remove(name) {
            Some(Value::BulkString(bytes)) => Some(Bytes::from(bytes)),
            Some(Value::SimpleString(text)) => Some(Bytes::from(text)),
            _ => None,
        };
        let (version, payload) = (take("v"), take("b"));
        let fields = if payload.is_some() { String::new() } else { fields };
        Entry { id: entry.id, version, payload, fields, is_gone }
    }
}
