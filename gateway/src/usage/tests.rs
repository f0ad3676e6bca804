//! The whole way against a real Redis on a unix socket: from a recorder to entries in the stream, through crashes, take-overs,
//! a Redis that is away, and storage that is full. The control plane's part (counting and acknowledging) is played here.

mod overdue;
mod redis_server;
mod stopped;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::settings::Secret;
use prost::Message;
use servers::SmallDisk;
use snapshot::wire::{FailedBy, LiveBatch, UsageBatch, Verdict};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::redis_server::RedisServer;
use super::*;
use crate::metrics::Metrics;
use crate::metrics::labels::DropReason;
use crate::metrics::status::PartState;

const STREAM: &str = "usage";
/// How long anything here may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway's usage, shipping to a Redis.
struct Node {
    recorder: UsageRecorder,
    metrics: Arc<Metrics>,
    id: Uuid,
    stop: watch::Sender<bool>,
    service: JoinHandle<()>,
}

fn settings(redis_url: Option<String>, dir: &Path) -> UsageSettings {
    UsageSettings {
        redis_url: redis_url.map(Secret::new),
        stream: STREAM.to_owned(),
        stream_length_max: 1_000,
        node_id: Uuid::from_u128(7),
        dir: dir.join(DIR),
        spool_bytes_max: 64 << 20,
        on_full: OnFull::Serve,
        threads: 1,
    }
}

impl Node {
    fn start(redis_url: Option<String>, dir: &Path) -> Node {
        Node::with(redis_url, dir, |_| {})
    }

    fn with(redis_url: Option<String>, dir: &Path, change: impl FnOnce(&mut UsageSettings)) -> Node {
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let mut settings = settings(redis_url, dir);
        change(&mut settings);
        let id = settings.node_id;
        let (recorder, service) = open(settings, metrics.clone()).unwrap();
        let (stop, stopped) = watch::channel(false);
        Node { recorder, metrics, id, stop, service: tokio::spawn(service.run(stopped)) }
    }

    /// Records events that are told apart by their key.
    fn record(&self, keys: std::ops::Range<u64>) {
        keys.for_each(|key| self.recorder.record(&record(key, Verdict::Proxied)));
    }

    async fn stop(self) -> Arc<Metrics> {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.service).await.unwrap().unwrap();
        self.metrics
    }

    fn lost(&self) -> u64 {
        let all = [DropReason::RingFull, DropReason::RefusalShed, DropReason::Damaged, DropReason::Stopped];
        all.into_iter().map(|reason| self.metrics.usage.dropped_so_far(reason)).sum()
    }
}

pub(crate) fn record(key: u64, verdict: Verdict) -> Record {
    Record {
        at_ms: crate::clock::unix_ms(),
        request_id: Uuid::from_u128(u128::from(key)),
        key,
        subscription: 2,
        product: 3,
        endpoint: 4,
        plan: 5,
        method: MethodCode::of(&http::Method::GET),
        status: 200,
        verdict,
        failed_by: FailedBy::Nobody,
        request_bytes: 1,
        response_bytes: 2,
        latency_us: 3,
        upstream_latency_us: 4,
        upstream_contacted: true,
        test_key: false,
    }
}

/// What a consumer keeps: each batch once, by epoch and number. A name that stands for two contents is the fault that must
/// never be.
#[derive(Default)]
struct Database {
    batches: BTreeMap<(Vec<u8>, u64), UsageBatch>,
    duplicates: usize,
}

impl Database {
    fn take(&mut self, entries: &[Vec<u8>]) {
        for entry in entries {
            let batch = UsageBatch::decode(entry.as_slice()).unwrap();
            let name = (batch.epoch.clone(), batch.sequence);
            if let Some(before) = self.batches.insert(name, batch.clone()) {
                assert_eq!(before, batch, "one name, two contents");
                self.duplicates += 1;
            }
        }
    }

    fn keys(&self) -> Vec<u64> {
        let mut keys: Vec<u64> =
            self.batches.values().flat_map(|batch| &batch.events).map(|event| event.kind.unwrap().key).collect();
        keys.sort_unstable();
        keys
    }

    /// Events and what rows stand for.
    fn count(&self) -> u64 {
        let rows = self.batches.values().flat_map(|batch| &batch.rows).map(|row| row.count).sum::<u64>();
        rows + u64::try_from(self.keys().len()).unwrap()
    }

