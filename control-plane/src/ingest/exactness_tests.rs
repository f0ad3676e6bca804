//! Exactly once, whoever takes a batch, in whichever order and how often; and what every rollup then says.

use std::time::Duration;

use prost::Message;
use snapshot::wire;
use uuid::Uuid;

use super::event::parse_entry;
use super::testing::{AT_MS, World, batch, event, kind, kind_of};
use super::write::write_batches;
use crate::domain::usage::Batch;

const ABANDONED_NEVER: Duration = Duration::from_secs(3_600);
const QUARTER_HOUR_MS: i64 = 15 * 60_000;

fn parsed(wire: &wire::UsageBatch) -> Batch {
    parse_entry(Some(b"1"), Some(wire.encode_to_vec().into())).unwrap().batch
}

/// Events that differ in all that a rollup asks for, spread over minutes.
fn mixed(epoch: Uuid, sequence: u64, events: usize) -> wire::UsageBatch {
    let mut made = batch(epoch, sequence, events);
    for (index, event) in made.events.iter_mut().enumerate() {
        let n = u64::try_from(index).unwrap();
        event.at_ms = AT_MS + i64::try_from(n * 7_013).unwrap();
        event.latency_us = u32::try_from(n * 997).unwrap();
        let kind = kind_of(event);
        (kind.subscription, kind.key, kind.endpoint) = (n % 5, 100 + n % 5, n % 3);
        kind.status = [200, 404, 503][index % 3];
        if index % 4 == 0 {
            (kind.status, kind.upstream_contacted) = (429, false);
            kind.verdict = wire::Verdict::RateLimited.into();
        }
    }
    made
}

/// Always the same shuffle: the test is about order, not about luck.
fn shuffled<T>(mut items: Vec<T>, seed: u64) -> Vec<T> {
    let mut state = seed | 1;
    for at in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
    }
    items
}

