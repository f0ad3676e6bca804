//! Every admitted request is counted once, whatever is repeated, restarted or emptied between the gateway and Postgres.

use std::time::Duration;

use prost::Message;
use snapshot::wire;
use uuid::Uuid;

use super::event::{EntryFault, parse_entry};
use super::testing::{AT_MS, PATIENCE, STREAM, World, batch, kind_of};
use super::*;
use crate::domain::usage::billable::{BillableClasses, billable};
use crate::domain::usage::{Event, Outcome};
use crate::publish::builder::testing_rows::{Rows, store_of};

fn parsed(change: impl FnOnce(&mut wire::UsageEvent)) -> Event {
    let mut wire = batch(Uuid::from_u128(1), 0, 1);
    change(&mut wire.events[0]);
    parse_entry(Some(b"1"), Some(wire.encode_to_vec().into())).unwrap().batch.events.remove(0)
}

#[tokio::test]
async fn a_batch_becomes_log_rows_and_minutes_and_leaves_the_stream() {
    let world = World::start().await;
    let mut mixed = batch(Uuid::now_v7(), 0, 3);
    kind_of(&mut mixed.events[1]).verdict = wire::Verdict::RateLimited.into();
    kind_of(&mut mixed.events[1]).status = 429;
    kind_of(&mut mixed.events[1]).upstream_contacted = false;
    kind_of(&mut mixed.events[2]).verdict = wire::Verdict::UpstreamError.into();
    kind_of(&mut mixed.events[2]).failed_by = wire::FailedBy::Upstream.into();
    kind_of(&mut mixed.events[2]).status = 502;
    world.send(&mixed).await;
    let mut consumer = world.consumer("one", ABANDONED_AFTER);
    consumer.open().await.unwrap();
    assert_eq!(consumer.take_new().await.unwrap(), 1);
    assert_eq!(world.counted().await, 3);
    assert_eq!(world.entries_left().await, 0);
    let sums = "SELECT sum(admitted_count)::bigint, sum(failed_count)::bigint, sum(billable_count)::bigint,
        sum(response_bytes)::bigint, count(*), min(extract(epoch FROM minute))::bigint FROM usage_minutes";
    let row = world.rows.client.query_one(sums, &[]).await.unwrap();
    let found: [i64; 6] = std::array::from_fn(|column| row.get(column));
    assert_eq!(found, [2, 1, 1, 300, 3, AT_MS / 1_000 - 30]);
    let logs =
        "SELECT ordinal, verdict, failed_by, status, billable, upstream_latency_us FROM usage_logs ORDER BY ordinal";
    let rows = world.rows.client.query(logs, &[]).await.unwrap();
    type Logged<'a> = (i32, &'a str, Option<&'a str>, i16, bool, Option<i64>);
    let verdicts: Vec<Logged> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))).collect();
    assert_eq!(
        verdicts,
        [
            (0, "admitted", None, 200, true, Some(900)),
            (1, "rate_limited", None, 429, false, None),
            (2, "admitted", Some("upstream"), 502, false, Some(900)),
        ]
    );
}

#[tokio::test]
async fn a_batch_that_comes_again_is_not_counted_again() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    for _ in 0..3 {
        world.send(&batch(epoch, 0, 5)).await;
    }
    let mut consumer = world.consumer("one", ABANDONED_AFTER);
    consumer.open().await.unwrap();
    consumer.take_new().await.unwrap();
    world.send(&batch(epoch, 0, 5)).await;
    world.send(&batch(epoch, 1, 5)).await;
    consumer.take_new().await.unwrap();
    assert_eq!(world.counted().await, 10);
    assert_eq!(world.entries_left().await, 0);
    assert_eq!(world.metrics.duplicates.get(), 3);
}

#[tokio::test]
async fn a_restart_between_the_commit_and_the_acknowledgement_counts_nothing_twice() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let sent = batch(epoch, 0, 4);
    world.send(&sent).await;
    let mut first = world.consumer("one", Duration::ZERO);
    first.open().await.unwrap();
    // Committed, and then the process ends.
    let entries = first.stream().read_new().await.unwrap();
    let parsed = parse_entry(Some(b"1"), entries[0].payload.clone()).unwrap().batch;
    write::write_batches(&world.rows.store, &[parsed], 1).await.unwrap();
    drop(first);
    assert_eq!((world.counted().await, world.entries_left().await), (4, 1));

    let mut same = world.consumer("one", Duration::ZERO);
    same.open().await.unwrap();
    assert_eq!(same.take_new().await.unwrap(), 0, "it was delivered already");
    assert_eq!(same.take_pending().await.unwrap(), 1);
    assert_eq!((world.counted().await, world.entries_left().await), (4, 0));
    assert_eq!(world.acknowledged(epoch).await, Some(0));
}

