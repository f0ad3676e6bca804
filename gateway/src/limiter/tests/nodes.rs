//! What tests of a fleet need: a real Redis, gateways' limits on top of it, load, and an exact judge.

use std::sync::Arc;
use std::time::Instant;

use limits::script;
use limits_redis::{LimitsRedis, RedisKind};
use servers::PrivateRedis;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::metrics::Metrics;
use crate::metrics::labels::LimitOutcome;

/// How long anything here may take before it counts as never.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const PREFIX: &str = "test";

pub(super) struct Redis {
    pub(super) server: PrivateRedis,
    _directory: TempDir,
}

impl Redis {
    pub(super) fn start() -> Redis {
        let directory = tempfile::tempdir().unwrap();
        Redis { server: PrivateRedis::start(directory.path(), false).unwrap(), _directory: directory }
    }

    pub(super) async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        command.query_async(&mut client.get_multiplexed_async_connection().await.unwrap()).await.unwrap()
    }

    pub(super) async fn seed(&self, key: u64, period: u32, used: u64) {
        let call = script::seed(PREFIX, key, period, used);
        let mut command = redis::cmd("FCALL");
        command.arg(script::SEED).arg(call.keys.len()).arg(&call.keys).arg(&call.argument);
        let _seeded: u64 = self.ask(&command).await;
    }
}

/// As an operator would name it.
pub(super) fn limits_redis(urls: &[String], kind: RedisKind) -> LimitsRedis {
    let urls = urls.iter().map(::settings::Secret::new).collect();
    LimitsRedis { urls, kind, ca_file: None, prefix: PREFIX.to_owned() }
}

/// One gateway's limits.
pub(super) struct Node {
    pub(super) limiter: Arc<Limiter>,
    pub(super) metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Ready when the gate would open.
    pub(super) async fn start(redis: &Redis) -> Node {
        Node::start_on(limits_redis(&[redis.server.url()], RedisKind::Single)).await
    }

    pub(super) async fn start_on(settings: LimitsRedis) -> Node {
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let (limiter, driver) = Limiter::start(Some(settings), metrics.clone());
        let (stop, stopped) = watch::channel(false);
        let node = Node { limiter, metrics, stop, driver: tokio::spawn(driver.run(stopped)) };
        node.limiter.wait_introduced(PATIENCE).await;
        node
    }

    /// As the process does when it ends in order.
    pub(super) async fn leave(&mut self) {
        self.stop.send_replace(true);
        (&mut self.driver).await.unwrap();
    }

    pub(super) async fn ask(&self, terms: &Terms) -> Result<LimitAnswers, LimitRefusal> {
        match self.limiter.check(terms, Now::read()) {
            Checked::Admitted(answers) => Ok(answers),
            Checked::Refused(refusal) => Err(refusal),
            Checked::Unknown(pending, _) => pending.settle(&self.metrics).await,
        }
    }

    pub(super) async fn admitted_of(&self, terms: &Terms, tries: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..tries {
            admitted += usize::from(self.ask(terms).await.is_ok());
        }
        admitted
    }

    pub(super) async fn is_down(&self) {
        let down = || async { (self.metrics.limits.lanes_down.get() == 1).then_some(()) };
        eventually("the node notices that Redis is away", down).await;
    }

    pub(super) async fn is_up(&self) {
        let up = || async { (self.metrics.limits.lanes_down.get() == 0).then_some(()) };
        eventually("the node notices that Redis is back", up).await;
    }

    pub(super) fn decided(&self, outcome: LimitOutcome, answers: &Result<LimitAnswers, LimitRefusal>) -> bool {
        let answers = answers.as_ref().unwrap_or_else(|refusal| &refusal.answers);
        answers.outcome == Some(outcome)
    }
}

pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Asks at every node about once a millisecond, for so long. When requests were admitted, in microseconds.
pub(super) async fn saturate(nodes: &[Node], terms: &Terms, time: Duration) -> Vec<u64> {
    let each = nodes.iter().map(|node| async move {
        let (began, mut admitted) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            if node.ask(terms).await.is_ok() {
                admitted.push(Now::read().mono_us);
            }
            sleep(Duration::from_millis(1)).await;
        }
        admitted
    });
    let mut all: Vec<u64> = futures_of(each).await.concat();
    all.sort_unstable();
    all
}

async fn futures_of<T>(each: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = each.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in waiting.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// The largest A(t) − r·t over all intervals, in tokens, rounded up.
pub(super) fn peak(times_us: &[u64], per_minute: u64) -> u64 {
    let (mut fullest, mut level, mut last) = (0u64, 0u64, times_us.first().copied().unwrap_or(0));
    for time in times_us {
        level = level.saturating_sub((time - last) * per_minute);
        level += 60_000_000;
        last = *time;
        fullest = fullest.max(level);
    }
    fullest.div_ceil(60_000_000)
}
