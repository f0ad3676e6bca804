//! Usage as it is looked at: every view adds up to what happened, and nobody sees what is not his.

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::quotas::Outlook;
use crate::api::fixture::{Shop, add_endpoint, add_plan, ask_database, draft_product, make_key, publish, subscribe};
use crate::domain::plan::QuotaMode;
use crate::domain::subscription::SubscriptionStatus;
use crate::store::analytics::QuotaRow;
use crate::testing::{Answer, App, Client};

/// Who called what.
#[derive(Clone, Copy)]
struct Meters {
    product: i64,
    subscription: i64,
    endpoint: i64,
    plan: i64,
    key: i64,
}

/// One request, or some alike.
#[derive(Clone, Copy)]
struct Called {
    minutes_ago: i64,
    status: i16,
    verdict: &'static str,
    failed_by: Option<&'static str>,
    latency_us: i64,
    times: i64,
}

const GOOD: Called =
    Called { minutes_ago: 60 * 26, status: 200, verdict: "admitted", failed_by: None, latency_us: 1_500, times: 1 };

struct World {
    app: App,
    shop: Shop,
    meters: Meters,
}

impl World {
    async fn start() -> World {
        let app = App::start().await;
        let shop = Shop::open(&app).await;
        let meters = Meters {
            product: meter(&app, "api_products", shop.product).await,
            subscription: meter(&app, "subscriptions", shop.subscription).await,
            endpoint: meter(&app, "endpoints", shop.endpoint).await,
            plan: meter(&app, "plans", shop.plan).await,
            key: meter(&app, "api_keys", shop.key).await,
        };
        World { app, shop, meters }
    }

    async fn sql(&self, sql: &str) {
        let client = self.app.state.store.connection().await.unwrap();
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn happened(&self, meters: Meters, called: Called) {
        let Meters { product, subscription, endpoint, plan, key } = meters;
        let Called { minutes_ago, status, verdict, failed_by, latency_us, times } = called;
        let failed_by = failed_by.map_or("NULL".to_owned(), |who| format!("'{who}'"));
        let (epoch, is_contacted) = (Uuid::now_v7(), verdict == "admitted");
        let is_billable = is_contacted && (200..300).contains(&status);
        self.sql(&format!(
            "INSERT INTO usage_logs (node_id, epoch, seq, ordinal, occurred_at, request_id, key_meter_id, subscription_meter_id,
                product_meter_id, endpoint_meter_id, plan_meter_id, method, status, verdict, failed_by, request_bytes,
                response_bytes, latency_us, upstream_latency_us, upstream_contacted, billable)
            SELECT '{epoch}', '{epoch}', 0, n, date_trunc('minute', now()) - interval '{minutes_ago} minutes' + n * interval '1 ms',
                gen_random_uuid(), {key}, {subscription}, {product}, {endpoint}, {plan}, 'GET', {status}, '{verdict}', {failed_by},
                10, 100, {latency_us}, CASE WHEN {is_contacted} THEN {latency_us} / 2 END, {is_contacted}, {is_billable}
            FROM generate_series(1, {times}) n"
        ))
        .await;
    }

