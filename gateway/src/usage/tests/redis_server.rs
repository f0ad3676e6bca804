//! A Redis of the test's own: on a unix socket in a temporary directory, durable, killed when the test ends.

use redis::aio::MultiplexedConnection;
use servers::{PrivateRedis, Signal, send};
use tempfile::TempDir;

pub(super) struct RedisServer {
    redis: PrivateRedis,
    _directory: TempDir,
}

impl RedisServer {
    pub(super) fn start() -> RedisServer {
        let directory = tempfile::tempdir().unwrap();
        RedisServer { redis: PrivateRedis::start(directory.path(), true).unwrap(), _directory: directory }
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        self.redis.kill();
    }

    pub(super) fn start_again(&mut self) {
        self.redis.restart().unwrap();
    }

    pub(super) fn freeze(&mut self) {
        send(self.redis.child(), Signal::STOP);
    }

    pub(super) fn thaw(&mut self) {
        send(self.redis.child(), Signal::CONT);
    }

    pub(super) fn url(&self) -> String {
        self.redis.url()
    }

    /// The batches in the stream, oldest first. None: Redis does not answer.
    pub(super) async fn entries(&self, stream: &str) -> Option<Vec<Vec<u8>>> {
        let mut connection = self.connect().await?;
        let range = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(&mut connection).await;
        Some(batches(range.ok()?))
    }

    /// Takes every entry out, at once.
    pub(super) async fn take(&self, stream: &str) -> Option<Vec<Vec<u8>>> {
        let mut connection = self.connect().await?;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("XRANGE").arg(stream).arg("-").arg("+");
        pipe.cmd("XTRIM").arg(stream).arg("MAXLEN").arg(0).ignore();
        let (range,): (redis::streams::StreamRangeReply,) = pipe.query_async(&mut connection).await.ok()?;
        Some(batches(range))
    }

    pub(super) async fn length(&self, stream: &str) -> Option<u64> {
        redis::cmd("XLEN").arg(stream).query_async(&mut self.connect().await?).await.ok()
    }

    pub(super) async fn set(&self, key: &str, value: &str) -> Option<()> {
        redis::cmd("SET").arg(key).arg(value).query_async(&mut self.connect().await?).await.ok()
    }

    pub(super) async fn flush_all(&self) {
        let mut connection = self.connect().await.unwrap();
        redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
    }

    pub(super) async fn connect(&self) -> Option<MultiplexedConnection> {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.ok()
    }
}

fn batches(range: redis::streams::StreamRangeReply) -> Vec<Vec<u8>> {
    let batch = |entry: redis::streams::StreamId| {
        assert_eq!(entry.get::<String>("v").as_deref(), Some("1"));
        entry.get::<Vec<u8>>("b").unwrap()
    };
    range.ids.into_iter().map(batch).collect()
}
