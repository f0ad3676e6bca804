//! How fast usage is counted: a measurement, run by hand (docs/OPERATIONS.md says how and what came out).
#![allow(clippy::print_stdout)] // It prints what it measured.

use std::time::{Duration, Instant};

use prost::Message;
use uuid::Uuid;

use super::testing::{AT_MS, STREAM, World, batch, kind_of};

/// Of 4,000 events, as a gateway sends them that has more than that in a second.
const BATCHES: u64 = 150;
const EVENTS: usize = 4_000;
const SUBSCRIPTIONS: u64 = 2_000;
/// What two cores that have nothing else to do must reach, in events a second.
const ROLLUPS_LEAST: f64 = 100_000.0;
const ROWS_LEAST: f64 = 50_000.0;

/// As a busy fleet sends them: many subscriptions, few endpoints, mostly successes, within a minute or two.
fn busy(epoch: Uuid, sequence: u64) -> snapshot::wire::UsageBatch {
    let mut made = batch(epoch, sequence, EVENTS);
    for (index, event) in made.events.iter_mut().enumerate() {
        let n = sequence * 4_000 + u64::try_from(index).unwrap();
        let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        event.at_ms = AT_MS + i64::try_from(sequence * 40).unwrap();
        event.latency_us = u32::try_from(random % 200_000).unwrap();
        let kind = kind_of(event);
        kind.subscription = random % SUBSCRIPTIONS;
        (kind.key, kind.product) = (kind.subscription, kind.subscription % 50);
        kind.endpoint = kind.product * 10 + random % 3;
        if random.is_multiple_of(20) {
            kind.status = 404;
        }
    }
    made
}

/// Sends everything, then lets two consumers count it. Answers events a second.
async fn counted_in_a_second(log_one_in: u64) -> f64 {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let mut redis = world.redis().await;
    for sequence in 0..BATCHES {
        let mut command = redis::cmd("XADD");
        command.arg(STREAM).arg("*").arg("v").arg("1").arg("b").arg(busy(epoch, sequence).encode_to_vec());
        let _id: String = command.query_async(&mut redis).await.unwrap();
    }
    let (started, events) = (Instant::now(), i64::try_from(BATCHES).unwrap() * 4_000);
    let _running = world.run_with(log_one_in);
    while world.entries_left().await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = started.elapsed().as_secs_f64();
    assert_eq!(world.number("SELECT sum(request_count)::bigint FROM usage_quarter_hours").await, events);
    let started = Instant::now();
    crate::metering::roll_up(&world.rows.store, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    println!("  hours and days of it: {} ms", started.elapsed().as_millis());
    f64::from(u32::try_from(events).unwrap()) / took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn events_counted_in_a_second_into_rollups_alone() {
    let rate = counted_in_a_second(0).await;
    println!("from the stream into rollups: {rate:.0} events/s");
    assert!(cfg!(debug_assertions) || rate >= ROLLUPS_LEAST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn events_counted_in_a_second_with_a_row_for_each() {
    let rate = counted_in_a_second(1).await;
    println!("from the stream into rollups and a row for each request: {rate:.0} events/s");
    assert!(cfg!(debug_assertions) || rate >= ROWS_LEAST);
}
