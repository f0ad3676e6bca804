//! How fast usage is counted: a measurement, run by hand (docs/OPERATIONS.md says how and what came out).
#![allow(clippy::print_stdout)] // It prints what it measured.

use std::time::{Duration, Instant};

use prost::Message;
use uuid::Uuid;

use super::event::parse_entry;
use super::testing::{AT_MS, STREAM, World, batch};
use super::write::write_batches;
use crate::domain::usage::Batch;

const BATCHES: u64 = 200;
const EVENTS: usize = 1_000;
/// Batches in one merge.
const MERGE: usize = 50;
const SUBSCRIPTIONS: u64 = 2_000;

/// As a busy fleet sends them: many subscriptions, few endpoints, mostly successes, within a minute or two.
fn busy(epoch: Uuid, sequence: u64) -> snapshot::wire::UsageBatch {
    let mut made = batch(epoch, sequence, EVENTS);
    for (index, event) in made.events.iter_mut().enumerate() {
        let n = sequence * 1_000 + u64::try_from(index).unwrap();
        let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        event.at_ms = AT_MS + i64::try_from(sequence * 500).unwrap();
        event.subscription = random % SUBSCRIPTIONS;
        (event.key, event.product) = (event.subscription, event.subscription % 50);
        event.endpoint = event.product * 10 + random % 3;
        event.latency_us = u32::try_from(random % 200_000).unwrap();
        if random.is_multiple_of(20) {
            event.status = 404;
        }
    }
    made
}

fn say(what: &str, started: Instant) {
    let events = f64::from(u32::try_from(BATCHES).unwrap()) * 1_000.0;
    println!("{what}: {:.0} events/s", events / started.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn events_counted_in_a_second() {
    for (what, log_one_in) in [("rollups and a row for each request", 1), ("rollups alone", 0)] {
        let world = World::start().await;
        let epoch = Uuid::now_v7();
        let encoded: Vec<Vec<u8>> = (0..BATCHES).map(|sequence| busy(epoch, sequence).encode_to_vec()).collect();
        let started = Instant::now();
        let batches: Vec<Batch> =
            encoded.into_iter().map(|bytes| parse_entry(Some(b"1"), Some(bytes.into())).unwrap().batch).collect();
        say("decoding alone", started);
        let started = Instant::now();
        for merge in batches.chunks(MERGE) {
            write_batches(&world.rows.store, merge, log_one_in).await.unwrap();
        }
        say(what, started);
        let started = Instant::now();
        crate::metering::roll_up(&world.rows.store, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        println!("  hours and days of it: {} ms", started.elapsed().as_millis());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn events_caught_up_in_a_second_from_the_stream() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let mut redis = world.redis().await;
    for sequence in 0..BATCHES {
        let mut command = redis::cmd("XADD");
        command.arg(STREAM).arg("*").arg("v").arg("1").arg("b").arg(busy(epoch, sequence).encode_to_vec());
        let _id: String = command.query_async(&mut redis).await.unwrap();
    }
    let started = Instant::now();
    let _running = world.run();
    while world.entries_left().await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    say("from the stream, rollups and a row for each request", started);
    assert_eq!(world.counted().await, i64::try_from(BATCHES).unwrap() * 1_000);
}