#[tokio::test]
async fn what_a_dead_consumer_left_is_taken_over_by_another() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let mut dead = world.consumer("dead", Duration::ZERO);
    dead.open().await.unwrap();
    for sequence in 0..40 {
        world.send(&batch(epoch, sequence, 2)).await;
        assert_eq!(dead.stream().read_new().await.unwrap().len(), 1);
    }
    let mut heir = world.consumer("heir", Duration::ZERO);
    heir.open().await.unwrap();
    assert_eq!(heir.take_abandoned().await.unwrap(), 40);
    assert_eq!((world.counted().await, world.entries_left().await), (80, 0));
    let watermark = world.number("SELECT contiguous_seq FROM ingest_watermarks").await;
    assert_eq!(watermark, 39);
}

#[tokio::test]
async fn a_pending_entry_that_somebody_deleted_is_forgotten() {
    let world = World::start().await;
    world.send(&batch(Uuid::now_v7(), 0, 2)).await;
    let mut consumer = world.consumer("one", Duration::ZERO);
    consumer.open().await.unwrap();
    let id = consumer.stream().read_new().await.unwrap().remove(0).id;
    let _: u64 = redis::cmd("XDEL").arg(STREAM).arg(id).query_async(&mut world.redis().await).await.unwrap();
    consumer.take_pending().await.unwrap();
    assert_eq!(consumer.take_pending().await.unwrap(), 0);
    assert_eq!((world.counted().await, world.metrics.failures.get()), (0, 0));
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_moved_aside_whole_and_holds_up_nothing() {
    let world = World::start().await;
    world.send(&batch(Uuid::now_v7(), 0, 1)).await;
    world.send_raw(b"1", b"\xff\xff\xff no batch").await;
    world.send_raw(b"2", b"of the future").await;
    world.send(&batch(Uuid::now_v7(), 0, 1)).await;
    let mut command = redis::cmd("XADD");
    let _id: String =
        command.arg(STREAM).arg("*").arg("other").arg("thing").query_async(&mut world.redis().await).await.unwrap();
    let mut consumer = world.consumer("one", ABANDONED_AFTER);
    consumer.open().await.unwrap();
    consumer.take_new().await.unwrap();
    assert_eq!((world.counted().await, world.entries_left().await), (2, 0));
    let rows = world.rows.client.query("SELECT reason, payload FROM ingest_failures ORDER BY id", &[]).await.unwrap();
    let reasons: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons.len(), 3);
    assert!(reasons[0].starts_with("the batch does not decode"), "{reasons:?}");
    assert_eq!(reasons[1], "the entry's version is not 1");
    assert_eq!(reasons[2], "the entry lacks the field 'v'");
    assert_eq!(rows[0].get::<_, Vec<u8>>(1), b"\xff\xff\xff no batch");
    assert!(String::from_utf8(rows[2].get(1)).unwrap().contains("thing"));
    assert_eq!(world.metrics.failures.get(), 3);
}