async fn quarter_hours(world: &World) -> Vec<String> {
    let sql = "SELECT q::text FROM usage_quarter_hours q ORDER BY 1";
    world.rows.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_two_consumers_take_at_once_are_counted_once() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let batches: Vec<Batch> = (0..40).map(|sequence| parsed(&mixed(epoch, sequence, 25))).collect();
    let takes = (0..4).map(|seed| {
        let (store, batches) = (world.rows.store.clone(), shuffled(batches.clone(), seed * 977));
        async move {
            for merge in batches.chunks(7) {
                write_batches(&store, merge, 1).await.unwrap();
            }
        }
    });
    futures::future::join_all(takes.map(tokio::spawn)).await.into_iter().for_each(Result::unwrap);
    assert_eq!(world.counted().await, 1_000);
    let sums = "SELECT (SELECT sum(request_count)::bigint FROM usage_quarter_hours) * 1000000
        + (SELECT sum(request_count)::bigint FROM usage_product_minutes)";
    assert_eq!(world.number(sums).await, 1_000_001_000);
    assert_eq!(world.number("SELECT contiguous_seq FROM ingest_watermarks").await, 39);
    assert_eq!(world.number("SELECT events FROM ingest_watermarks").await, 1_000);
    assert_eq!(world.number("SELECT sum(events)::bigint FROM ingested_days").await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_any_repetition_and_any_number_of_consumers_give_the_same_rows() {
    let (one, many) = (World::start().await, World::start().await);
    let epoch = Uuid::now_v7();
    let sent: Vec<wire::UsageBatch> = (0..30).map(|sequence| mixed(epoch, sequence, 11)).collect();
    let mut consumer = one.consumer("one", ABANDONED_NEVER);
    consumer.open().await.unwrap();
    for batch in &sent {
        one.send(batch).await;
    }
    while consumer.take_new().await.unwrap() > 0 {}

    for batch in shuffled(sent.iter().chain(&sent).chain(&sent).collect(), 5) {
        many.send(batch).await;
    }
    let consumers = ["a", "b", "c"].map(|name| {
        let mut consumer = many.consumer(name, ABANDONED_NEVER);
        tokio::spawn(async move {
            consumer.open().await.unwrap();
            while consumer.take_new().await.unwrap() > 0 {}
        })
    });
    futures::future::join_all(consumers).await.into_iter().for_each(Result::unwrap);
    assert_eq!((one.counted().await, many.counted().await), (330, 330));
    assert_eq!(quarter_hours(&one).await, quarter_hours(&many).await);
    assert_eq!((many.entries_left().await, many.acknowledged(epoch).await), (0, Some(29)));
}

#[tokio::test]
async fn an_acknowledgement_tells_what_is_contiguous_and_nothing_where_the_first_is_missing() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let mut consumer = world.consumer("one", ABANDONED_NEVER);
    consumer.open().await.unwrap();
    for (sequence, told) in [(1, None), (0, Some(1)), (3, Some(1)), (2, Some(3))] {
        world.send(&batch(epoch, sequence, 1)).await;
        consumer.take_new().await.unwrap();
        assert_eq!(world.acknowledged(epoch).await, told, "after {sequence}");
    }
    // Redis forgets; the gateway sends again what it holds to be unacknowledged.
    let () = redis::cmd("FLUSHALL").query_async(&mut world.redis().await).await.unwrap();
    world.send(&batch(epoch, 3, 1)).await;
    assert_eq!(consumer.take_new().await.unwrap(), 0, "the group is made anew");
    consumer.take_new().await.unwrap();
    assert_eq!((world.counted().await, world.acknowledged(epoch).await), (4, Some(3)));
    // Postgres went back to a backup: the number goes back with it.
    world.rows.sql("UPDATE ingest_watermarks SET contiguous_seq = 1", &[]).await;
    world.rows.sql("DELETE FROM ingested_batches WHERE seq > 1", &[]).await;
    world.send(&batch(epoch, 4, 1)).await;
    consumer.take_new().await.unwrap();
    assert_eq!(world.acknowledged(epoch).await, Some(1));
}

#[tokio::test]
async fn compacted_rows_bill_like_the_events_they_were() {
    let (events, rows) = (World::start().await, World::start().await);
    let epoch = Uuid::now_v7();
    let quarter_hour_ms = AT_MS - AT_MS.rem_euclid(QUARTER_HOUR_MS);
    let mut single = batch(epoch, 0, 0);
    let mut compacted = batch(epoch, 0, 0);
    let kinds = [
        (200, wire::Verdict::Proxied, true, false),
        (404, wire::Verdict::Proxied, true, false),
        (502, wire::Verdict::UpstreamError, true, false),
        (499, wire::Verdict::ClientGone, true, false),
        (499, wire::Verdict::ClientGone, false, false),
        (429, wire::Verdict::QuotaExceeded, false, false),
        (200, wire::Verdict::Proxied, true, true),
    ];
    for (index, (status, verdict, upstream_contacted, test_key)) in kinds.into_iter().enumerate() {
        let count = u64::try_from(index).unwrap() + 2;
        let kind = Some(wire::UsageKind { status, verdict: verdict.into(), upstream_contacted, test_key, ..kind() });
        single.events.extend((0..count).map(|_| wire::UsageEvent { kind, ..event() }));
        let event = event();
        compacted.rows.push(wire::UsageRow {
            quarter_hour_ms,
            kind,
            count,
            request_bytes: count * event.request_bytes,
            response_bytes: count * event.response_bytes,
            latency_us_sum: count * u64::from(event.latency_us),
            upstream_latency_us_sum: if upstream_contacted { count * u64::from(event.upstream_latency_us) } else { 0 },
        });
    }
    for (world, wire) in [(&events, &single), (&rows, &compacted)] {
        write_batches(&world.rows.store, &[parsed(wire)], 1).await.unwrap();
    }
    assert_eq!(quarter_hours(&events).await, quarter_hours(&rows).await);
    let histogram = "SELECT latency_histogram[3] FROM usage_product_quarter_hours WHERE status_class = 2";
    assert_eq!((events.number(histogram).await, rows.number(histogram).await), (10, 10));
    let sums = "SELECT sum(billable_count)::bigint * 100 + sum(limited_count)::bigint FROM usage_quarter_hours";
    assert_eq!(rows.number(sums).await, 707, "two proxied with 200, five that left; seven refused");
    let audited = "SELECT events FROM ingest_watermarks";
    assert_eq!((events.number(audited).await, rows.number(audited).await), (35, 35));
}

#[tokio::test]
async fn a_day_of_any_time_zone_is_exact_in_quarter_hours() {
    let world = World::start().await;
    let mut made = batch(Uuid::now_v7(), 0, 0);
    // One request each 61 s around the midnights of the zones below.
    made.events = (0..2_000).map(|n| wire::UsageEvent { at_ms: AT_MS + n * 61_000, ..event() }).collect();
    write_batches(&world.rows.store, &[parsed(&made)], 1).await.unwrap();
    for zone in ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham", "Asia/Tokyo"] {
        let by = |table: &str, time: &str, count: &str| {
            format!(
                "SELECT string_agg(day || '=' || count, ' ' ORDER BY day) FROM (
                    SELECT ({time} AT TIME ZONE '{zone}')::date::text AS day, {count}::text AS count FROM {table} GROUP BY 1) AS d"
            )
        };
        let client = &world.rows.client;
        let text = |sql: String| async move { client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0) };
        let raw = text(by("usage_logs", "occurred_at", "count(*)")).await;
        let billed = text(by("usage_quarter_hours", "quarter_hour", "sum(request_count)")).await;
        assert_eq!(raw, billed, "{zone}");
        assert!(raw.contains(' '), "{zone} has a midnight here: {raw}");
    }
}