    /// By epoch: up to which number nothing is missing.
    fn contiguous(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut all = BTreeMap::new();
        for (epoch, sequence) in self.batches.keys() {
            let next = all.entry(epoch.clone()).or_insert(0);
            *next += u64::from(*next == *sequence);
        }
        all.into_iter().filter(|(_, next)| *next > 0).map(|(epoch, next)| (epoch, next - 1)).collect()
    }

    fn is_dense(&self) -> bool {
        let contiguous = self.contiguous();
        self.batches.keys().all(|(epoch, sequence)| contiguous.get(epoch).is_some_and(|last| sequence <= last))
    }
}

/// Takes everything out of the stream, keeps it, and acknowledges it: what a control plane does.
async fn consume(redis: &RedisServer, database: &mut Database) -> Option<()> {
    database.take(&redis.take(STREAM).await?);
    for (epoch, sequence) in database.contiguous() {
        let epoch = Uuid::from_slice(&epoch).unwrap();
        redis.set(&format!("usage:ack:{}:{epoch}", Uuid::from_u128(7)), &sequence.to_string()).await?;
    }
    Some(())
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Consumes until every key of the range is there, each once.
async fn all_arrive(redis: &RedisServer, keys: std::ops::Range<u64>) -> Database {
    arrive(redis, keys, |_| true).await
}

/// The same for an epoch that has ended: what closes it may come after its last event.
async fn all_arrive_and_the_end(redis: &RedisServer, keys: std::ops::Range<u64>) -> Database {
    arrive(redis, keys, |database| database.batches.values().any(|batch| batch.closes_epoch)).await
}

async fn arrive(redis: &RedisServer, keys: std::ops::Range<u64>, is_all: impl Fn(&Database) -> bool) -> Database {
    let wanted: Vec<u64> = keys.collect();
    let database = tokio::sync::Mutex::new(Database::default());
    eventually("every event arrives", || async {
        let mut database = database.lock().await;
        consume(redis, &mut database).await?;
        (database.keys() == wanted && database.is_dense() && is_all(&database)).then_some(())
    })
    .await;
    database.into_inner()
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn events_arrive_in_dense_batches_of_one_epoch_with_a_watermark() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..9_500);
    let database = all_arrive(&redis, 0..9_500).await;
    assert!(database.batches.len() >= 3);
    let last = database.batches.values().next_back().unwrap();
    assert_eq!(last.node_id, node.id.as_bytes());
    assert!(crate::clock::unix_ms() - last.low_watermark_ms < 60_000);
    assert!(database.batches.values().all(|batch| batch.epoch == last.epoch && !batch.closes_epoch));
    assert_eq!((node.metrics.status.redis(), node.lost()), (PartState::Up, 0));
    let acknowledged = || async { (node.metrics.usage.unacknowledged_batches.get() == 0).then_some(()) };
    eventually("the acknowledgement is read", acknowledged).await;
    assert_eq!(node.metrics.usage.events_total.get(), 9_500);
}

#[tokio::test]
async fn what_is_recorded_while_redis_is_killed_arrives_after_it_is_back() {
    let (mut redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..1_500);
    eventually("some is sent", || async { (redis.length(STREAM).await? > 0).then_some(()) }).await;
    redis.kill();
    node.record(1_500..5_000);
    eventually("the node notices", || async { (node.metrics.status.redis() == PartState::Down).then_some(()) }).await;
    node.record(5_000..6_000);
    redis.start_again();
    all_arrive(&redis, 0..6_000).await;
    assert_eq!(node.lost(), 0);
}

#[tokio::test]
async fn what_a_flushed_redis_forgot_is_sent_again() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..100);
    eventually("it is sent", || async { (redis.length(STREAM).await? > 0).then_some(()) }).await;
    redis.flush_all().await;
    node.record(100..200);
    all_arrive(&redis, 0..200).await;
    assert!(node.metrics.usage.batches_resent_total.get() > 0);
}

