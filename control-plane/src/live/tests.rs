//! Back-pressure without sockets: who does not read misses, is told how much, begins anew, and costs the others nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::channel::Channel;
use super::metrics::LiveMetrics;
use super::moment::{Count, Endpoint, Moment, Place, Product, Request, Row, Subscription, Sums};
use super::recent::{Recent, SNAPSHOT_ROWS_MAX, WINDOW};
use super::topic::{Kind, Scope, Topic, Watch};
use super::{Outgoing, QUEUE_MESSAGES_MAX};
use crate::domain::verdict::Verdict;

const AT_MS: i64 = 1_795_327_230_000;

fn place() -> Place {
    let organization = Uuid::from_u128(1);
    Place {
        product: Arc::new(Product { id: Uuid::from_u128(2), organization, slug: "weather".into() }),
        subscription: Arc::new(Subscription { id: Uuid::from_u128(3), organization, consumer: "carl".into() }),
        endpoint: Some(Arc::new(Endpoint { id: Uuid::from_u128(4), pattern: "/".into() })),
    }
}

fn row(at_ms: i64) -> Arc<Row> {
    let request = Request {
        at_ms,
        id: Uuid::now_v7(),
        method: "GET".into(),
        status: 200,
        verdict: Verdict::Proxied,
        failed_by: None,
        request_bytes: 1,
        response_bytes: 2,
        latency_us: 3,
        upstream_latency_us: None,
        is_test: false,
    };
    Arc::new(Row { request, node: Uuid::from_u128(9), place: place(), key: Some(Uuid::from_u128(5)), plan: None })
}

fn moment(rows: usize) -> Arc<Moment> {
    let counts = (0..rows).map(|_| Count { place: place(), sums: Sums { requests: 1, ..Sums::default() } });
    Arc::new(Moment { at_ms: AT_MS, rows: (0..rows).map(|_| row(AT_MS)).collect(), counts: counts.collect() })
}

struct World {
    channel: Channel,
    recent: Recent,
    metrics: LiveMetrics,
}

impl World {
    fn new(kind: Kind, shows_keys: bool) -> World {
        let topic = Topic { scope: Scope::Product(Uuid::from_u128(2)), kind };
        World {
            channel: Channel::new(Watch { topic, shows_keys }),
            recent: Recent::default(),
            metrics: LiveMetrics::register(&Registry::new()).unwrap(),
        }
    }

    /// What the hub does with a moment, and its next flush.
    fn happens(&mut self, requests: usize) {
        let moment = moment(requests);
        self.recent.add(Arc::clone(&moment), Instant::now());
        moment.rows.iter().for_each(|row| self.channel.add_row(row));
        moment.counts.iter().for_each(|count| self.channel.add_sums(moment.at_ms, &count.sums));
        self.channel.flush(&self.metrics);
        self.channel.heal(&mut self.recent);
    }

    fn join(&mut self, watcher: u64) -> mpsc::Receiver<Outgoing> {
        let (outbox, inbox) = mpsc::channel(QUEUE_MESSAGES_MAX);
        self.channel.join(watcher, outbox, &mut self.recent, &self.metrics);
        inbox
    }
}

fn take(inbox: &mut mpsc::Receiver<Outgoing>) -> Option<Value> {
    inbox.try_recv().ok().map(|outgoing| serde_json::from_slice(&outgoing.bytes).unwrap())
}

#[test]
fn who_reads_too_slowly_is_told_what_he_missed_and_holds_nobody_up() {
    let mut world = World::new(Kind::Requests, false);
    let (mut slow, mut quick) = (world.join(1), world.join(2));
    assert_eq!(take(&mut quick).unwrap()["type"], "snapshot");
    for round in 1..=100_u64 {
        world.happens(3);
        let delta = take(&mut quick).unwrap();
        assert_eq!((delta["type"].as_str(), delta["sequence"].as_u64()), (Some("delta"), Some(round)));
    }
    // A full queue, and nothing more: memory is bounded.
    let mut heard: Vec<Value> = std::iter::from_fn(|| take(&mut slow)).collect();
    assert_eq!(heard.len(), QUEUE_MESSAGES_MAX);
    assert_eq!(heard.pop().unwrap()["sequence"].as_u64(), Some(63));
    world.happens(3);
    let missed = take(&mut slow).unwrap();
    assert_eq!((missed["type"].as_str(), missed["messages"].as_u64()), (Some("missed"), Some(38)));
    assert_eq!(missed["requests"].as_u64(), Some(38 * 3));
    let snapshot = take(&mut slow).unwrap();
    assert_eq!((snapshot["type"].as_str(), snapshot["sequence"].as_u64()), (Some("snapshot"), Some(101)));
    assert_eq!(snapshot["rows"].as_array().unwrap().len(), SNAPSHOT_ROWS_MAX);
    world.happens(1);
    assert_eq!(take(&mut slow).unwrap()["sequence"].as_u64(), Some(102), "and on from there");
    assert_eq!(world.metrics.missed.get(), 38);
}

#[test]
fn a_snapshot_and_the_deltas_after_it_hold_each_request_once() {
    let mut world = World::new(Kind::Requests, true);
    let _first = world.join(1);
    world.happens(2);
    // Pending, not yet sent, when somebody joins.
    let pending = moment(1);
    world.recent.add(Arc::clone(&pending), Instant::now());
    pending.rows.iter().for_each(|row| world.channel.add_row(row));
    pending.counts.iter().for_each(|count| world.channel.add_sums(pending.at_ms, &count.sums));
    let mut inbox = world.join(2);
    let snapshot = take(&mut inbox).unwrap();
    assert_eq!((snapshot["rows"].as_array().unwrap().len(), snapshot["sequence"].as_u64()), (3, Some(2)));
    assert!(snapshot["rows"][0]["key_id"].is_string());
    world.channel.flush(&world.metrics);
    assert_eq!(take(&mut inbox), None, "nothing comes twice");
    world.happens(1);
    assert_eq!(take(&mut inbox).unwrap()["sequence"].as_u64(), Some(3));
}

#[test]
fn a_burst_is_cut_and_the_rest_is_told() {
    let mut world = World::new(Kind::Requests, false);
    let mut inbox = world.join(1);
    take(&mut inbox);
    world.happens(500);
    let delta = take(&mut inbox).unwrap();
    assert_eq!((delta["rows"].as_array().unwrap().len(), delta["unlisted"].as_u64()), (200, Some(300)));
    assert!(delta["rows"][0].get("key_id").is_none());
}

#[test]
fn the_last_minute_is_remembered_and_no_more() {
    let mut recent = Recent::default();
    let (start, scope) = (Instant::now(), Scope::Consumer(Uuid::from_u128(1)));
    recent.add(moment(2), start);
    recent.add(moment(3), start + Duration::from_secs(40));
    assert_eq!(recent.rows_of(scope, start + Duration::from_secs(50)).len(), 5);
    let later = start + WINDOW + Duration::from_secs(1);
    assert_eq!(recent.rows_of(scope, later).len(), 3);
    let sums: HashMap<i64, Sums> = recent.seconds_of(scope, later).into_iter().collect();
    assert_eq!(sums[&AT_MS].requests, 3);
    assert!(recent.rows_of(Scope::Publisher(Uuid::from_u128(7)), later).is_empty());
    for _ in 0..300 {
        recent.add(moment(100), later);
    }
    let all = recent.rows_of(scope, later).len();
    assert_eq!(all, SNAPSHOT_ROWS_MAX, "a snapshot is bounded");
    assert!(recent.seconds_of(scope, later)[&AT_MS].requests <= 20_000, "and so is the memory");
}
