//! `kill -9` of a process that records at full speed: nothing is lost of what it told its parent, nothing is counted twice.
//! APIHUB_KILL_ROUNDS sets how often.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // A test crate.

#[path = "shared/usage_record.rs"]
mod usage_record;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::metrics::Metrics;
use gateway::usage::{UsageRecorder, UsageService, UsageSettings, open};
use prost::Message as _;
use servers::PrivateRedis;
use settings::Secret;
use snapshot::wire::UsageBatch;
use tokio::sync::watch;
use uuid::Uuid;

use usage_record::{record, usage_settings};

const THREADS: u64 = 3;
/// Records between two words to the parent: so many may be in the spool beyond what it was told, of each thread.
const TOLD_EVERY: u64 = 16;
const NODE: Uuid = Uuid::from_u128(7);
const ROUNDS: u64 = 3;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(dir: &Path, redis: &str, metrics: &Arc<Metrics>) -> (UsageRecorder, UsageService) {
    let settings = UsageSettings {
        redis_url: Some(Secret::new(redis.to_owned())),
        stream_length_max: 100_000,
        node_id: NODE,
        threads: usize::try_from(THREADS).unwrap(),
        ..usage_settings(dir)
    };
    open(settings, metrics.clone()).unwrap()
}

/// Not a test of its own: the process that is killed. Keys are the thread's number and, below it, the record's.
#[test]
fn a_process_that_records_until_it_is_killed() {
    let (Ok(dir), Ok(redis)) = (std::env::var("USAGE_KILLED_DIR"), std::env::var("USAGE_KILLED_REDIS")) else { return };
    let metrics = Arc::new(Metrics::new("child").unwrap());
    let (recorder, service) = start(Path::new(&dir), &redis, &metrics);
    for thread in 0..THREADS {
        let (recorder, metrics) = (recorder.clone(), metrics.clone());
        std::thread::spawn(move || {
            for number in 0u64.. {
                recorder.record(&record(thread << 32 | number));
                if (number + 1).is_multiple_of(TOLD_EVERY) {
                    let mut word = [0; 16];
                    word[..8].copy_from_slice(&thread.to_le_bytes());
                    word[8..].copy_from_slice(&(number + 1).to_le_bytes());
                    std::io::stderr().write_all(&word).unwrap();
                    // As fast as it goes without a full ring: that loss is counted, and another test's matter.
                    while number > metrics.usage.events_total.get() / THREADS + 30_000 {
                        std::thread::yield_now();
                    }
                }
            }
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_never, stop) = watch::channel(false);
    runtime.block_on(service.run(stop));
}

/// What the child had told when it was killed, by thread.
fn run_and_kill(dir: &Path, redis: &str, after: Duration) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_records_until_it_is_killed", "--nocapture"])
        .env("USAGE_KILLED_DIR", dir)
        .env("USAGE_KILLED_REDIS", redis)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        told.read_to_end(&mut bytes).unwrap();
        bytes
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    let bytes = reading.join().unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks_exact(16).map(|word| (number(&word[..8]), number(&word[8..]))).collect()
}

/// By epoch and thread.
type Counted = BTreeMap<Vec<u8>, BTreeMap<u64, Vec<u64>>>;

/// Every event in the stream, each batch once. None: no epoch was closed yet.
async fn counted(redis: &PrivateRedis) -> Option<Counted> {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let range: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg("usage").arg("-").arg("+").query_async(&mut connection).await.unwrap();
    let mut batches = BTreeMap::new();
    for entry in range.ids {
        let batch = UsageBatch::decode(entry.get::<Vec<u8>>("b").unwrap().as_slice()).unwrap();
        let name = (batch.epoch.clone(), batch.sequence);
        if let Some(before) = batches.insert(name, batch.clone()) {
            assert_eq!(before, batch, "one name, two contents");
        }
    }
    let _closed = batches.values().find(|batch| batch.closes_epoch)?;
    let mut counted = Counted::new();
    let mut next = BTreeMap::<Vec<u8>, u64>::new();
    for ((epoch, sequence), batch) in batches {
        let next = next.entry(epoch.clone()).or_default();
        assert_eq!(sequence, *next, "numbers are dense");
        *next += 1;
        let threads = counted.entry(epoch).or_default();
        assert!(batch.rows.is_empty());
        for event in batch.events {
            let key = event.kind.unwrap().key;
            threads.entry(key >> 32).or_default().push(key & 0xffff_ffff);
        }
    }
    Some(counted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_that_it_said_it_had_recorded() {
    let rounds = std::env::var("APIHUB_KILL_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let (mut all, mut events) = (0u64, 0u64);
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let redis = PrivateRedis::start(dir.path(), false).unwrap();
        let (path, url) = (dir.path().to_owned(), redis.url());
        // Before, in and behind the first batches.
        let after = Duration::from_millis(300 + 417 * (round % 5));
        let told = tokio::task::spawn_blocking(move || run_and_kill(&path, &url, after)).await.unwrap();

        let metrics = Arc::new(Metrics::new("parent").unwrap());
        let (_recorder, service) = start(dir.path(), &redis.url(), &metrics);
        let (stop, stopped) = watch::channel(false);
        let service = tokio::spawn(service.run(stopped));
        let deadline = Instant::now() + PATIENCE;
        let counted = loop {
            // The successor sends the batch that closes the epoch last.
            if let Some(counted) = counted(&redis).await {
                break counted;
            }
            assert!(Instant::now() < deadline, "the epoch is never taken over");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        stop.send_replace(true);
        service.await.unwrap();
        let child = counted.values().find(|threads| !threads.is_empty());
        for (thread, told) in &told {
            let mut numbers = child.and_then(|threads| threads.get(thread)).cloned().unwrap_or_default();
            numbers.sort_unstable();
            let found = u64::try_from(numbers.len()).unwrap();
            assert!(
                numbers.into_iter().eq(0..found),
                "round {round}: a record is missing in the middle, or is there twice"
            );
            assert!(found >= *told, "round {round}: {told} were told, {found} are there");
            assert!(found <= told + TOLD_EVERY + 1, "round {round}: {found} are there, {told} were told");
            (all, events) = (all + told, events + found);
        }
    }
    assert!(all > 0, "no child recorded anything");
    println!("{rounds} kills: {all} told, {events} counted, 0 lost");
}
