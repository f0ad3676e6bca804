//! Hours and days follow the billing record, whenever it changes; the audit finds what does not; a period is final only when
//! nothing of it can be missing.

use jiff::Timestamp;
use prometheus::Registry;
use snapshot::wire;
use uuid::Uuid;

use super::{MeteringMetrics, audit, oldest_hour, roll_up};
use crate::ingest::testing::{AT_MS, World, batch, event};
use crate::settings::Retention;
use crate::store::housekeeping::keep_partitions;
use crate::store::metering::{Completeness, period_completeness};
use crate::store::nodes::{NewNode, register_node};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn retention() -> Retention {
    Retention {
        usage_log_days: 30,
        usage_minute_days: 7,
        usage_quarter_hour_days: 460,
        usage_hour_days: 400,
        ingest_failure_days: 90,
        config_change_days: 7,
    }
}

/// One event at each time, counted.
async fn count(world: &World, epoch: Uuid, sequence: u64, times: &[i64]) {
    let mut made = batch(epoch, sequence, 0);
    made.events = times.iter().map(|at_ms| wire::UsageEvent { at_ms: *at_ms, ..event() }).collect();
    count_batch(world, &made).await;
}

async fn count_batch(world: &World, made: &wire::UsageBatch) {
    world.send(made).await;
    world.take_all().await;
}

async fn roll(world: &World) -> usize {
    roll_up(&world.rows.store, Timestamp::UNIX_EPOCH).await.unwrap()
}

/// Requests as the hours, the days, the subscriptions' days and weeks, the products' hours and days have them.
async fn rolled(world: &World) -> [i64; 6] {
    let sum = |table: &str| format!("SELECT sum(request_count)::bigint FROM {table}");
    let tables = [
        "usage_hours",
        "usage_days",
        "usage_subscription_days",
        "usage_subscription_weeks",
        "usage_product_hours",
        "usage_product_days",
    ];
    let mut sums = [0; 6];
    for (sum_of, table) in sums.iter_mut().zip(tables) {
        *sum_of = world.number(&sum(table)).await;
    }
    sums
}

async fn completeness(world: &World, end: Timestamp) -> Vec<String> {
    let store = &world.rows.store;
    let told = store.read("completeness", |tx| Box::pin(period_completeness(tx, end))).await.unwrap();
    match told {
        Completeness::Complete => Vec::new(),
        Completeness::Provisional { reasons } => reasons.into_iter().map(|reason| reason.kind).collect(),
    }
}

#[tokio::test]
async fn late_usage_makes_its_hour_and_its_day_anew() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    count(&world, epoch, 0, &[AT_MS, AT_MS + HOUR_MS, AT_MS + DAY_MS]).await;
    assert_eq!(rolled(&world).await, [0; 6], "nothing was rolled up yet");
    roll(&world).await;
    assert_eq!(rolled(&world).await, [3; 6]);
    assert_eq!(roll(&world).await, 0, "nothing is left to do");
    count(&world, epoch, 1, &[AT_MS + 1, AT_MS - 10 * DAY_MS]).await;
    roll(&world).await;
    assert_eq!(rolled(&world).await, [5; 6]);
    let of_the_hour = "SELECT request_count FROM usage_hours WHERE hour = '2026-11-22 06:00Z'";
    assert_eq!(world.number(of_the_hour).await, 2);
    let of_the_day = "SELECT request_count FROM usage_days WHERE day = '2026-11-22'";
    assert_eq!(world.number(of_the_day).await, 3);
    let latencies = "SELECT latency_histogram[3] FROM usage_product_days WHERE day = '2026-11-22'";
    assert_eq!(world.number(latencies).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_up_at_once_and_again_changes_nothing() {
    let world = World::start().await;
    let times: Vec<i64> = (0..900).map(|n| AT_MS + n * 97_003).collect();
    count(&world, Uuid::now_v7(), 0, &times).await;
    // As when somebody's lease was lost: every mark is served twice, at the same time.
    let (one, other) = tokio::join!(roll(&world), roll(&world));
    assert!(one + other > 0);
    assert_eq!(rolled(&world).await, [900; 6]);
    world
        .rows
        .client
        .batch_execute("UPDATE usage_hours SET request_count = 7; UPDATE usage_days SET request_count = 9")
        .await
        .unwrap();
    let marks = "INSERT INTO usage_dirty (subscription_meter_id, product_meter_id, key_meter_id, hour, used_at)
        SELECT DISTINCT subscription_meter_id, product_meter_id, key_meter_id, hour, hour FROM usage_hours";
    world.rows.sql(marks, &[]).await;
    roll(&world).await;
    assert_eq!(rolled(&world).await, [900; 6], "replaced, not added to");
}

#[tokio::test]
async fn a_merge_that_commits_during_a_roll_up_is_rolled_up_by_the_next() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    count(&world, epoch, 0, &[AT_MS]).await;
    // A second merge of the same hour has written, and not committed.
    let merging = world.rows.store.connection().await.unwrap();
    let merge = "BEGIN; UPDATE usage_quarter_hours SET request_count = request_count + 1;
        INSERT INTO usage_dirty (subscription_meter_id, product_meter_id, key_meter_id, hour, used_at)
        SELECT subscription_meter_id, product_meter_id, key_meter_id, date_trunc('hour', quarter_hour), quarter_hour FROM usage_quarter_hours";
    merging.batch_execute(merge).await.unwrap();
    assert_eq!(roll(&world).await, 1);
    assert_eq!(world.number("SELECT request_count FROM usage_hours").await, 1);
    merging.batch_execute("COMMIT").await.unwrap();
    assert_eq!(roll(&world).await, 1);
    assert_eq!(world.number("SELECT request_count FROM usage_hours").await, 2);
}

