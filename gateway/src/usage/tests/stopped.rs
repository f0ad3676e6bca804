//! The end of a process in order: its epoch is closed over all that its rings held, however much that was, and what came into
//! a ring later still is not lost.

use std::os::unix::fs::FileExt as _;

use super::*;
use crate::usage::record::{WORDS, commit_word};

/// What the thread's own ring and the spare one take together, nearly: more than one look seals.
const FULL_RINGS: u64 = 190_000;

/// Consumes until every key of the range is there, each once, and so many batches that close an epoch.
async fn all_arrive_with_closes(redis: &RedisServer, keys: std::ops::Range<u64>, closes: usize) {
    let database = tokio::sync::Mutex::new(all_arrive(redis, keys).await);
    eventually("the epoch is closed", || async {
        let mut database = database.lock().await;
        consume(redis, &mut database).await?;
        (database.batches.values().filter(|batch| batch.closes_epoch).count() == closes).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_epoch_is_closed_over_every_record_of_its_rings_however_many_they_are() {
    let (redis, dir) = (RedisServer::start(), dir());
    let metrics = Arc::new(Metrics::new("test").unwrap());
    let (recorder, service) = open(settings(Some(redis.url()), dir.path()), metrics.clone()).unwrap();
    (0..FULL_RINGS).for_each(|key| recorder.record(&record(key, Verdict::Proxied)));
    let (stop, stopped) = watch::channel(false);
    stop.send_replace(true);
    service.run(stopped).await;
    assert_eq!(metrics.usage.dropped_so_far(DropReason::RingFull), 0);
    // Where Redis did not take all of it in the time of a stop, the rest is the successor's.
    let _successor = Node::start(Some(redis.url()), dir.path());
    all_arrive_with_closes(&redis, 0..FULL_RINGS, 1).await;
}

/// As a recorder does it that looked before the rings were closed, and stood still until long after.
fn record_late(epoch: &Path, ring: usize, index: u64, record: &Record) {
    let body = record.to_words();
    let words = [commit_word(index, &body)].into_iter().chain(body);
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let file = std::fs::File::options().write(true).open(epoch.join(format!("{ring:04}.ring"))).unwrap();
    let offset = index * u64::try_from(WORDS * size_of::<u64>()).unwrap();
    file.write_all_at(&bytes, offset).unwrap();
}

#[tokio::test]
async fn a_record_that_came_behind_the_close_of_its_epoch_is_taken_over_and_the_epoch_closed_again() {
    let (redis, dir) = (RedisServer::start(), dir());
    let node = Node::start(Some(redis.url()), dir.path());
    node.record(0..10);
    node.stop().await;
    let epoch = std::fs::read_dir(dir.path().join(DIR)).unwrap().next().unwrap().unwrap().path();
    record_late(&epoch, 0, 10, &record(10, Verdict::Proxied));
    let successor = Node::start(Some(redis.url()), dir.path());
    all_arrive_with_closes(&redis, 0..11, 2).await;
    assert_eq!(successor.metrics.usage.events_recovered_total.get(), 1);
}