    /// Makes the rollups of what has happened, as the metering does.
    async fn roll_up(&self) {
        let counts = "count(*), count(*) FILTER (WHERE verdict = 'admitted'),
            count(*) FILTER (WHERE verdict = 'admitted' AND failed_by IN ('gateway', 'upstream')), count(*) FILTER (WHERE status = 429),
            count(*) FILTER (WHERE verdict = 'payment_required'), count(*) FILTER (WHERE billable), sum(request_bytes), sum(response_bytes), sum(latency_us),
            coalesce(sum(upstream_latency_us), 0)";
        let columns =
            "request_count, admitted_count, failed_count, limited_count, unpaid_count, billable_count, request_bytes, response_bytes,
            latency_us_sum, upstream_latency_us_sum";
        let buckets: Vec<String> =
            (1..=20).map(|n| format!("count(*) FILTER (WHERE latency_bucket(latency_us) = {n})")).collect();
        let grains = [
            ("minutes", "minute", "date_trunc('minute', occurred_at)"),
            (
                "quarter_hours",
                "quarter_hour",
                "date_bin('15 minutes', occurred_at, timestamptz '2000-01-01 00:00:00+00')",
            ),
            ("hours", "hour", "date_trunc('hour', occurred_at, 'UTC')"),
            ("days", "day", "(occurred_at AT TIME ZONE 'UTC')::date"),
        ];
        for (grain, time, value) in grains {
            self.sql(&format!(
                "TRUNCATE usage_{grain}, usage_product_{grain};
                INSERT INTO usage_{grain} ({time}, subscription_meter_id, key_meter_id, plan_meter_id, endpoint_meter_id, status_class,
                    product_meter_id, {columns})
                SELECT {value}, subscription_meter_id, key_meter_id, plan_meter_id, endpoint_meter_id, status / 100, product_meter_id,
                    {counts} FROM usage_logs GROUP BY 1, 2, 3, 4, 5, 6, 7;
                INSERT INTO usage_product_{grain} ({time}, product_meter_id, endpoint_meter_id, plan_meter_id, status_class, {columns},
                    latency_histogram)
                SELECT {value}, product_meter_id, endpoint_meter_id, plan_meter_id, status / 100, {counts}, ARRAY[{}]
                FROM usage_logs GROUP BY 1, 2, 3, 4, 5",
                buckets.join(", ")
            ))
            .await;
        }
        self.sql(&format!(
            "TRUNCATE usage_subscription_days, usage_subscription_weeks;
            INSERT INTO usage_subscription_days (day, product_meter_id, subscription_meter_id, {columns}, client_error_count,
                server_error_count)
            SELECT (occurred_at AT TIME ZONE 'UTC')::date, product_meter_id, subscription_meter_id, {counts},
                count(*) FILTER (WHERE status / 100 = 4), count(*) FILTER (WHERE status / 100 = 5)
            FROM usage_logs GROUP BY 1, 2, 3"
        ))
        .await;
    }

    /// A second publisher with a product, and a second consumer of the first product.
    async fn others(&self) -> (Client, Meters, Client, Meters) {
        let (olga, dora) = (self.app.user("olga").await, self.app.user("dora").await);
        let product = draft_product(&olga, "maps", serde_json::json!({})).await;
        let endpoint = add_endpoint(&olga, product, "GET", "/tiles").await;
        let plan = add_plan(&olga, product, "free", serde_json::json!({})).await;
        publish(&olga, product).await;
        let subscription = subscribe(&self.shop.consumer, plan).await;
        let (key, _) = make_key(&self.shop.consumer, subscription, "maps").await;
        let app = &self.app;
        let maps = Meters {
            product: meter(app, "api_products", product).await,
            subscription: meter(app, "subscriptions", subscription).await,
            endpoint: meter(app, "endpoints", endpoint).await,
            plan: meter(app, "plans", plan).await,
            key: meter(app, "api_keys", key).await,
        };
        let subscription = subscribe(&dora, self.shop.plan).await;
        let (key, _) = make_key(&dora, subscription, "doras").await;
        let weather = Meters {
            subscription: meter(app, "subscriptions", subscription).await,
            key: meter(app, "api_keys", key).await,
            ..self.meters
        };
        (olga, maps, dora, weather)
    }

    fn publishers(&self, rest: &str) -> String {
        let separator = if rest.contains('?') { '&' } else { '?' };
        format!("/v1/organizations/{}/analytics/{rest}{separator}side=publisher", self.shop.publisher_organization)
    }

    fn consumers(&self, rest: &str) -> String {
        format!("/v1/organizations/{}/analytics/{rest}", self.shop.consumer_organization)
    }
}

async fn meter(app: &App, table: &str, id: Uuid) -> i64 {
    ask_database(app, &format!("SELECT meter_id FROM {table} WHERE id = '{id}'")).await
}

async fn get(client: &Client, path: &str) -> Answer {
    client.get(path).await.expect(StatusCode::OK)
}

fn three_days_ago() -> String {
    (Timestamp::now() - SignedDuration::from_hours(72)).to_string()
}