#[tokio::test]
async fn what_is_older_than_the_billing_record_is_not_made_anew_from_a_part_of_it() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let old_ms = AT_MS - 700 * DAY_MS;
    count(&world, epoch, 0, &[old_ms, old_ms, AT_MS]).await;
    roll(&world).await;
    world.rows.sql("DELETE FROM usage_quarter_hours WHERE quarter_hour < '2026-01-01'", &[]).await;
    count(&world, epoch, 1, &[old_ms, AT_MS]).await;
    let oldest = oldest_hour(&retention(), Timestamp::from_millisecond(AT_MS).unwrap());
    roll_up(&world.rows.store, oldest).await.unwrap();
    assert_eq!(rolled(&world).await, [4; 6], "two of then stay as they were, and two of now");
    assert_eq!(world.number("SELECT count(*) FROM usage_dirty").await, 0);
}

#[tokio::test]
async fn the_audit_adds_up_and_names_the_day_that_does_not() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let now_ms = Timestamp::now().as_millisecond();
    count(&world, epoch, 0, &[now_ms, now_ms - DAY_MS, now_ms - DAY_MS]).await;
    let differing = "SELECT count(*) FROM usage_audits WHERE NOT is_equal";
    audit(&world.rows.store).await.unwrap();
    assert_eq!(world.number(differing).await, 0, "days may lag while marks are pending");
    assert!(world.number("SELECT sum(pending_marks)::bigint FROM usage_audits").await >= 2);
    roll(&world).await;
    audit(&world.rows.store).await.unwrap();
    let equal = "SELECT sum(batches)::bigint FROM usage_audits WHERE batches = quarter_hours AND quarter_hours = hours
        AND hours = days AND days = products AND pending_marks = 0";
    assert_eq!((world.number(differing).await, world.number(equal).await), (0, 3));

    world
        .rows
        .sql(
            "UPDATE usage_days SET request_count = request_count + 1 WHERE day = (now() AT TIME ZONE 'UTC')::date",
            &[],
        )
        .await;
    audit(&world.rows.store).await.unwrap();
    assert_eq!(world.number(differing).await, 1);
    world.rows.sql("UPDATE usage_quarter_hours SET request_count = request_count + 1 WHERE quarter_hour < now() - interval '20 hours'", &[]).await;
    audit(&world.rows.store).await.unwrap();
    assert_eq!(world.number(differing).await, 2);
    world.rows.sql("UPDATE ingest_watermarks SET events = events + 1", &[]).await;
    let registry = Registry::new();
    MeteringMetrics::register(&registry).unwrap().refresh(&world.rows.store).await.unwrap();
    let gauge = |name: &str| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == format!("control_plane_metering_{name}")).unwrap();
        family.get_metric()[0].get_gauge().get_value()
    };
    assert_eq!((gauge("days_differing"), gauge("epochs_differing"), gauge("pending_rollups")), (2.0, 1.0, 0.0));
    assert_eq!(completeness(&world, Timestamp::now()).await.iter().filter(|kind| *kind == "audit_differs").count(), 2);
}

#[tokio::test]
async fn a_day_is_audited_sooner_or_later() {
    let world = World::start().await;
    for _ in 0..34 {
        audit(&world.rows.store).await.unwrap();
    }
    assert_eq!(world.number("SELECT count(*) FROM usage_audits").await, 36);
}

