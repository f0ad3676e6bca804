//! Looking after what nobody acknowledges: its cost grows with the number of batches and no faster, and what is gone from the
//! stream is sent again.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::*;
use crate::lock::lock;
use crate::usage::redis_link::RedisLink;
use crate::usage::seal::{BatchName, Pending};
use crate::usage::ship::Shipper;
use crate::usage::spool::{Sealed, Spool};

const BATCHES: u64 = 1_000;
/// Of them, what Redis still has when they are looked after.
const KEPT: u64 = 400;

/// Batches that are on the disk and hold nothing.
fn spool(dir: &Path) -> SharedSpool {
    let (node, epoch) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let mut spool = Spool::create(dir, node, epoch, 64 << 20).unwrap();
    for sequence in 0..BATCHES {
        let payload = Pending::default().encode(&BatchName { node, epoch, sequence }, 0, false);
        let sealed = Sealed {
            payload: &payload,
            events: 0,
            at_ms: 0,
            low_watermark_ms: 0,
            is_compacted: true,
            closes_epoch: false,
            positions: &[],
        };
        spool.append(&sealed).unwrap();
    }
    let unsynced = spool.take_unsynced().unwrap();
    spool.synced(&unsynced);
    Arc::new(Mutex::new(spool))
}

/// Questions so far for entries of the stream.
async fn questions(redis: &RedisServer) -> u64 {
    let mut connection = redis.connect().await.unwrap();
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let of_eval = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
    of_eval.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn batches_that_nobody_acknowledges_are_asked_for_by_hundreds_and_those_that_are_gone_are_sent_again() {
    let (redis, dir) = (RedisServer::start(), dir());
    let (spool, metrics) = (spool(dir.path()), Arc::new(Metrics::new("test").unwrap()));
    let link = RedisLink::new(&redis.url(), STREAM).unwrap();
    let mut shipper = Shipper::new(link, spool.clone(), Arc::new(Notify::new()), 10 * BATCHES, metrics.clone());
    shipper.round().await;
    assert_eq!(redis.length(STREAM).await, Some(BATCHES));
    let mut trim = redis::cmd("XTRIM");
    trim.arg(STREAM).arg("MAXLEN").arg(KEPT);
    let () = trim.query_async(&mut redis.connect().await.unwrap()).await.unwrap();

    // Two seconds after they were offered they are looked after; the next time is four seconds later.
    let is_left = || !lock(&spool).overdue(0, 1, Instant::now() + Duration::from_secs(2)).is_empty();
    let deadline = Instant::now() + PATIENCE;
    while is_left() {
        assert!(Instant::now() < deadline, "some are never looked after");
        shipper.round().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((1..=10).contains(&questions(&redis).await), "{} questions", questions(&redis).await);
    assert_eq!(metrics.usage.batches_resent_total.get(), BATCHES - KEPT);
    let mut database = Database::default();
    database.take(&redis.entries(STREAM).await.unwrap());
    assert_eq!((database.batches.len(), database.duplicates), (usize::try_from(BATCHES).unwrap(), 0));
}
