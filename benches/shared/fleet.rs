//! The limiter as a gateway has it that is one of a fleet: on a real Redis of its own, its driver on a thread of its own.
#![allow(dead_code, clippy::unwrap_used)] // Each program uses a part of it, and none is the product.

use std::sync::Arc;
use std::time::Duration;

use gateway::limiter::Limiter;
use gateway::metrics::Metrics;
use limits_redis::{LimitsRedis, RedisKind};
use servers::PrivateRedis;
use settings::Secret;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Redis is on this machine; a counter of instructions makes everything fifty times slower.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Fleet {
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) metrics: Arc<Metrics>,
    /// The driver ends with it, at once: what an orderly end costs is not a request's.
    _driving: Runtime,
    _stop: watch::Sender<bool>,
    _redis: PrivateRedis,
    _directory: TempDir,
}

impl Fleet {
    /// Redis has admitted it: a fresh key is decided at once.
    pub(crate) fn start() -> Fleet {
        let directory = tempfile::tempdir().unwrap();
        let redis = PrivateRedis::start(directory.path(), false).unwrap();
        let metrics = Arc::new(Metrics::new("bench").unwrap());
        let urls = vec![Secret::new(redis.url())];
        let settings = LimitsRedis { urls, kind: RedisKind::Single, ca_file: None, prefix: "rl".to_owned() };
        let (limiter, driver) = Limiter::start(Some(settings), Arc::clone(&metrics));
        let (stop, stopped) = watch::channel(false);
        let driving = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        driving.spawn(driver.run(stopped));
        driving.block_on(limiter.wait_introduced(INTRODUCED_WITHIN));
        Fleet { limiter, metrics, _driving: driving, _stop: stop, _redis: redis, _directory: directory }
    }
}
