//! Chaos: every second something dies, forgets, repeats itself or has no room, under load; a client that counts complete answers
//! must be counted exactly. And the same oracle over three ways of doing it wrong, which it must see through.

mod faults;
mod load;
mod oracle;
mod stream;

use std::path::Path;
use std::time::{Duration, Instant};

use self::faults::Chaos;
use self::load::{Load, clients};
use self::oracle::{compare, lasting_difference, settle};
use self::stream::EarlyAcknowledger;
use crate::harness::{World, eventually};

/// Of one run, and the runs side by side; each of them has servers of its own.
const SECONDS: u64 = 30;
const SEEDS: &str = "1,2,3";
/// From here on a run has time for long faults too.
const LONG_SECONDS: u64 = 300;
const STRIKE_EVERY: Duration = Duration::from_secs(1);
/// A load that is less proves little.
const BILLED_PER_SECOND_MIN: u64 = 10;
/// Between the last fault and the end of the load.
const CALM: Duration = Duration::from_millis(500);

#[test]
fn every_complete_answer_is_counted_once_whatever_dies() {
    let text = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let seconds: u64 = text("APIHUB_CHAOS_SECONDS", &SECONDS.to_string()).parse().unwrap();
    let seeds = text("APIHUB_CHAOS_SEED", SEEDS);
    let runs: Vec<_> = seeds
        .split(',')
        .map(|seed| {
            let seed: u64 = seed.trim().parse().unwrap();
            // A thread for each: the servers that it starts end with it.
            (seed, std::thread::Builder::new().name(format!("chaos-{seed}")).spawn(move || run(seed, seconds)).unwrap())
        })
        .collect();
    let failed: Vec<u64> = runs.into_iter().filter_map(|(seed, run)| run.join().is_err().then_some(seed)).collect();
    assert!(
        failed.is_empty(),
        "failed with the seeds {failed:?}; again: APIHUB_CHAOS_SECONDS={seconds} APIHUB_CHAOS_SEED={} \
         cargo test -p apihub --test e2e every_complete_answer",
        failed[0]
    );
}

fn run(seed: u64, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(one_run(seed, seconds));
}

async fn one_run(seed: u64, seconds: u64) {
    let mut world =
        World::with().gateways(2).control_planes(2).own_postgres().forgetful_redis().small_disk().start().await;
    let clients = clients(&world).await;
    let mut chaos = Chaos::new(&world, seed, seconds >= LONG_SECONDS);
    let (began, mut strikes) = (Instant::now(), 0);
    let load = Load::start(&world, &clients);
    while began.elapsed() < Duration::from_secs(seconds) {
        strikes += 1;
        let next = began + STRIKE_EVERY * strikes;
        tokio::time::sleep_until(next.max(Instant::now() + STRIKE_EVERY / 4).into()).await;
        chaos.strike(&mut world).await;
    }
    chaos.end_what_lasts(&world, true);
    world.gateways.iter_mut().for_each(|gateway| gateway.role.supervise());
    for role in world.gateways.iter().map(|gateway| &gateway.role).chain(world.control_planes.iter().map(|it| &it.role))
    {
        role.ready().await;
    }
    tokio::time::sleep(CALM).await;
    let oracle = load.stop().await;
    let settling = Instant::now();
    let settled = settle(&world, &oracle).await;
    let (answers, cut_off, copies) = (oracle.answers(), oracle.cut_off(), chaos.duplicator.copies());
    eprintln!(
        "seed {seed}: {strikes} faults {:?}, {copies} entries given twice, {answers} complete answers, {cut_off} cut off, \
         settled in {:?}: {:?}",
        chaos.struck,
        settling.elapsed(),
        settled.as_ref().map(|totals| totals.values().sum::<u64>()),
    );
    let totals = settled.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
    let billed = oracle.billed();
    assert!(billed > BILLED_PER_SECOND_MIN * seconds && copies > 0, "{billed} billed of {answers}, {copies} copies");
    let sums = "SELECT (SELECT sum(events) FROM ingested_days) - (SELECT sum(request_count) FROM usage_quarter_hours)";
    assert_eq!(world.count(sums).await, 0, "what was taken in is what is billed from");

    // The oracle is no rubber stamp: one answer less or more than there were would have failed.
    let mut less = totals.clone();
    less.values_mut().for_each(|count| *count -= (*count).min(cut_off + 1));
    assert!(compare(&oracle, &less).is_err());
    let mut more = totals;
    more.values_mut().for_each(|count| *count += cut_off + 1);
    assert!(compare(&oracle, &more).is_err());
}

