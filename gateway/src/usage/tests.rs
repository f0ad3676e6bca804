//! Against a real Redis on a unix socket in a directory of its own.

mod redis_server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use snapshot::wire::{UsageBatch, UsageEvent};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::redis_server::RedisServer;
use super::batch::Sealer;
use super::unsent::Unsent;
use super::*;
use crate::metrics::status::PartState;

const STREAM: &str = "usage";
/// How long anything here may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway's usage, shipping to a Redis.
struct Node {
    recorder: UsageRecorder,
    metrics: Arc<Metrics>,
    id: Uuid,
    stop: watch::Sender<bool>,
    shipper: JoinHandle<()>,
    recorded: u64,
}

impl Node {
    fn start(redis_url: Option<String>, stream_length_max: u64) -> Node {
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let id = Uuid::now_v7();
        let settings = UsageSettings {
            redis_url: redis_url.map(Secret::new),
            stream: STREAM.to_owned(),
            stream_length_max,
            node_id: id,
        };
        let (recorder, shipper) = channel(settings, metrics.clone());
        let (stop, stopped) = watch::channel(false);
        Node { recorder, metrics, id, stop, shipper: tokio::spawn(shipper.run(stopped)), recorded: 0 }
    }

    /// Records events that are told apart by their time.
    fn record(&mut self, events: u64) {
        for _ in 0..events {
            let at_ms = i64::try_from(self.recorded).unwrap();
            self.recorder.record(UsageEvent { at_ms, key: 1, ..UsageEvent::default() });
            self.recorded += 1;
        }
    }

    async fn stop(self) -> Arc<Metrics> {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.shipper).await.unwrap().unwrap();
        self.metrics
    }

    /// Waits until every event is in Redis, in batches numbered from 0 without a gap, each event in one batch.
    async fn everything_has_arrived(&self, redis: &RedisServer) -> BTreeMap<u64, UsageBatch> {
        let wanted: Vec<i64> = (0..i64::try_from(self.recorded).unwrap()).collect();
        eventually("every event is in the stream", || async {
            let batches = by_sequence(&redis.entries(STREAM).await?);
            let dense = batches.keys().copied().eq(0..u64::try_from(batches.len()).unwrap());
            let events: Vec<i64> = batches.values().flat_map(|batch| &batch.events).map(|event| event.at_ms).collect();
            (dense && events == wanted).then_some(batches)
        })
        .await
    }
}

