//! The live stream in Redis, read by every control plane for itself. Follows it from its newest entry, and after a short
//! loss from where it was. Refuses to wait without a bound, and to decode an entry.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, Value};
use snapshot::usage::LIVE_STREAM;
use tokio_util::sync::CancellationToken;

use super::decode::Intake;

/// Entries read at once.
const ENTRIES_MAX: usize = 100;
/// How long a read waits for an entry.
const BLOCK: Duration = Duration::from_secs(1);
/// How long a connection may take, and an answer beyond the block.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after the stream failed, doubled up to the maximum.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// After a loss of the connection, what is older than this is not shown as live any more; in milliseconds.
const BEHIND_MS_MAX: u64 = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the live stream failed: {0}")]
    Redis(#[from] RedisError),
}

/// An entry's id: milliseconds and a count within them.
type Place = (u64, u64);

pub(super) struct Source {
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// The last entry that was read.
    last: Option<Place>,
}

/// Reads until `shutdown`.
pub(super) async fn follow(source: Source, intake: Intake, shutdown: CancellationToken) {
    tokio::select! {
        () = follow_for_ever(source, intake) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn follow_for_ever(mut source: Source, mut intake: Intake) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        match follow_once(&mut source, &mut intake, &mut back_off).await {
            Ok(never) => match never {},
            Err(error) => {
                intake.note_away(&error);
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

async fn follow_once(
    source: &mut Source,
    intake: &mut Intake,
    back_off: &mut Duration,
) -> Result<Infallible, SourceError> {
    source.open().await?;
    intake.note_followed();
    *back_off = BACK_OFF_MIN;
    loop {
        for mut entry in source.read().await? {
            let (version, payload) = (field(&mut entry, "v"), field(&mut entry, "b"));
            intake.take(version, payload).await;
        }
    }
}

impl Source {
    /// Errors: the URL cannot be read. Does not connect.
    pub(super) fn new(url: &str) -> Result<Source, SourceError> {
        Ok(Source { client: Client::open(url)?, connection: None, last: None })
    }

    /// Connects anew and finds the place to read from.
    async fn open(&mut self) -> Result<(), SourceError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(BLOCK + RESPONSE_TIMEOUT));
        self.connection = Some(self.client.get_multiplexed_async_connection_with_config(&config).await?);
        let mut command = redis::cmd("XREVRANGE");
        command.arg(LIVE_STREAM).arg("+").arg("-").arg("COUNT").arg(1);
        let reply: StreamRangeReply = self.ask(&command).await?;
        let newest = reply.ids.first().and_then(|entry| place_of(&entry.id)).unwrap_or_default();
        let is_near = |last: &Place| *last <= newest && newest.0 - last.0 <= BEHIND_MS_MAX;
        self.last = Some(self.last.filter(is_near).unwrap_or(newest));
        Ok(())
    }

    async fn read(&mut self) -> Result<Vec<StreamId>, SourceError> {
        let (ms, count) = self.last.unwrap_or_default();
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(ENTRIES_MAX).arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(1));
        command.arg("STREAMS").arg(LIVE_STREAM).arg(format!("{ms}-{count}"));
        let reply: Option<StreamReadReply> = self.ask(&command).await?;
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        let entries: Vec<StreamId> = keys.into_iter().flat_map(|key| key.ids).collect();
        self.last = entries.last().and_then(|entry| place_of(&entry.id)).or(self.last);
        Ok(entries)
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, SourceError> {
        let missing = || RedisError::from((redis::ErrorKind::Io, "not connected"));
        let mut connection = self.connection.clone().ok_or_else(missing)?;
        Ok(command.query_async(&mut connection).await?)
    }
}

fn place_of(id: &str) -> Option<Place> {
    let (ms, count) = id.split_once('-')?;
    Some((ms.parse().ok()?, count.parse().ok()?))
}

fn field(entry: &mut StreamId, name: &str) -> Option<Bytes> {
    match entry.map.remove(name) {
        Some(Value::BulkString(bytes)) => Some(Bytes::from(bytes)),
        Some(Value::SimpleString(text)) => Some(Bytes::from(text)),
        _ => None,
    }
}