#[tokio::test]
async fn what_waits_in_the_stream_is_not_sent_again() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..10);
    eventually("it is sent", || async { (redis.length(STREAM).await? > 0).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(node.metrics.usage.batches_resent_total.get(), 0);
    assert_eq!(all_arrive(&redis, 0..10).await.duplicates, 0);
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_sent_again_under_its_own_number() {
    let (mut redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..10);
    all_arrive(&redis, 0..10).await;
    // Frozen, Redis takes the bytes but does not answer; the node gives up waiting and connects again.
    redis.freeze();
    node.record(10..20);
    let failures = || async { (node.metrics.usage.send_failures_total.get() >= 2).then_some(()) };
    eventually("a send times out", failures).await;
    redis.thaw();
    let mut database = Database::default();
    eventually("it arrives", || {
        let redis = &redis;
        async move { (redis.length(STREAM).await? > 0).then_some(()) }
    })
    .await;
    // Both sends may be there, or one; never two contents.
    while database.keys() != (10..20).collect::<Vec<_>>() {
        consume(&redis, &mut database).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_full_stream_holds_batches_back_until_it_is_consumed() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::with(Some(redis.url()), dir.path(), |settings| settings.stream_length_max = 2);
    node.record(0..8_001);
    eventually("the cap is reached", || async { (redis.length(STREAM).await? >= 2).then_some(()) }).await;
    node.record(8_001..30_000);
    let sealed = || async { (node.metrics.usage.batches_sealed_total.get() >= 7).then_some(()) };
    eventually("batches are held", sealed).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(redis.length(STREAM).await.unwrap() < 7);
    all_arrive(&redis, 0..30_000).await;
}

#[tokio::test]
async fn stopping_closes_the_epoch_and_hands_over_what_is_left() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..3_210);
    let recorder = node.recorder.clone();
    let metrics = node.stop().await;
    let mut database = Database::default();
    database.take(&redis.entries(STREAM).await.unwrap());
    assert_eq!(database.keys().len(), 3_210);
    assert!(database.is_dense() && database.batches.values().next_back().unwrap().closes_epoch);
    recorder.record(&record(1, Verdict::Proxied));
    assert_eq!(metrics.usage.dropped_so_far(DropReason::Stopped), 1, "what comes later is counted");
}

#[tokio::test]
async fn a_successor_ships_what_its_predecessor_could_not_and_the_rest_goes() {
    let (mut redis, dir) = (RedisServer::start(), dir());
    redis.kill();
    let first = Node::start(Some(redis.url()), dir.path());
    first.record(0..5_000);
    first.stop().await;
    redis.start_again();
    let second = Node::start(Some(redis.url()), dir.path());
    second.record(5_000..5_100);
    let database = all_arrive_and_the_end(&redis, 0..5_100).await;
    let epochs: std::collections::BTreeSet<_> = database.batches.keys().map(|(epoch, _)| epoch.clone()).collect();
    assert_eq!(epochs.len(), 2);
    assert_eq!(second.metrics.usage.epochs_adopted_total.get(), 1);
    assert_eq!(database.batches.values().filter(|batch| batch.closes_epoch).count(), 1);
}

#[tokio::test]
async fn the_rings_of_a_process_that_never_sealed_are_taken_over_exactly_and_only_when_it_is_gone() {
    let (redis, dir) = (RedisServer::start(), dir());
    let settings = |threads| UsageSettings { threads, ..settings(Some(redis.url()), dir.path()) };
    // As in an upgrade: the old process still records when the new one begins.
    let metrics = Arc::new(Metrics::new("test").unwrap());
    let (recorder, never_run) = open(settings(3), metrics).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..5 {
            let recorder = recorder.clone();
            scope
                .spawn(move || (0..1_000).for_each(|n| recorder.record(&record(thread * 1_000 + n, Verdict::Proxied))));
        }
    });
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(5_000..5_010);
    all_arrive(&redis, 5_000..5_010).await;
    assert_eq!(node.metrics.usage.epochs_adopted_total.get(), 0, "its process lives");
    drop((recorder, never_run));
    all_arrive_and_the_end(&redis, 0..5_000).await;
    assert_eq!(node.metrics.usage.events_recovered_total.get(), 5_000);
    // Acknowledged, but kept for a day; its rings are gone.
    let files = std::fs::read_dir(dir.path().join(DIR)).unwrap().flatten();
    let rings = files.flat_map(|epoch| std::fs::read_dir(epoch.path()).unwrap().flatten());
    let rings = rings.filter(|file| file.path().extension().is_some_and(|extension| extension == "ring")).count();
    assert_eq!(rings, 3, "those of the process that runs");
}