/// What a consumer counts: each sequence once. A number that stands for two contents is the fault that must never be.
fn by_sequence(entries: &[Vec<u8>]) -> BTreeMap<u64, UsageBatch> {
    let mut batches = BTreeMap::new();
    for entry in entries {
        let batch = UsageBatch::decode(entry.as_slice()).unwrap();
        if let Some(before) = batches.insert(batch.sequence, batch.clone()) {
            assert_eq!(before, batch, "one number, two contents");
        }
    }
    batches
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

#[tokio::test]
async fn events_arrive_in_batches_with_dense_numbers_and_one_epoch() {
    let redis = RedisServer::start();
    let mut node = Node::start(Some(redis.url()), 1_000);
    node.record(2_500);
    let batches = node.everything_has_arrived(&redis).await;
    assert!(batches.len() >= 3, "a batch holds at most {BATCH_EVENTS_MAX}");
    let first = &batches[&0];
    assert_eq!(first.node_id, node.id.as_bytes());
    assert!(batches.values().all(|batch| batch.epoch == first.epoch && batch.events.len() <= BATCH_EVENTS_MAX));
    assert_eq!(node.metrics.status.redis(), PartState::Up);
    assert_eq!(node.metrics.usage.unsent_batches.get(), 0);
}

#[tokio::test]
async fn a_single_event_does_not_wait_for_company_for_ever() {
    let redis = RedisServer::start();
    let mut node = Node::start(Some(redis.url()), 1_000);
    node.record(1);
    node.everything_has_arrived(&redis).await;
}

#[tokio::test]
async fn what_is_recorded_while_redis_is_killed_arrives_after_it_is_back_without_gap_or_renumbering() {
    let mut redis = RedisServer::start();
    let mut node = Node::start(Some(redis.url()), 1_000);
    node.record(1_500);
    node.everything_has_arrived(&redis).await;
    redis.kill();
    node.record(4_000);
    eventually("the node notices", || async { (node.metrics.status.redis() == PartState::Down).then_some(()) }).await;
    node.record(700);
    redis.start_again();
    node.everything_has_arrived(&redis).await;
    let metrics = node.stop().await;
    assert_eq!(metrics.usage.dropped_so_far(DropReason::QueueFull), 0);
    assert_eq!(metrics.usage.dropped_so_far(DropReason::Stopped), 0);
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_sent_again_under_its_own_number() {
    let mut redis = RedisServer::start();
    let mut node = Node::start(Some(redis.url()), 1_000);
    node.record(10);
    node.everything_has_arrived(&redis).await;
    // Frozen, Redis takes the bytes but does not answer; the node gives up waiting and connects again.
    redis.freeze();
    node.record(10);
    let failures = || async { (node.metrics.usage.send_failures_total.get() >= 1).then_some(()) };
    eventually("a send times out", failures).await;
    redis.thaw();
    node.everything_has_arrived(&redis).await;
    // It runs what it had taken before it froze, and then what was sent again: one number, one content, two entries.
    eventually("both sends are in the stream", || async {
        let entries = redis.entries(STREAM).await?;
        (entries.len() > by_sequence(&entries).len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_stream_holds_batches_back_until_it_is_consumed() {
    let redis = RedisServer::start();
    let mut node = Node::start(Some(redis.url()), 2);
    node.record(10_000);
    eventually("the cap is reached", || async { (redis.length(STREAM).await? == 2).then_some(()) }).await;
    eventually("batches are held", || async { (node.metrics.usage.unsent_batches.get() >= 8).then_some(()) }).await;
    assert_eq!(redis.length(STREAM).await, Some(2));
    let mut counted = 0;
    while counted < 10_000 {
        let taken = eventually("a consumer gets more", || redis.take(STREAM)).await;
        counted += by_sequence(&taken).values().map(|batch| batch.events.len()).sum::<usize>();
    }
    assert_eq!(counted, 10_000);
}

#[tokio::test]
async fn stopping_hands_over_what_is_left() {
    let redis = RedisServer::start();
    let mut node = Node::start(Some(redis.url()), 1_000);
    node.record(3_210);
    let recorder = node.recorder.clone();
    let metrics = node.stop().await;
    let batches = by_sequence(&redis.entries(STREAM).await.unwrap());
    assert_eq!(batches.values().map(|batch| batch.events.len()).sum::<usize>(), 3_210);
    recorder.record(UsageEvent::default());
    assert_eq!(metrics.usage.dropped_so_far(DropReason::Stopped), 1, "what comes later is counted");
}

#[tokio::test]
async fn without_a_redis_url_every_event_is_counted_as_dropped() {
    let mut node = Node::start(None, 1_000);
    node.record(25);
    let dropped = || async { (node.metrics.usage.dropped_so_far(DropReason::NotConfigured) == 25).then_some(()) };
    eventually("all are counted", dropped).await;
    node.stop().await;
}

#[tokio::test]
async fn a_queue_that_nobody_empties_drops_and_counts_and_never_blocks() {
    let metrics = Arc::new(Metrics::new("test").unwrap());
    let settings =
        UsageSettings { redis_url: None, stream: STREAM.to_owned(), stream_length_max: 1, node_id: Uuid::nil() };
    let (recorder, _shipper) = channel(settings, metrics.clone());
    for _ in 0..QUEUE_EVENTS_MAX + 5 {
        recorder.record(UsageEvent::default());
    }
    assert_eq!(metrics.usage.dropped_so_far(DropReason::QueueFull), 5);
    assert_eq!(recorder.queued(), QUEUE_EVENTS_MAX);
}

#[tokio::test]
async fn unsent_batches_are_bounded_and_leave_in_order_only_when_confirmed() {
    let unsent = Unsent::new(2);
    let mut sealer = Sealer::new(Uuid::nil());
    unsent.push(sealer.seal(vec![UsageEvent::default(); 3])).unwrap();
    unsent.push(sealer.seal(vec![UsageEvent::default(); 4])).unwrap();
    assert!(unsent.push(sealer.seal(Vec::new())).is_err());
    assert_eq!(unsent.events(), 7);
    assert_eq!(unsent.oldest().await.unwrap().sequence, 0);
    unsent.confirm(1);
    assert_eq!(unsent.oldest().await.unwrap().sequence, 0, "only the oldest can be confirmed");
    unsent.confirm(0);
    unsent.room().await;
    assert_eq!(unsent.oldest().await.unwrap().sequence, 1);
    unsent.confirm(1);
    unsent.close();
    assert!(unsent.oldest().await.is_none());
}