/// Negative control: usage as others keep it, in memory until it is sent. With the rings (and their journal) gone when the
/// process is, the oracle must find a loss; if it does not, the test above proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_rings_a_killed_gateway_loses_usage_and_the_oracle_sees_it() {
    let mut world = World::with().gateways(2).forgetful_redis().start().await;
    let clients = clients(&world).await;
    let load = Load::start(&world, &clients);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        world.gateways[0].role.kill();
        remove_rings(&world.gateways[0].data_dir);
        world.gateways[0].role.start_again();
        world.gateways[0].role.ready().await;
    }
    let oracle = load.stop().await;
    let difference = lasting_difference(&world, &oracle).await;
    assert!(difference.as_ref().is_some_and(|told| told.starts_with("lost")), "the loss was not seen: {difference:?}");
    // And nothing else was lost.
    let answered = i64::try_from(oracle.by_gateway[&1]).unwrap();
    let of_the_other = "SELECT coalesce(sum(events), 0)::bigint FROM ingested_batches JOIN nodes ON nodes.id = node_id
        WHERE nodes.name = 'gateway-1'";
    let is_counted = || async { (world.count(of_the_other).await == answered).then_some(()) };
    eventually("all that the other gateway answered is counted", is_counted).await;
}

/// Negative control: a database that does not remember what it has counted. Everything that comes twice counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_a_memory_of_batches_counts_double_and_the_oracle_sees_it() {
    let world = World::with().gateways(2).forgetful_redis().start().await;
    world
        .query(
            "ALTER TABLE ingested_batches DROP CONSTRAINT ingested_batches_pkey;
             CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE ingest_watermarks SET contiguous_seq = -1 WHERE node_id = NEW.node_id AND epoch = NEW.epoch;
                 RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER forget AFTER INSERT OR UPDATE ON ingest_watermarks DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW WHEN (NEW.contiguous_seq >= 0) EXECUTE FUNCTION forget()",
        )
        .await;
    let clients = clients(&world).await;
    let duplicator = stream::Duplicator::start(world.redis.url());
    let load = Load::start(&world, &clients);
    tokio::time::sleep(Duration::from_secs(1)).await;
    duplicator.set(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let oracle = load.stop().await;
    let difference = lasting_difference(&world, &oracle).await;
    assert!(duplicator.copies() > 0);
    assert!(difference.as_ref().is_some_and(|told| told.starts_with("double")), "it was not seen: {difference:?}");
}

/// Negative control: a consumer that acknowledges before the commit, and is killed in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_acknowledges_before_it_commits_loses_usage_and_the_oracle_sees_it() {
    let world = World::with().gateways(2).forgetful_redis().redis_of_consumers().start().await;
    let clients = clients(&world).await;
    let consumers = world.redis_of_consumers.as_ref().unwrap().url();
    let early = EarlyAcknowledger::start(world.redis.url(), consumers, 4);
    let load = Load::start(&world, &clients);
    eventually("it died twice", || async { (early.deaths() >= 2).then_some(()) }).await;
    let oracle = load.stop().await;
    let difference = lasting_difference(&world, &oracle).await;
    assert!(difference.as_ref().is_some_and(|told| told.starts_with("lost")), "the loss was not seen: {difference:?}");
    // And nothing else was lost.
    let wanted = i64::try_from(oracle.answers() - early.lost()).unwrap();
    let counted = "SELECT coalesce(sum(events), 0)::bigint FROM ingested_batches";
    let is_counted = || async { (world.count(counted).await >= wanted).then_some(()) };
    eventually("all but what it died with is counted", is_counted).await;
}

/// And the journal of what they hold.
fn remove_rings(data_dir: &Path) {
    for epoch in std::fs::read_dir(data_dir.join("usage")).unwrap().flatten() {
        for file in std::fs::read_dir(epoch.path()).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "ring" || extension == "journal") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
}
