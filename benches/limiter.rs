//! Taking one request from a subscription's limit: of a gateway that counts alone, and of one that leases from Redis with others;
//! one subscription that everybody uses, and many in turn.
#![allow(clippy::unwrap_used)] // A program for benchmarks alone.

#[path = "shared/fleet.rs"]
mod fleet;

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use fleet::Fleet;
use gateway::clock::Now;
use gateway::limiter::{Lane, Limiter, Terms};
use snapshot::record::{Algorithm, OnRedisDown, Policy, Subscription, SubscriptionStatus};
use uuid::Uuid;

const MANY: u64 = 100_000;

fn subscription(meter_id: u64) -> Subscription {
    let wire = snapshot::wire::Subscription {
        id: Uuid::from_u128(u128::from(meter_id)).as_bytes().to_vec(),
        meter_id,
        product_id: Uuid::from_u128(1).as_bytes().to_vec(),
        plan_id: Uuid::from_u128(2).as_bytes().to_vec(),
        consumer_id: Uuid::from_u128(3).as_bytes().to_vec(),
        status: snapshot::wire::SubscriptionStatus::Active.into(),
        ..Default::default()
    };
    let parsed = Subscription::try_from(&wire).unwrap();
    assert_eq!(parsed.status, SubscriptionStatus::Active);
    parsed
}

fn policy(algorithm: Algorithm) -> Policy {
    let rate = NonZeroU32::new(50_000_000).unwrap();
    Policy { algorithm, per_minute: rate, burst: rate, on_redis_down: OnRedisDown::FairShare, strict: false }
}

fn measure(criterion: &mut Criterion, which: &str, limiter: impl Fn() -> Arc<Limiter>) {
    let now = Now::read();
    let subscriptions: Vec<Subscription> = (1..=MANY).map(subscription).collect();
    let mut group = criterion.benchmark_group(which);
    for (name, algorithm) in [
        ("token bucket", Algorithm::TokenBucket),
        ("sliding window", Algorithm::SlidingWindow),
        ("fixed window", Algorithm::FixedWindow),
    ] {
        for (who, count) in [("one subscription", 1), ("100k subscriptions", subscriptions.len())] {
            let (limiter, mut turn) = (limiter(), 0usize);
            let mut check = || {
                turn = (turn + 1) % count;
                let subscription = subscriptions.get(turn).unwrap();
                let terms = Terms::new(subscription, Lane::Live, policy(algorithm), None, (1, None), now);
                limiter.check(&terms, now)
            };
            (0..count).for_each(|_| drop(check()));
            group.bench_function(format!("{name}, {who}"), |bencher| bencher.iter(|| black_box(check())));
        }
    }
    group.finish();
}

fn alone(criterion: &mut Criterion) {
    measure(criterion, "alone", || Arc::new(Limiter::alone()));
}

fn leased(criterion: &mut Criterion) {
    let fleet = Fleet::start();
    measure(criterion, "leased", || Arc::clone(&fleet.limiter));
}

criterion_group!(benches, alone, leased);
criterion_main!(benches);