#[tokio::test]
async fn a_gap_is_visible_and_holds_the_period_back_until_it_is_filled() {
    let world = World::start().await;
    let epoch = Uuid::now_v7();
    let end = Timestamp::from_millisecond(AT_MS).unwrap();
    let told =
        |sequence: u64, low_watermark_ms: i64| wire::UsageBatch { low_watermark_ms, ..batch(epoch, sequence, 1) };
    count_batch(&world, &told(0, AT_MS - 1)).await;
    assert_eq!(completeness(&world, end).await, ["open"]);
    count_batch(&world, &told(2, AT_MS + 1)).await;
    assert_eq!(completeness(&world, end).await, ["gap"], "what came after the gap says nothing yet");
    count_batch(&world, &told(1, AT_MS)).await;
    assert_eq!(completeness(&world, end).await, Vec::<String>::new());
    assert_eq!(completeness(&world, Timestamp::from_millisecond(AT_MS + 2).unwrap()).await, ["open"]);
}

#[tokio::test]
async fn an_epoch_that_ended_in_order_holds_nothing_back_and_one_that_comes_back_does() {
    let world = World::start().await;
    let (epoch, end) = (Uuid::now_v7(), Timestamp::from_millisecond(AT_MS + DAY_MS).unwrap());
    let closing = wire::UsageBatch { closes_epoch: true, ..batch(epoch, 1, 0) };
    count_batch(&world, &closing).await;
    assert_eq!(completeness(&world, end).await, ["gap"], "the last came before the first");
    count(&world, epoch, 0, &[AT_MS]).await;
    assert_eq!(completeness(&world, end).await, Vec::<String>::new());
    count(&world, epoch, 2, &[AT_MS]).await;
    assert_eq!(completeness(&world, end).await, ["open"]);
    world.rows.sql("UPDATE ingest_watermarks SET last_batch_at = now() - interval '10 minutes'", &[]).await;
    assert_eq!(completeness(&world, end).await, ["silent"]);
}

#[tokio::test]
async fn a_gateway_that_never_reported_holds_the_period_back_until_it_is_removed() {
    let world = World::start().await;
    let node = NewNode {
        id: Uuid::from_u128(9),
        name: "gateway-1".into(),
        boot_id: Uuid::now_v7(),
        version: "0.1.0".into(),
        features: Vec::new(),
        address: None,
        served: None,
    };
    register_node(&world.rows.store, &node).await.unwrap();
    let soon = Timestamp::from_millisecond(Timestamp::now().as_millisecond() + HOUR_MS).unwrap();
    assert_eq!(completeness(&world, soon).await, ["never_reported"]);
    let before = Timestamp::from_millisecond(Timestamp::now().as_millisecond() - HOUR_MS).unwrap();
    assert_eq!(completeness(&world, before).await, Vec::<String>::new(), "it was not there then");
    count_batch(&world, &wire::UsageBatch { closes_epoch: true, ..batch(Uuid::now_v7(), 0, 1) }).await;
    assert_eq!(completeness(&world, soon).await, Vec::<String>::new());
}

#[tokio::test]
async fn late_days_get_partitions_of_their_own_and_old_ones_go() {
    let world = World::start().await;
    let now_ms = Timestamp::now().as_millisecond();
    count(
        &world,
        Uuid::now_v7(),
        0,
        &[now_ms - DAY_MS, now_ms - 5 * DAY_MS, now_ms - 20 * DAY_MS, now_ms + 300 * DAY_MS],
    )
    .await;
    let in_default = "SELECT count(*) FROM usage_logs_default";
    assert_eq!(world.number(in_default).await, 3, "yesterday has a partition");
    keep_partitions(&world.rows.store, &retention()).await.unwrap();
    assert_eq!(world.number(in_default).await, 1, "the day that never was stays where it is");
    assert_eq!(world.number("SELECT count(*) FROM usage_logs").await, 4);
    assert_eq!(world.number("SELECT count(*) FROM usage_minutes").await, 3, "twenty days are beyond retention");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_logs'::regclass";
    let before = world.number(partitions).await;
    let short = Retention { usage_log_days: 3, usage_quarter_hour_days: 62, ..retention() };
    keep_partitions(&world.rows.store, &short).await.unwrap();
    assert_eq!(
        (world.number(partitions).await, world.number("SELECT count(*) FROM usage_logs").await),
        (before - 2, 2)
    );
    keep_partitions(&world.rows.store, &short).await.unwrap();
    assert_eq!(world.number(partitions).await, before - 2, "it is done");
}

#[tokio::test]
async fn the_billing_record_stays_while_something_is_to_be_rolled_up_from_it() {
    let world = World::start().await;
    let now_ms = Timestamp::now().as_millisecond();
    let short = Retention { usage_quarter_hour_days: 62, ..retention() };
    count(&world, Uuid::now_v7(), 0, &[now_ms - 200 * DAY_MS]).await;
    keep_partitions(&world.rows.store, &short).await.unwrap();
    let kept = "SELECT count(*) FROM usage_quarter_hours";
    assert_eq!(world.number(kept).await, 1);
    roll(&world).await;
    keep_partitions(&world.rows.store, &short).await.unwrap();
    assert_eq!((world.number(kept).await, rolled(&world).await), (0, [1; 6]));
}