/// Sums of a chart's single series: requests, admitted, rate limited, forbidden, errors, bytes out.
fn totals(answer: &Answer) -> [i64; 6] {
    let series = answer.json["series"].as_array().unwrap();
    ["requests", "admitted", "rate_limited", "forbidden", "errors", "response_bytes"].map(|name| {
        let of_points: i64 = series
            .iter()
            .flat_map(|series| series["points"].as_array().unwrap())
            .map(|point| point[name].as_i64().unwrap())
            .sum();
        let total: i64 = series.iter().map(|series| series["total"][name].as_i64().unwrap()).sum();
        assert_eq!(of_points, total, "{name}");
        total
    })
}

fn labels(answer: &Answer, list: &str) -> Vec<(String, i64)> {
    let rows = answer.json[list].as_array().unwrap();
    let number = |row: &Value| row["total"]["requests"].as_i64().or(row["requests"].as_i64()).unwrap();
    rows.iter().map(|row| (row["group"]["label"].as_str().unwrap().to_owned(), number(row))).collect()
}

/// Something of every kind, long ago and just now.
async fn a_day_of_usage(world: &World, meters: Meters) {
    let refused = |status, verdict| Called { status, verdict, latency_us: 200, ..GOOD };
    for called in [
        Called { times: 20, ..GOOD },
        Called { minutes_ago: 60 * 50, times: 5, ..GOOD },
        Called { minutes_ago: 5, times: 7, ..GOOD },
        Called { minutes_ago: 95, times: 3, latency_us: 30_000, ..GOOD },
        Called { times: 4, ..refused(429, "rate_limited") },
        Called { times: 1, ..refused(429, "quota_exceeded") },
        Called { times: 2, ..refused(402, "payment_required") },
        Called { times: 3, ..refused(403, "forbidden") },
        Called { status: 502, failed_by: Some("upstream"), times: 2, ..GOOD },
        Called { status: 499, failed_by: Some("client"), times: 1, ..GOOD },
    ] {
        world.happened(meters, called).await;
    }
}

const A_DAY: [i64; 6] = [48, 38, 5, 3, 2, 4_800];

#[tokio::test]
async fn every_step_and_every_side_adds_up_to_what_happened() {
    let world = World::start().await;
    a_day_of_usage(&world, world.meters).await;
    world.roll_up().await;
    let operator = world.app.admin("root").await;
    let (shop, from) = (&world.shop, three_days_ago());
    for step in ["quarter_hour", "hour", "day"] {
        for zone in ["UTC", "Europe/Berlin", "Asia/Kolkata"] {
            let query = format!("series?from={from}&step={step}&time_zone={zone}");
            for (client, path) in [
                (&shop.publisher, world.publishers(&query)),
                (&shop.consumer, world.consumers(&query)),
                (&operator, world.publishers(&query)),
                (&operator, format!("/v1/analytics/{query}")),
            ] {
                let answer = get(client, &path).await;
                assert_eq!(totals(&answer), A_DAY, "{path}");
                assert_eq!(answer.json["time_zone"], zone);
            }
            for group in ["product", "endpoint", "plan", "subscription", "status_class"] {
                let path = world.publishers(&format!("{query}&group_by={group}"));
                assert_eq!(totals(&get(&shop.publisher, &path).await), A_DAY, "{path}");
                let path = world.consumers(&format!("{query}&group_by={group}"));
                assert_eq!(totals(&get(&shop.consumer, &path).await), A_DAY, "{path}");
            }
        }
    }
    let minutes = get(&shop.publisher, &world.publishers("series?step=minute")).await;
    assert_eq!(totals(&minutes)[0], 10, "the last day alone");
    assert!(minutes.json["series"][0]["points"].as_array().unwrap().len() >= 24 * 60, "every step is there");
    let by_key = get(&shop.consumer, &world.consumers(&format!("series?from={from}&group_by=key"))).await;
    assert!(labels(&by_key, "series")[0].0.starts_with("production (hub_live_"), "{}", by_key.text);
    let classes = get(&shop.publisher, &world.publishers(&format!("series?from={from}&group_by=status_class"))).await;
    assert_eq!(labels(&classes, "series"), [("2xx", 35), ("4xx", 11), ("5xx", 2)].map(|(l, n)| (l.to_owned(), n)));
}

