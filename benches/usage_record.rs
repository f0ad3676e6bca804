//! Writing one request's usage into its thread's ring. The ring is emptied by the service as it runs; a burst is smaller than it.
#![allow(clippy::unwrap_used)] // A program for benchmarks alone.

#[path = "../gateway/tests/shared/usage_record.rs"]
mod usage_record;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use gateway::metrics::Metrics;
use gateway::usage::{UsageSettings, open};
use tokio::sync::watch;

/// Less than a ring holds.
const BURST: u64 = 50_000;

fn record(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new("bench").unwrap());
    let settings = UsageSettings { spool_bytes_max: 1 << 32, ..usage_record::usage_settings(dir.path()) };
    let (recorder, service) = open(settings, metrics.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = watch::channel(false);
    let service = runtime.spawn(service.run(stopped));
    let record = usage_record::record(1);
    criterion.bench_function("usage record", |bencher| {
        bencher.iter_custom(|iterations| {
            let (mut left, mut took) = (iterations, Duration::ZERO);
            while left > 0 {
                let burst = left.min(BURST);
                let emptied = metrics.usage.events_total.get() + burst;
                let began = Instant::now();
                (0..burst).for_each(|_| recorder.record(black_box(&record)));
                took += began.elapsed();
                left -= burst;
                while metrics.usage.events_total.get() < emptied {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            took
        });
    });
    stop.send_replace(true);
    runtime.block_on(service).unwrap();
}

criterion_group!(benches, record);
criterion_main!(benches);