#[tokio::test]
async fn an_unlikely_time_is_counted_and_flagged() {
    let world = World::start().await;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let (hour, day) = (3_600_000, 24 * 3_600_000);
    let mut made = batch(Uuid::now_v7(), 0, 0);
    let ages = [0, 34 * day, 36 * day, 400 * day, -4 * 60_000, -6 * 60_000, -hour];
    made.events = ages.iter().map(|age| wire::UsageEvent { at_ms: now_ms - age, ..event() }).collect();
    world.send(&made).await;
    let mut consumer = world.consumer("one", ABANDONED_NEVER);
    consumer.open().await.unwrap();
    consumer.take_new().await.unwrap();
    assert_eq!(world.counted().await, 7);
    assert_eq!(world.metrics.skewed.get(), 4);
    assert_eq!(world.number("SELECT skewed_events FROM ingest_watermarks").await, 4);
}

#[tokio::test]
async fn an_entry_that_nobody_can_read_is_kept_once_however_often_its_gateway_sends_it() {
    let world = World::start().await;
    let mut consumer = world.consumer("one", ABANDONED_NEVER);
    consumer.open().await.unwrap();
    for _ in 0..3 {
        world.send_raw(b"1", b"\xff\xff no batch").await;
        consumer.take_new().await.unwrap();
    }
    assert_eq!(world.entries_left().await, 0);
    assert_eq!(world.number("SELECT count(*) FROM ingest_failures").await, 1);
    assert_eq!(world.number("SELECT times_received FROM ingest_failures").await, 3);
    assert_eq!(world.metrics.failures.get(), 1);
}

#[tokio::test]
async fn a_row_that_is_wrong_is_set_aside_alone() {
    let world = World::start().await;
    let mut made = batch(Uuid::now_v7(), 0, 2);
    let good = wire::UsageRow {
        quarter_hour_ms: AT_MS - AT_MS.rem_euclid(QUARTER_HOUR_MS),
        kind: Some(kind()),
        count: 3,
        ..Default::default()
    };
    made.rows = vec![
        wire::UsageRow { quarter_hour_ms: AT_MS, ..good },
        wire::UsageRow { count: 0, ..good },
        wire::UsageRow { request_bytes: u64::MAX, ..good },
        good,
    ];
    world.send(&made).await;
    let mut consumer = world.consumer("one", ABANDONED_NEVER);
    consumer.open().await.unwrap();
    consumer.take_new().await.unwrap();
    assert_eq!(world.number("SELECT sum(request_count)::bigint FROM usage_quarter_hours").await, 5);
    let reasons = "SELECT string_agg(reason, '; ' ORDER BY id) FROM ingest_failures";
    let reasons: String = world.rows.client.query_one(reasons, &[]).await.unwrap().get(0);
    assert_eq!(
        reasons,
        "row 0: quarter_hour_ms is missing or not valid; row 1: count is missing or not valid; \
         row 2: request_bytes is missing or not valid"
    );
}

#[tokio::test]
async fn a_log_of_some_requests_counts_all_of_them() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    write_batches(&world.rows.store, &[parsed(&batch(epoch, 0, 1_000))], 10).await.unwrap();
    let logged = "SELECT count(*) FROM usage_logs";
    let some = world.number(logged).await;
    assert!((40..=180).contains(&some), "about one in ten: {some}");
    write_batches(&world.rows.store, &[parsed(&batch(epoch, 1, 1_000))], 0).await.unwrap();
    assert_eq!(world.number(logged).await, some);
    assert_eq!(world.number("SELECT sum(request_count)::bigint FROM usage_quarter_hours").await, 2_000);
}