#[tokio::test]
async fn percentiles_come_from_histograms_by_product_and_from_the_log_by_subscription() {
    let world = World::start().await;
    world.happened(world.meters, Called { times: 95, ..GOOD }).await;
    world.happened(world.meters, Called { times: 5, latency_us: 30_000, ..GOOD }).await;
    world.happened(world.meters, Called { minutes_ago: 60, status: 500, times: 10, latency_us: 200, ..GOOD }).await;
    world.roll_up().await;
    let from = three_days_ago();
    let of = |total: &Value, name: &str| total[name].as_f64().unwrap_or_else(|| panic!("{name}: {total}"));
    let good = format!("series?from={from}&status_class=2xx");
    for (client, path) in [
        (&world.shop.publisher, world.publishers(&format!("{good}&step=day"))),
        (
            &world.shop.publisher,
            world.publishers(&format!("{good}&step=hour&subscription_id={}", world.shop.subscription)),
        ),
        (&world.shop.publisher, world.publishers(&format!("{good}&step=day&group_by=subscription"))),
        (&world.shop.consumer, world.consumers(&format!("{good}&step=day&time_zone=Asia/Kolkata"))),
        (&world.shop.consumer, world.consumers(&format!("{good}&step=quarter_hour&group_by=key"))),
        (&world.shop.consumer, world.consumers(&format!("{good}&step=hour&group_by=endpoint"))),
    ] {
        let answer = get(client, &path).await;
        let total = &answer.json["series"][0]["total"];
        assert!((1.0..=2.0).contains(&of(total, "latency_p50_ms")), "{path}: {total}");
        assert!((1.0..=2.0).contains(&of(total, "latency_p90_ms")), "{path}: {total}");
        assert!((16.0..=32.0).contains(&of(total, "latency_p99_ms")), "{path}: {total}");
        assert!((of(total, "latency_mean_ms") - 2.925).abs() < 0.001, "{path}: {total}");
        assert!((of(total, "upstream_latency_mean_ms") - 1.463).abs() < 0.001, "{path}: {total}");
        assert_eq!(of(total, "error_ratio"), 0.0);
    }
    let classes = world.consumers(&format!("series?from={from}&step=hour&group_by=status_class"));
    let classes = get(&world.shop.consumer, &classes).await;
    assert!(of(&classes.json["series"][1]["total"], "latency_p99_ms") < 1.0, "{}", classes.text);
    // A step without a request has no percentile.
    assert!(classes.json["series"][0]["points"][0]["latency_p99_ms"].is_null());
}

#[tokio::test]
async fn refusals_as_unpaid_and_as_forbidden_are_told_apart_everywhere() {
    let world = World::start().await;
    let refused = |status, verdict, times| Called { status, verdict, times, ..GOOD };
    world.happened(world.meters, refused(402, "payment_required", 7)).await;
    world.happened(world.meters, refused(403, "forbidden", 3)).await;
    world.happened(world.meters, refused(429, "quota_exceeded", 2)).await;
    world.roll_up().await;
    let (shop, from) = (&world.shop, three_days_ago());
    let series = |step: &str| format!("series?from={from}&step={step}");
    let mut totals = Vec::new();
    for step in ["quarter_hour", "hour", "day"] {
        let chart = get(&shop.publisher, &world.publishers(&series(step))).await;
        totals.push(chart.json["series"][0]["total"].clone());
        let chart = get(&shop.consumer, &world.consumers(&series(step))).await;
        totals.push(chart.json["series"][0]["total"].clone());
    }
    let top = get(&shop.publisher, &world.publishers(&format!("top?from={from}&group_by=subscription"))).await;
    totals.push(top.json["data"][0].clone());
    for total in totals {
        let of = ["requests", "payment_required", "forbidden", "rate_limited"].map(|name| total[name].as_i64());
        assert_eq!(of, [Some(12), Some(7), Some(3), Some(2)], "{total}");
    }
    let csv = get(&shop.consumer, &world.consumers(&format!("{}&format=csv", series("day")))).await;
    assert!(csv.text.lines().next().unwrap().contains(",rate_limited,payment_required,forbidden,"), "{}", csv.text);
    assert!(csv.text.contains(",2,7,3,"), "{}", csv.text);
}

