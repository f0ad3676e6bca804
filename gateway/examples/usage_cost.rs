//! What metering costs a gateway: so many requests a second are recorded, and kept, sealed and sent to a real Redis, or counted as
//! dropped. Run under callgrind by `benches/load/usage_cost`, which counts instructions.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)] // A program for benchmarks alone.

#[path = "../../benches/shared/pace.rs"]
mod pace;
#[path = "../tests/shared/usage_record.rs"]
mod usage_record;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::metrics::Metrics;
use gateway::usage::{UsageSettings, open};
use servers::PrivateRedis;
use settings::Secret;
use tokio::runtime::Builder;
use tokio::sync::watch;

/// Requests come from so many keys.
const KEYS: u64 = 10_000;
/// Nothing acknowledges here: the stream takes what a run sends.
const STREAM_ENTRIES_MAX: u64 = 1_000_000;
/// Redis is on this machine; a counter of instructions makes everything fifty times slower.
const COLLECTED_WITHIN: Duration = Duration::from_secs(60);

/// `usage_cost on|off REQUESTS_A_SECOND SECONDS`
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let directory = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(directory.path(), false).unwrap();
    let metrics = Arc::new(Metrics::new("bench").unwrap());
    let is_on = words[1] == "on";
    let settings = UsageSettings {
        redis_url: is_on.then(|| Secret::new(redis.url())),
        stream_length_max: STREAM_ENTRIES_MAX,
        ..usage_record::usage_settings(directory.path())
    };
    let (recorder, service) = open(settings, Arc::clone(&metrics)).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_stop, stopped) = watch::channel(false);
    // Ends with the process, at once: what an orderly end costs is not a request's.
    runtime.spawn(service.run(stopped));
    let mut key = 0;
    let asked = pace::paced(words[2].parse().unwrap(), words[3].parse().unwrap(), || {
        key = (key + 1) % KEYS;
        recorder.record(black_box(&usage_record::record(key)));
    });
    let began = Instant::now();
    while is_on && metrics.usage.events_total.get() < asked {
        assert!(began.elapsed() < COLLECTED_WITHIN, "nobody empties the rings");
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("{{\"asked\": {asked}}}");
}
