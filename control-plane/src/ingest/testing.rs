//! A stream, a database and a consumer for tests of the ingest and of what follows from it; events as a gateway sends them.

use std::time::Duration;

use prometheus::Registry;
use prost::Message;
use redis::aio::MultiplexedConnection;
use servers::PrivateRedis;
use snapshot::wire;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::consume::Consumer;
use super::stream::UsageStream;
use super::{Ingest, IngestMetrics};
use crate::publish::builder::testing_rows::Rows;
use crate::settings::Usage;

pub(crate) const STREAM: &str = "apihub:usage";
const GROUP: &str = "control-plane";
/// Beyond it a test has hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// 2026-11-22 06:00:30 UTC.
pub(crate) const AT_MS: i64 = 1_795_327_230_000;

pub(crate) struct World {
    pub(crate) rows: Rows,
    pub(crate) redis: PrivateRedis,
    pub(crate) metrics: IngestMetrics,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn start() -> World {
        let dir = tempfile::Builder::new().prefix("rd").tempdir_in("/tmp").unwrap();
        let redis = PrivateRedis::start(&dir.path().join("r"), false).unwrap();
        let metrics = IngestMetrics::register(&Registry::new()).unwrap();
        World { rows: Rows::start().await, redis, metrics, _dir: dir }
    }

    pub(crate) async fn redis(&self) -> MultiplexedConnection {
        redis::Client::open(self.redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    pub(super) fn consumer(&self, name: &str, abandoned_after: Duration) -> Consumer {
        let stream = UsageStream::new(&self.redis.url(), STREAM, GROUP, name).unwrap();
        Consumer::new(self.rows.store.clone(), stream, self.metrics.clone(), abandoned_after, 1)
    }

    /// Counts what the stream holds.
    pub(crate) async fn take_all(&self) {
        let mut consumer = self.consumer("one", Duration::from_secs(3_600));
        consumer.open().await.unwrap();
        while consumer.take_new().await.unwrap() > 0 {}
        assert_eq!(self.entries_left().await, 0);
    }

    pub(crate) async fn send(&self, batch: &wire::UsageBatch) {
        self.send_raw(b"1", &batch.encode_to_vec()).await;
    }

    pub(crate) async fn send_raw(&self, version: &[u8], payload: &[u8]) {
        let mut command = redis::cmd("XADD");
        command.arg(STREAM).arg("*").arg("v").arg(version).arg("b").arg(payload);
        let _id: String = command.query_async(&mut self.redis().await).await.unwrap();
    }

    /// The acknowledgement of node 9's epoch.
    pub(crate) async fn acknowledged(&self, epoch: Uuid) -> Option<i64> {
        let key = format!("usage:ack:{}:{epoch}", Uuid::from_u128(9));
        redis::cmd("GET").arg(key).query_async(&mut self.redis().await).await.unwrap()
    }

    pub(crate) async fn entries_left(&self) -> u64 {
        redis::cmd("XLEN").arg(STREAM).query_async(&mut self.redis().await).await.unwrap()
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.rows.client.query_one(sql, &[]).await.unwrap().get::<_, Option<i64>>(0).unwrap_or_default()
    }

    /// Logged requests, and requests of the minutes: always the same.
    pub(crate) async fn counted(&self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM usage_logs), (SELECT coalesce(sum(request_count), 0)::bigint FROM usage_minutes)";
        let row = self.rows.client.query_one(sql, &[]).await.unwrap();
        let (logs, minutes): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(logs, minutes);
        logs
    }

    pub(crate) async fn wait_for_count(&self, count: i64) {
        let reached = async {
            while self.counted().await < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("everything is counted");
        assert_eq!(self.counted().await, count);
    }

    pub(crate) fn run(&self) -> tokio_util::sync::DropGuard {
        self.run_with(1)
    }

    /// Two consumers; `log_one_in` requests gets a row in the log.
    pub(crate) fn run_with(&self, log_one_in: u64) -> tokio_util::sync::DropGuard {
        let stop = CancellationToken::new();
        let usage = Usage {
            redis_url: Some(settings::Secret::new(self.redis.url())),
            stream: STREAM.into(),
            group: GROUP.into(),
            consumer: "one".into(),
            consumers: 2,
            log_one_in,
        };
        let ingest = Ingest::new(self.rows.store.clone(), &usage, self.metrics.clone()).unwrap().unwrap();
        tokio::spawn(ingest.run(stop.clone()));
        stop.drop_guard()
    }
}

pub(crate) fn event() -> wire::UsageEvent {
    wire::UsageEvent {
        at_ms: AT_MS,
        request_id: Uuid::now_v7().as_bytes().to_vec(),
        kind: Some(kind()),
        method: "GET".into(),
        request_bytes: 10,
        response_bytes: 100,
        latency_us: 1_000,
        upstream_latency_us: 900,
    }
}

/// An answer of 200 by the upstream.
pub(crate) fn kind() -> wire::UsageKind {
    wire::UsageKind {
        key: 1,
        subscription: 2,
        product: 3,
        endpoint: 4,
        plan: 5,
        status: 200,
        verdict: wire::Verdict::Proxied.into(),
        failed_by: wire::FailedBy::Nobody.into(),
        upstream_contacted: true,
        test_key: false,
    }
}

/// Of an event that has one.
pub(crate) fn kind_of(event: &mut wire::UsageEvent) -> &mut wire::UsageKind {
    event.kind.as_mut().unwrap()
}

pub(crate) fn batch(epoch: Uuid, sequence: u64, events: usize) -> wire::UsageBatch {
    wire::UsageBatch {
        node_id: Uuid::from_u128(9).as_bytes().to_vec(),
        epoch: epoch.as_bytes().to_vec(),
        sequence,
        events: (0..events).map(|_| event()).collect(),
        ..wire::UsageBatch::default()
    }
}