#[tokio::test]
async fn the_largest_stand_for_themselves_and_the_rest_is_the_rest() {
    let world = World::start().await;
    let (_, _, _, doras) = world.others().await;
    world.happened(world.meters, Called { times: 30, ..GOOD }).await;
    world.happened(doras, Called { times: 10, latency_us: 90_000, ..GOOD }).await;
    world.happened(doras, Called { times: 4, status: 500, ..GOOD }).await;
    world.roll_up().await;
    let (publisher, from) = (&world.shop.publisher, three_days_ago());
    for step in ["day", "hour"] {
        let path = world.publishers(&format!("series?from={from}&step={step}&group_by=subscription&groups=1"));
        let answer = get(publisher, &path).await;
        let wanted = [("carl · weather", 30), ("rest", 14)].map(|(label, n)| (label.to_owned(), n));
        assert_eq!(labels(&answer, "series"), wanted, "{step}");
        assert_eq!(answer.json["series"][1]["group"]["is_rest"], true);
    }
    let exact =
        get(publisher, &world.publishers(&format!("series?from={from}&group_by=subscription&status_class=5xx"))).await;
    assert_eq!(labels(&exact, "series"), [("dora · weather".to_owned(), 4)]);
    for (by, wanted) in [("requests", "carl"), ("errors", "dora"), ("latency", "dora"), ("bytes", "carl")] {
        for range in [format!("from={from}"), format!("from={}", Timestamp::now() - SignedDuration::from_hours(40))] {
            let path = world.publishers(&format!("top?group_by=subscription&by={by}&{range}"));
            let list = labels(&get(publisher, &path).await, "data");
            assert_eq!((list.len(), list[0].0.as_str()), (2, format!("{wanted} · weather").as_str()), "{path}");
        }
    }
    let top = get(publisher, &world.publishers(&format!("top?from={from}&limit=1"))).await;
    assert_eq!(labels(&top, "data"), [("GET /forecast/{city}".to_owned(), 44)]);
    assert_eq!(top.json["group_by"], "endpoint");
}

