//! What the tables cost: looking a key up, and its subscription and plan; changing one key; finding a route; loading from disk.
//! `KEYS` and `SUBSCRIPTIONS` in the environment say how many (100,000 keys, ten a subscription).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)] // For benchmarks alone.

#[path = "tables/world.rs"]
mod world;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gateway::feed::disk::DiskSnapshot;
use http::Method;
use snapshot::key::KeyDigest;
use snapshot::wire;

#[global_allocator]
static ALLOCATOR: apihub::allocator::Allocator = apihub::allocator::Allocator;

/// Digests that are looked up in turn: more than any cache holds the keys of.
const LOOK_UPS: u64 = 1 << 20;
const PRODUCTS: u64 = 1_000;
const ENDPOINTS_PER_PRODUCT: u64 = 100;

/// Numbers below `bound`, as if by chance.
fn scattered(bound: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16) % bound)
}

fn keys(criterion: &mut Criterion) {
    let keys = world::number("KEYS", 100_000);
    let subscriptions = world::number("SUBSCRIPTIONS", keys / world::KEYS_PER_SUBSCRIPTION).max(1);
    let snapshot = world::snapshot(keys, subscriptions);
    let known: Vec<KeyDigest> = scattered(keys).take(LOOK_UPS as usize).map(world::key_digest).collect();
    let unknown: Vec<KeyDigest> = (keys..keys + LOOK_UPS).map(world::key_digest).collect();
    let mut group = criterion.benchmark_group(format!("tables of {keys} keys, {subscriptions} subscriptions"));
    group.throughput(Throughput::Elements(1));

    let mut next = known.iter().cycle();
    group.bench_function("a key", |bencher| bencher.iter(|| snapshot.key(next.next().unwrap()).unwrap().meter_id));
    let mut next = unknown.iter().cycle();
    group.bench_function("an unknown key", |bencher| bencher.iter(|| snapshot.key(next.next().unwrap()).is_none()));
    let mut next = known.iter().cycle();
    group.bench_function("a key, its subscription and its plan", |bencher| {
        bencher.iter(|| {
            let key = snapshot.key(next.next().unwrap()).unwrap();
            let subscription = snapshot.subscription_of(&key).unwrap();
            let plan = snapshot.plan_of(subscription).unwrap();
            subscription.meter_id ^ plan.meter_id
        });
    });
    let mut next = scattered(keys);
    group.bench_function("one key changed", |bencher| {
        bencher.iter_batched(
            || {
                let put = wire::change::Change::Put(world::key(next.next().unwrap(), subscriptions));
                [wire::Change { change: Some(put) }]
            },
            |change| snapshot.apply(world::token(2), &change),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();

    let directory = tempfile::tempdir().unwrap();
    let disk = DiskSnapshot::at(directory.path().join("snapshot"));
    disk.save(&snapshot, 0, || true).unwrap();
    drop(snapshot);
    let mut group = criterion.benchmark_group(format!("disk, {keys} keys, {subscriptions} subscriptions"));
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.bench_function("load", |bencher| bencher.iter_with_large_drop(|| disk.load().unwrap().snapshot));
    group.finish();
}

fn routes(criterion: &mut Criterion) {
    let snapshot = world::built((0..PRODUCTS).map(|number| world::product(number, ENDPOINTS_PER_PRODUCT)));
    let path = |number: u64| {
        let (product, endpoint) = (number / ENDPOINTS_PER_PRODUCT, number % ENDPOINTS_PER_PRODUCT);
        format!("/acme/p{product}/v1/r{endpoint}/{number}")
    };
    let paths: Vec<String> = scattered(PRODUCTS * ENDPOINTS_PER_PRODUCT).take(100_000).map(path).collect();
    let mut group = criterion.benchmark_group("routes: 1,000 products, 100,000 endpoints");
    let mut next = paths.iter().cycle();
    group.bench_function("a product", |bencher| {
        bencher.iter(|| snapshot.product_for(None, next.next().unwrap()).unwrap().entry.served().unwrap().meter_id);
    });
    let mut next = paths.iter().cycle();
    group.bench_function("a product and its endpoint", |bencher| {
        bencher.iter(|| {
            let found = snapshot.product_for(None, next.next().unwrap()).unwrap();
            let product = found.entry.served().unwrap();
            matches!(black_box(product.routes.find(&Method::GET, found.path)), snapshot::routes::Found::Endpoint(..))
        });
    });
    let change = [wire::Change { change: Some(wire::change::Change::Put(world::product(500, ENDPOINTS_PER_PRODUCT))) }];
    group.bench_function("one product changed", |bencher| {
        bencher.iter_with_large_drop(|| snapshot.apply(world::token(2), &change));
    });
    group.finish();
}

criterion_group!(benches, keys, routes);
criterion_main!(benches);