#[tokio::test]
async fn an_event_that_is_wrong_is_set_aside_alone_and_once_and_the_rest_of_its_batch_counts() {
    let world = World::start().await;
    let mut sent = batch(Uuid::now_v7(), 0, 1_000);
    kind_of(&mut sent.events[7]).status = 999;
    kind_of(&mut sent.events[400]).status = 0;
    // As a gateway sends it whose acknowledgement was lost.
    world.send(&sent).await;
    world.send(&sent).await;
    let mut consumer = world.consumer("one", ABANDONED_AFTER);
    consumer.open().await.unwrap();
    while consumer.take_new().await.unwrap() > 0 {}
    assert_eq!((world.counted().await, world.entries_left().await), (998, 0));
    let rows = world.rows.client.query("SELECT reason, payload FROM ingest_failures ORDER BY id", &[]).await.unwrap();
    let reasons: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons, ["event 7: status is missing or not valid", "event 400: status is missing or not valid"]);
    assert_eq!(wire::UsageEvent::decode(rows[0].get::<_, &[u8]>(1)).unwrap(), sent.events[7]);
    assert_eq!(world.number("SELECT contiguous_seq FROM ingest_watermarks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_postgres_refuses_for_ever_is_moved_aside_alone() {
    let world = World::start().await;
    // Stands for any constraint that this code does not know of.
    let check = "ALTER TABLE usage_logs ADD CONSTRAINT no_teapots CHECK (status <> 418) NOT VALID";
    world.rows.client.batch_execute(check).await.unwrap();
    let mut refused = batch(Uuid::now_v7(), 0, 1);
    kind_of(&mut refused.events[0]).status = 418;
    world.send(&batch(Uuid::now_v7(), 0, 2)).await;
    world.send(&refused).await;
    world.send(&batch(Uuid::now_v7(), 0, 3)).await;
    let _running = world.run();
    world.wait_for_count(5).await;
    let aside = "SELECT count(*) FROM ingest_failures WHERE reason LIKE '%no_teapots%'";
    let moved = async {
        while world.number(aside).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_and_a_killed_redis_only_delay() {
    let mut world = World::start().await;
    let epoch = Uuid::now_v7();
    let _running = world.run();
    world.send(&batch(epoch, 0, 1)).await;
    world.wait_for_count(1).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut world.redis().await).await.unwrap();
    world.send(&batch(epoch, 1, 1)).await;
    world.wait_for_count(2).await;
    world.redis.restart().unwrap();
    world.send(&batch(epoch, 1, 1)).await;
    world.send(&batch(epoch, 2, 1)).await;
    world.wait_for_count(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_refuses_connections_nothing_is_acknowledged() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let (database, me): (String, i32) = {
        let row = world.rows.client.query_one("SELECT current_database()::text, pg_backend_pid()", &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let elsewhere = world.rows.url.replace(&format!("/{database}"), "/postgres");
    let operator = Rows::of(elsewhere.clone(), store_of(&elsewhere).await).await;
    operator.client.batch_execute(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await.unwrap();
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2";
    operator.sql(others, &[&database, &me]).await;
    let _running = world.run();
    world.send(&batch(epoch, 0, 2)).await;
    let tried = async {
        while world.metrics.retries.get() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.expect("it keeps trying");
    assert_eq!(world.entries_left().await, 1);
    operator.client.batch_execute(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true")).await.unwrap();
    world.wait_for_count(2).await;
    assert_eq!(world.metrics.failures.get(), 0);
}

#[tokio::test]
async fn watermarks_stop_at_a_gap_and_rows_below_them_may_go() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let mut consumer = world.consumer("one", ABANDONED_AFTER);
    consumer.open().await.unwrap();
    let watermark = "SELECT contiguous_seq FROM ingest_watermarks";
    for (sequence, reached) in [(0, 0), (1, 1), (3, 1), (4, 1), (2, 4)] {
        world.send(&batch(epoch, sequence, 1)).await;
        consumer.take_new().await.unwrap();
        assert_eq!(world.number(watermark).await, reached, "after {sequence}");
    }
    world.rows.sql("UPDATE ingested_batches SET ingested_at = now() - interval '8 days'", &[]).await;
    assert_eq!(crate::store::usage::prune_batches(&world.rows.store).await.unwrap(), 5);
    world.send(&batch(epoch, 3, 1)).await;
    consumer.take_new().await.unwrap();
    assert_eq!(world.counted().await, 5, "the watermark still knows it");
}

#[tokio::test]
async fn a_plan_says_which_classes_cost_money_and_a_key_when_it_was_used() {
    let world = World::start().await;
    let rows = &world.rows;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let plan = rows.plan(shop, "basic").await;
    let bought = rows.subscription(shop, plan, acme).await;
    let key = rows.key(bought).await;
    let draft =
        "INSERT INTO plans (id, product_id, family_id, slug, name, price, currency, rate_limit, billable_statuses)
        VALUES ($1, $2, $1, 'errors', 'errors', 0, 'USD', 60, '{4xx,5xx}')";
    let errors = Uuid::now_v7();
    rows.client.batch_execute("BEGIN").await.unwrap();
    rows.sql(draft, &[&errors, &shop]).await;
    let policy =
        "INSERT INTO rate_limit_policies (id, plan_id, requests_per_minute, burst_limit) VALUES ($1, $1, 60, 6)";
    rows.sql(policy, &[&errors]).await;
    rows.client.batch_execute("COMMIT").await.unwrap();
    let meter = |sql: &'static str, id: Uuid| async move {
        let meter: i64 = rows.client.query_one(sql, &[&id]).await.unwrap().get(0);
        u64::try_from(meter).unwrap()
    };
    let errors = meter("SELECT meter_id FROM plans WHERE id = $1", errors).await;
    let key_meter = meter("SELECT meter_id FROM api_keys WHERE id = $1", key).await;
    let mut sent = batch(Uuid::now_v7(), 0, 2);
    for (event, status) in sent.events.iter_mut().zip([200, 404]) {
        let kind = kind_of(event);
        (kind.plan, kind.key, kind.status) = (errors, key_meter, status);
    }
    world.send(&sent).await;
    let mut consumer = world.consumer("one", ABANDONED_AFTER);
    consumer.open().await.unwrap();
    consumer.take_new().await.unwrap();
    crate::metering::roll_up(&rows.store, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(world.number("SELECT status::bigint FROM usage_logs WHERE billable").await, 404);
    let used = "SELECT (extract(epoch FROM last_used_at) * 1000)::bigint FROM api_keys";
    assert_eq!(world.number(used).await, AT_MS);
}

#[test]
fn what_costs_money_is_one_table() {
    let default = BillableClasses::default();
    let all = BillableClasses::parse(["1xx", "2xx", "3xx", "4xx", "5xx"]);
    let none = BillableClasses::parse([]);
    let verdict = |verdict: wire::Verdict| move |event: &mut wire::UsageEvent| kind_of(event).verdict = verdict.into();
    let answered = parsed(|_| ());
    assert!(billable(&answered.kind, default) && billable(&answered.kind, all) && !billable(&answered.kind, none));
    let not_found = parsed(|event| kind_of(event).status = 404);
    assert!(!billable(&not_found.kind, default) && billable(&not_found.kind, all));
    for own in [408, 413, 401] {
        let ours = parsed(|event| {
            kind_of(event).status = own;
            kind_of(event).failed_by = wire::FailedBy::Client.into();
        });
        assert!(!billable(&ours.kind, all), "the gateway's own {own}");
    }
    let tested = parsed(|event| kind_of(event).test_key = true);
    assert!(!billable(&tested.kind, all));
    use wire::Verdict::{Forbidden, QuotaExceeded, RateLimited, Unpaid, UpstreamError};
    for refused in [Unpaid, Forbidden, RateLimited, QuotaExceeded, UpstreamError] {
        assert!(!billable(&parsed(verdict(refused)).kind, all), "{refused:?}");
    }
    let gone = parsed(verdict(wire::Verdict::ClientGone));
    assert!(billable(&gone.kind, default) && !billable(&gone.kind, none));
    let gone_before = parsed(|event| {
        kind_of(event).verdict = wire::Verdict::ClientGone.into();
        kind_of(event).upstream_contacted = false;
    });
    assert!(!billable(&gone_before.kind, all));
    assert_eq!(gone_before.kind.outcome, Outcome::ClientGone);
}

#[test]
fn every_field_of_an_event_is_checked_and_named() {
    type Spoil = fn(&mut wire::UsageEvent);
    let cases: [(&str, Spoil); 14] = [
        ("at_ms", |event| event.at_ms = 5),
        ("at_ms", |event| event.at_ms = i64::MAX),
        ("request_id", |event| event.request_id.clear()),
        ("kind", |event| event.kind = None),
        ("key", |event| kind_of(event).key = u64::MAX),
        ("subscription", |event| kind_of(event).subscription = u64::MAX),
        ("plan", |event| kind_of(event).plan = u64::MAX),
        ("method", |event| event.method.clear()),
        ("method", |event| event.method = "G\0T".into()),
        ("status", |event| kind_of(event).status = 99),
        ("verdict", |event| kind_of(event).verdict = 0),
        ("verdict", |event| kind_of(event).verdict = 77),
        ("failed_by", |event| kind_of(event).failed_by = 77),
        ("response_bytes", |event| event.response_bytes = u64::MAX),
    ];
    for (field, spoil) in cases {
        let mut wire = batch(Uuid::now_v7(), 0, 1);
        spoil(&mut wire.events[0]);
        let parsed = parse_entry(Some(b"1"), Some(wire.encode_to_vec().into())).unwrap();
        assert_eq!((parsed.batch.events.len(), parsed.refused[0].field), (0, field));
        assert_eq!(parsed.refused[0].payload, wire.events[0].encode_to_vec());
    }
    let too_many = batch(Uuid::now_v7(), 0, 10_001).encode_to_vec();
    assert_eq!(parse_entry(Some(b"1"), Some(too_many.into())), Err(EntryFault::TooManyEvents(10_001)));
    let too_large = vec![0; super::event::ENTRY_BYTES_MAX + 1];
    assert!(matches!(parse_entry(Some(b"1"), Some(too_large.into())), Err(EntryFault::TooLarge(_))));
    let nameless = wire::UsageBatch { epoch: vec![1], ..batch(Uuid::now_v7(), 0, 0) };
    assert_eq!(parse_entry(Some(b"1"), Some(nameless.encode_to_vec().into())), Err(EntryFault::Batch("epoch")));
    assert_eq!(parse_entry(Some(b"1"), None), Err(EntryFault::FieldMissing("b")));
}