#[tokio::test]
async fn nobody_sees_what_is_not_his() {
    let world = World::start().await;
    let (olga, maps, dora, doras) = world.others().await;
    world.happened(world.meters, Called { times: 1, ..GOOD }).await;
    world.happened(maps, Called { times: 10, ..GOOD }).await;
    world.happened(doras, Called { times: 100, ..GOOD }).await;
    world.roll_up().await;
    let (shop, from) = (&world.shop, three_days_ago());
    let of = |client: &Client, side: &str, rest: &str| {
        format!("/v1/organizations/{}/analytics/{rest}from={from}&side={side}", client.organization_id)
    };
    let sees = async |client: &Client, side: &str, rest: &str| {
        let chart = totals(&get(client, &of(client, side, &format!("series?{rest}"))).await)[0];
        let log = get(client, &of(client, side, &format!("requests?limit=100&{rest}"))).await;
        let top = get(client, &of(client, side, &format!("top?group_by=product&{rest}"))).await;
        let listed: i64 = labels(&top, "data").iter().map(|(_, requests)| requests).sum();
        assert_eq!(chart, listed, "{side} {rest}");
        let logged = i64::try_from(log.json["data"].as_array().unwrap().len()).unwrap();
        assert_eq!(chart.min(100), logged, "{side} {rest}");
        chart
    };
    assert_eq!(sees(&shop.publisher, "publisher", "").await, 101, "his product, whoever called");
    assert_eq!(sees(&shop.publisher, "consumer", "").await, 0);
    assert_eq!(sees(&olga, "publisher", "").await, 10);
    assert_eq!(sees(&shop.consumer, "consumer", "").await, 11, "what he called, whosever it is");
    assert_eq!(sees(&shop.consumer, "publisher", "").await, 0);
    assert_eq!(sees(&dora, "consumer", "").await, 100);
    // Filters narrow what one sees, and never widen it.
    assert_eq!(sees(&olga, "publisher", &format!("product_id={}&", shop.product)).await, 0);
    assert_eq!(sees(&olga, "publisher", &format!("subscription_id={}&", shop.subscription)).await, 0);
    assert_eq!(sees(&dora, "consumer", &format!("subscription_id={}&", shop.subscription)).await, 0);
    assert_eq!(sees(&dora, "consumer", &format!("key_id={}&", shop.key)).await, 0);
    assert_eq!(sees(&shop.publisher, "publisher", &format!("subscription_id={}&", shop.subscription)).await, 1);
    assert_eq!(sees(&shop.consumer, "consumer", &format!("key_id={}&", shop.key)).await, 1);
    // A publisher learns no key, neither by asking nor by looking.
    for rest in
        [format!("series?key_id={}&", shop.key), "series?group_by=key&".to_owned(), "top?group_by=key&".to_owned()]
    {
        let refused = shop.publisher.get(&of(&shop.publisher, "publisher", &rest)).await;
        refused.expect_problem(422, "validation_failed");
    }
    let log = get(&shop.publisher, &of(&shop.publisher, "publisher", "requests?")).await;
    assert!(!log.text.contains("key_id") && !log.text.contains("hub_live"), "{}", log.text);
    let csv = get(&shop.publisher, &of(&shop.publisher, "publisher", "requests?format=csv&")).await;
    assert!(!csv.text.contains("hub_live"), "{}", csv.text);
    // The platform is for operators.
    for path in ["series", "top", "quotas", "requests"] {
        shop.publisher.get(&format!("/v1/analytics/{path}")).await.expect_problem(403, "forbidden");
        let organization = format!("/v1/organizations/{}/analytics/{path}", shop.publisher_organization);
        olga.get(&organization).await.expect_problem(404, "not_found");
    }
    let operator = world.app.admin("root").await;
    let all = get(&operator, &format!("/v1/analytics/series?from={from}")).await;
    assert_eq!(totals(&all)[0], 111);
    let log = get(&operator, &format!("/v1/analytics/requests?from={from}&limit=3")).await;
    assert_eq!(log.json["data"].as_array().unwrap().len(), 3);
    assert!(log.json["data"][0]["key_id"].is_string());
    let missing = format!("/v1/organizations/{}/analytics/series", Uuid::now_v7());
    operator.get(&missing).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_the_mend() {
    let world = World::start().await;
    let (publisher, long_ago) = (&world.shop.publisher, Timestamp::now() - SignedDuration::from_hours(24 * 100));
    let refuse = async |rest: &str, pointer: &str, mend: &str| {
        let answer = publisher.get(&world.publishers(rest)).await.expect_problem(422, "validation_failed");
        let fault = &answer.json["errors"][0];
        assert_eq!(fault["pointer"], pointer, "{rest}: {}", answer.text);
        assert!(fault["mend"].as_str().unwrap_or_default().contains(mend), "{rest}: {}", answer.text);
    };
    refuse("series?colour=red", "/colour", "expected").await;
    refuse(&format!("series?from={long_ago}&step=hour"), "/step", "`day`").await;
    refuse(
        &format!("series?from={}&step=minute", Timestamp::now() - SignedDuration::from_hours(72)),
        "/step",
        "quarter_hour",
    )
    .await;
    refuse(&format!("series?from={long_ago}&step=minute"), "/step", "quarter_hour").await;
    refuse("series?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "/from", "earlier").await;
    refuse("series?from=1990-01-02T00:00:00Z", "/from", "less").await;
    refuse("series?time_zone=Mars/Olympus", "/time_zone", "IANA").await;
    refuse("series?step=second", "/step", "minute").await;
    refuse("series?status_class=6xx", "/status_class", "").await;
    refuse("series?group_by=endpoint&groups=20&step=minute", "/groups", "fewer groups").await;
    refuse("top?by=colour", "/by", "requests").await;
    refuse("top?limit=101", "/limit", "1 to 100").await;
    refuse("requests?status=99", "/status", "").await;
    refuse("requests?verdict=liked", "/verdict", "proxied").await;
    refuse("quotas?from=2026-01-01T00:00:00Z", "/from", "").await;
    let operator = world.app.admin("root").await;
    for (rest, pointer) in [
        ("side=publisher", "/side"),
        ("group_by=key", "/group_by"),
        ("key_id=00000000-0000-0000-0000-000000000000", "/key_id"),
    ] {
        let answer =
            operator.get(&format!("/v1/analytics/series?{rest}")).await.expect_problem(422, "validation_failed");
        assert_eq!(answer.pointers(), [pointer]);
    }
}

#[tokio::test]
async fn the_log_is_paged_filtered_and_found_by_request_id() {
    let world = World::start().await;
    a_day_of_usage(&world, world.meters).await;
    let (shop, from) = (&world.shop, three_days_ago());
    let mut seen: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(&shop.consumer, &world.consumers(&format!("requests?from={from}&limit=7{cursor}"))).await;
        seen.extend(page.json["data"].as_array().unwrap().iter().cloned());
        let Some(next) = page.json["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 48);
    let time = |row: &Value| row["at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(seen.windows(2).all(|pair| time(&pair[0]) >= time(&pair[1])), "newest first");
    let ids: std::collections::HashSet<_> = seen.iter().map(|row| row["request_id"].to_string()).collect();
    assert_eq!(ids.len(), 48, "each once");
    let count = async |rest: &str| {
        let path = world.publishers(&format!("requests?from={from}&limit=100&{rest}"));
        get(&shop.publisher, &path).await.json["data"].as_array().unwrap().len()
    };
    for (rest, wanted) in [
        ("verdict=proxied", 35),
        ("verdict=client_gone", 1),
        ("verdict=upstream_error", 2),
        ("verdict=rate_limited", 4),
        ("verdict=quota_exceeded", 1),
        ("verdict=payment_required", 2),
        ("verdict=forbidden", 3),
        ("status=429", 5),
        ("status_class=5xx", 2),
        (&format!("product_id={}", shop.product), 48),
        (&format!("endpoint_id={}", shop.endpoint), 48),
        (&format!("plan_id={}", shop.plan), 48),
        (&format!("product_id={}", Uuid::now_v7()), 0),
    ] {
        assert_eq!(count(rest).await, wanted, "{rest}");
    }
    // One that is older than the last day is found by its id alone.
    let oldest = seen.last().unwrap();
    let by_id = |rest: &str| format!("requests?request_id={}{rest}", oldest["request_id"].as_str().unwrap());
    let found = get(&shop.consumer, &world.consumers(&by_id(""))).await;
    assert_eq!(found.json["data"][0], *oldest);
    assert_eq!(oldest["endpoint"], "/forecast/{city}");
    assert_eq!(
        (oldest["consumer"].as_str(), oldest["key_id"].as_str()),
        (Some("carl"), Some(shop.key.to_string().as_str()))
    );
    let (olga, ..) = world.others().await;
    let foreign = format!("/v1/organizations/{}/analytics/{}", olga.organization_id, by_id("&side=publisher"));
    assert_eq!(get(&olga, &foreign).await.json["data"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn exports_hold_every_row_once_and_no_formula() {
    let world = World::start().await;
    let shop = &world.shop;
    shop.publisher.patch(&format!("/v1/plans/{}", shop.plan), serde_json::json!({"name": "=HYPERLINK(\"x\")"})).await;
    world.happened(world.meters, Called { times: 2_500, ..GOOD }).await;
    world.roll_up().await;
    let from = three_days_ago();
    let csv = get(&shop.consumer, &world.consumers(&format!("requests?from={from}&format=csv"))).await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    assert!(csv.header("content-disposition").contains("requests.csv"));
    let lines: Vec<&str> = csv.text.split("\r\n").collect();
    assert_eq!(lines.len(), 2_502, "a head, the rows, and the end of the last line");
    let ids: std::collections::HashSet<_> = lines[1..2_501].iter().map(|line| line.split(',').nth(1)).collect();
    assert_eq!(ids.len(), 2_500);
    assert!(lines[1].contains("\"'=HYPERLINK(\"\"x\"\")\""), "{}", lines[1]);
    let series =
        get(&shop.publisher, &world.publishers(&format!("series?from={from}&step=day&group_by=plan&format=csv"))).await;
    assert!(series.text.starts_with("at,group_id,group,requests,"), "{}", series.text);
    assert!(series.text.contains(",\"'=HYPERLINK(\"\"x\"\") v1\",2500,"), "{}", series.text);
}

#[tokio::test]
async fn quota_counts_live_keys_of_the_period_that_runs() {
    let world = World::start().await;
    let shop = &world.shop;
    let body = serde_json::json!({"name": "trying", "environment": "test"});
    let test_key = shop.consumer.post(&format!("/v1/subscriptions/{}/keys", shop.subscription), body).await;
    let test_key = meter(&world.app, "api_keys", test_key.expect(StatusCode::CREATED).id()).await;
    // A period of ten days that began at an odd hour, four and a half days ago.
    world
        .sql(&format!(
            "DELETE FROM billing_months;
            UPDATE subscriptions SET period_start = date_trunc('hour', now()) - interval '4 days 13 hours',
                period_end = date_trunc('hour', now()) + interval '5 days 11 hours' WHERE id = '{}'",
            shop.subscription
        ))
        .await;
    let ago = |hours: i64, times: i64| Called { minutes_ago: hours * 60, times, ..GOOD };
    for (hours, times) in [(0, 1), (23, 10), (30, 100), (60, 200), (100, 400), (107, 800), (111, 1_000)] {
        world.happened(world.meters, ago(hours, times)).await;
    }
    world.happened(world.meters, Called { status: 502, failed_by: Some("gateway"), ..ago(50, 30) }).await;
    world.happened(world.meters, Called { status: 429, verdict: "rate_limited", ..ago(50, 40) }).await;
    world.happened(Meters { key: test_key, ..world.meters }, ago(60, 25)).await;
    world.roll_up().await;
    let answer = get(&shop.consumer, &world.consumers("quotas")).await;
    let quota = &answer.json["data"][0];
    assert_eq!((quota["used"].as_i64(), quota["used_by_test_keys"].as_i64()), (Some(1_511), Some(25)), "{quota}");
    assert!(quota["included_requests"].is_null() && quota["remaining"].is_null());
    let projected = quota["projected"].as_i64().unwrap();
    assert!((3_250..3_350).contains(&projected), "{projected}");
    let publishers = get(&shop.publisher, &world.publishers("quotas")).await;
    assert_eq!(publishers.json["data"][0], *quota);
    assert_eq!(get(&shop.publisher, &world.publishers("quotas?limit=1")).await.json["next_cursor"], Value::Null);
}

#[test]
fn an_outlook_goes_on_as_until_now() {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let row = |now: &str, used: i64, included: Option<i64>| QuotaRow {
        id: Uuid::nil(),
        created_at: time("2026-01-01T00:00:00Z"),
        status: SubscriptionStatus::Active,
        product_id: Uuid::nil(),
        product_name: String::new(),
        plan_id: Uuid::nil(),
        plan_name: String::new(),
        organization_id: Uuid::nil(),
        organization_name: String::new(),
        included_requests: included,
        quota_mode: QuotaMode::Hard,
        period_start: time("2026-11-01T00:00:00Z"),
        period_end: time("2026-12-01T00:00:00Z"),
        used,
        used_by_test_keys: 0,
        now: time(now),
    };
    let tenth = Outlook::of(&row("2026-11-04T00:00:00Z", 500, Some(1_000)));
    assert_eq!((tenth.projected, tenth.exhausted_at), (Some(5_000), Some(time("2026-11-07T00:00:00Z"))));
    assert_eq!(Outlook::of(&row("2026-11-04T00:00:00Z", 50, Some(1_000))).exhausted_at, None, "it lasts");
    assert_eq!(Outlook::of(&row("2026-11-04T00:00:00Z", 1_000, Some(1_000))).exhausted_at, None, "it is used up");
    assert_eq!(Outlook::of(&row("2026-11-01T00:30:00Z", 50, Some(1_000))), Outlook::default(), "too early to say");
    assert_eq!(Outlook::of(&row("2026-12-05T00:00:00Z", 900, Some(1_000))).projected, Some(900), "the period is over");
}