/// As after a power failure: what was synced is there, and the rings are not.
fn copy_without_rings(from: &Path, to: &Path) {
    for epoch in std::fs::read_dir(from).unwrap().flatten() {
        let into = to.join(epoch.file_name());
        std::fs::create_dir_all(&into).unwrap();
        for file in std::fs::read_dir(epoch.path()).unwrap().flatten() {
            if file.path().extension().is_none_or(|extension| extension != "ring") {
                std::fs::copy(file.path(), into.join(file.file_name())).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_the_disk_has_confirmed_survives_a_power_failure_that_takes_the_rings() {
    let dir = dir();
    let first = Node::start(Some("unix:/nonexistent/redis.sock".to_owned()), dir.path());
    let (began, mut recorded) = (Instant::now(), 0);
    // Again, should a batch have been sealed before the copy was made: then the journal had nothing to give.
    while began.elapsed() < PATIENCE * 3 {
        first.record(recorded..recorded + 700);
        recorded += 700;
        let synced = || async { (first.metrics.usage.events_synced_total.get() == recorded).then_some(()) };
        eventually("the disk has it", synced).await;
        let (after, redis) = (tempfile::tempdir().unwrap(), RedisServer::start());
        copy_without_rings(&dir.path().join(DIR), &after.path().join(DIR));
        let second = Node::start(Some(redis.url()), after.path());
        all_arrive(&redis, 0..recorded).await;
        if second.metrics.usage.events_recovered_total.get() > 0 {
            assert!(first.metrics.usage.exposed_seconds.get_sample_count() > 0);
            assert_eq!((first.lost(), second.lost()), (0, 0));
            return;
        }
    }
    panic!("the journal was never needed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_really_full_gives_way_to_sums_and_nothing_is_lost() {
    const EVENTS: u64 = 250_000;
    let (mut redis, dir) = (RedisServer::start(), dir());
    redis.kill();
    // Room for the rings, the journal and two files of the spool; the next one is refused by the kernel.
    let Some(_disk) = SmallDisk::mount(&dir.path().join(DIR), 52 << 20).unwrap() else { return };
    let node = Node::start(Some(redis.url()), dir.path());
    for first in (0..EVENTS).step_by(10_000) {
        (first..first + 10_000).for_each(|number| node.recorder.record(&record(number % 50, Verdict::Proxied)));
        let stored = || async { (node.metrics.usage.events_total.get() >= first).then_some(()) };
        eventually("it is collected", stored).await;
    }
    redis.start_again();
    let mut database = Database::default();
    let deadline = Instant::now() + PATIENCE;
    while database.count() < EVENTS {
        consume(&redis, &mut database).await;
        assert!(Instant::now() < deadline, "{} of {EVENTS} arrived", database.count());
    }
    assert!(node.metrics.usage.events_summed_total.get() > 0, "the disk was never full");
    assert_eq!((database.count(), node.lost(), database.is_dense()), (EVENTS, 0, true));
    node.stop().await;
}

#[tokio::test]
async fn a_process_killed_again_and_again_on_a_small_disk_starts_and_nothing_is_lost() {
    let (redis, dir) = (RedisServer::start(), dir());
    // Room for the rings of two processes.
    let Some(_disk) = SmallDisk::mount(&dir.path().join(DIR), 110 << 20).unwrap() else { return };
    for round in 0..5 {
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let (recorder, _never_run) = open(settings(Some(redis.url()), dir.path()), metrics).unwrap();
        (0..100).for_each(|n| recorder.record(&record(round * 100 + n, Verdict::Proxied)));
    }
    let _node = Node::start(Some(redis.url()), dir.path());
    all_arrive(&redis, 0..500).await;
}

#[tokio::test]
async fn a_flood_of_refusals_displaces_nothing_that_can_be_billed_and_fills_no_stream() {
    let (redis, dir) = (RedisServer::start(), dir());
    let metrics = Arc::new(Metrics::new("test").unwrap());
    let (recorder, service) = open(settings(Some(redis.url()), dir.path()), metrics.clone()).unwrap();
    // Nobody empties the rings yet.
    (0..400_000).for_each(|_| recorder.record(&record(9, Verdict::RateLimited)));
    (0..50_000).for_each(|key| recorder.record(&record(key + 10, Verdict::Proxied)));
    let usage = &metrics.usage;
    assert_eq!(usage.dropped_so_far(DropReason::RingFull), 0, "every billable event found room");
    let shed = usage.dropped_so_far(DropReason::RefusalShed);
    let (stop, stopped) = watch::channel(false);
    let service = tokio::spawn(service.run(stopped));
    let mut database = Database::default();
    while database.count() < 450_000 - shed {
        consume(&redis, &mut database).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(database.count(), 450_000 - shed);
    let keys = database.keys();
    assert_eq!(keys.iter().filter(|key| **key >= 10).count(), 50_000);
    assert!(keys.len() < 60_000, "most refusals are sums: {}", keys.len());
    stop.send_replace(true);
    service.await.unwrap();
}

#[tokio::test]
async fn a_live_row_is_there_at_once_and_counts_tell_of_all() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    let began = Instant::now();
    node.record(0..5_000);
    let mut batches: Vec<LiveBatch> = Vec::new();
    while batches.iter().flat_map(|batch| &batch.counts).map(|count| count.count).sum::<u64>() < 5_000 {
        let entries = redis.entries("usage:live").await.unwrap_or_default();
        batches = entries.iter().map(|entry| LiveBatch::decode(entry.as_slice()).unwrap()).collect();
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(batches.iter().all(|batch| batch.events.len() <= 200 && !batch.events.is_empty()));
    assert!(batches.iter().map(|batch| batch.sequence).eq(0..u64::try_from(batches.len()).unwrap()));
    assert_eq!(node.metrics.usage.live_lost_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_absence_of_redis_is_summed_up_exactly_and_stays_within_its_room() {
    const EVENTS: u64 = 900_000;
    let (mut redis, dir) = (RedisServer::start(), dir());
    redis.kill();
    let node = Node::with(Some(redis.url()), dir.path(), |settings| settings.spool_bytes_max = 32 << 20);
    for first in (0..EVENTS).step_by(20_000) {
        for number in first..first + 20_000 {
            node.recorder.record(&record(number % 50, Verdict::Proxied));
        }
        // Not faster than it is stored, or the rings would overflow.
        let stored = || async { (node.metrics.usage.events_total.get() >= first).then_some(()) };
        eventually("it is collected", stored).await;
    }
    let summed = || async { (node.metrics.usage.events_summed_total.get() > EVENTS / 4).then_some(()) };
    eventually("much of it is sums", summed).await;
    assert!(node.metrics.usage.spool_bytes.get() <= 32 << 20);
    redis.start_again();
    let mut database = Database::default();
    let deadline = Instant::now() + PATIENCE;
    while database.count() < EVENTS {
        consume(&redis, &mut database).await;
        assert!(Instant::now() < deadline, "{} of {EVENTS} arrived", database.count());
    }
    assert!(database.is_dense());
    assert_eq!((database.count(), node.lost()), (EVENTS, 0));
    let mut by_key = BTreeMap::<u64, u64>::new();
    for batch in database.batches.values() {
        batch.events.iter().for_each(|event| *by_key.entry(event.kind.unwrap().key).or_default() += 1);
        batch.rows.iter().for_each(|row| *by_key.entry(row.kind.unwrap().key).or_default() += row.count);
    }
    assert!(by_key.values().eq([EVENTS / 50; 50].iter()));
}

#[tokio::test]
async fn without_a_redis_url_every_event_is_counted_as_dropped() {
    let dir = dir();
    let node = Node::start(None, dir.path());
    node.record(0..25);
    assert_eq!(node.metrics.usage.dropped_so_far(DropReason::NotConfigured), 25);
    assert!(!dir.path().join(DIR).exists());
    node.stop().await;
}

#[tokio::test]
async fn a_full_disk_loses_nothing_until_the_rings_are_full_and_then_counts_or_refuses() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::with(Some(redis.url()), dir.path(), |settings| {
        (settings.spool_bytes_max, settings.on_full) = (10, OnFull::Refuse);
    });
    node.record(0..10_000);
    let failed = || async { (node.metrics.usage.store_failures_total.get() > 0).then_some(()) };
    eventually("it notices", failed).await;
    assert!(!node.recorder.must_refuse() && node.lost() == 0, "the rings hold it");
    node.record(10_000..65_536);
    eventually("it refuses", || async { node.recorder.must_refuse().then_some(()) }).await;
    node.record(0..131_072 + 5);
    assert_eq!(node.metrics.usage.dropped_so_far(DropReason::RingFull), 5, "beyond both rings losses are counted");
    // With room again nothing of it is missing: a successor has it.
    node.service.abort();
    let metrics = node.metrics.clone();
    drop(node);
    assert_eq!(metrics.usage.batches_sealed_total.get(), 0);
}

#[test]
fn an_unfinished_epoch_that_cannot_be_removed_is_in_the_way_of_no_other() {
    let dir = dir();
    let unfinished = dir.path().join(format!(".new-{}", Uuid::now_v7()));
    let Some(_disk) = SmallDisk::mount(&unfinished, 1 << 20).unwrap() else { return };
    std::fs::write(unfinished.join("lock"), "").unwrap();
    drop(epoch::EpochDir::create(dir.path(), Uuid::now_v7()).unwrap());
    assert_eq!(epoch::EpochDir::ended(dir.path()).unwrap().len(), 1);
}
