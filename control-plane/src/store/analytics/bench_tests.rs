//! How long charts and lists take over thirty days of 10,000 subscriptions: made by generate_series, read as REST reads
//! them, with the plans on demand. Not part of the usual tests: `cargo test -p apihub-control-plane --lib thirty_days --
//! --ignored --nocapture` (a minute or two).

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{LogFilter, SeriesAsk, TopAsk, list_cells, list_quotas, list_requests, list_top, name_groups};
use crate::domain::analytics::{Filter, GroupBy, Scope, Step, TopBy, Window, Zone};
use crate::publish::builder::testing_rows::Rows;
use crate::store::StoreError;

/// What every question must be answered within.
const BOUND: Duration = Duration::from_millis(100);
/// How often each is asked; the median counts.
const ROUNDS: usize = 21;
const SUBSCRIPTIONS: i64 = 10_000;
const PRODUCTS: i64 = 10;

const COUNTS: &str = "request_count, admitted_count, failed_count, limited_count, billable_count, request_bytes, response_bytes, \
    latency_us_sum, upstream_latency_us_sum";
/// So many requests in each cell, out of `n`, and what follows from it.
const COUNTED: &str = "n, n, 0, 0, n, n * 100, n * 1000, n * 5000, n * 4000";
const HISTOGRAM: &str = "ARRAY[0, 0, n / 2, n / 4, n / 8, n / 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]::bigint[]";

struct World {
    rows: Rows,
    publisher: Uuid,
    consumer: Uuid,
    subscription: Uuid,
    now: Timestamp,
}

/// Ten products of one publisher, a thousand subscriptions each, two endpoints, two status classes; every one is called
/// every hour.
async fn thirty_days() -> World {
    let rows = Rows::start().await;
    let (publisher, now) = (Uuid::now_v7(), Timestamp::now());
    let user = rows.user;
    rows.client
        .batch_execute(&format!(
            "INSERT INTO organizations (id, slug, name) VALUES ('{publisher}', 'publisher', 'Publisher');
            INSERT INTO organizations (id, slug, name)
                SELECT gen_random_uuid(), 'consumer-' || n, 'Consumer ' || n FROM generate_series(1, {SUBSCRIPTIONS}) n;
            INSERT INTO api_products (id, organization_id, slug, name)
                SELECT gen_random_uuid(), '{publisher}', 'product-' || n, 'Product ' || n FROM generate_series(1, {PRODUCTS}) n;
            INSERT INTO endpoints (id, product_id, method, path_pattern, target_url)
                SELECT gen_random_uuid(), p.id, 'GET', '/' || n, 'https://api.example.com/' FROM api_products p, generate_series(1, 2) n;
            BEGIN;
            INSERT INTO plans (id, product_id, family_id, slug, name, price, currency, rate_limit, included_requests)
                SELECT p.id, p.id, gen_random_uuid(), 'basic', 'Basic', 1, 'EUR', 60, 100000 FROM api_products p;
            INSERT INTO rate_limit_policies (id, plan_id, requests_per_minute, burst_limit)
                SELECT gen_random_uuid(), id, 60, 6 FROM plans;
            COMMIT;
            INSERT INTO subscriptions (id, product_id, plan_id, user_id, organization_id, status, activated_at, period_start, period_end)
                SELECT gen_random_uuid(), p.id, p.id, '{user}', o.id, 'active', now(), date_trunc('day', now()) - interval '29 days',
                    date_trunc('day', now()) + interval '2 days'
                FROM (SELECT id, row_number() OVER (ORDER BY slug) AS n FROM organizations WHERE slug LIKE 'consumer-%') o
                JOIN (SELECT id, row_number() OVER (ORDER BY slug) AS n FROM api_products) p ON p.n = o.n % {PRODUCTS} + 1;
            INSERT INTO api_keys (id, subscription_id, name, key_digest, prefix, last_four, environment, created_by)
                SELECT gen_random_uuid(), s.id, 'key', sha256(s.id::text::bytea), 'hub_live', 'abcd', 'live', '{user}' FROM subscriptions s;
            CREATE TABLE bench_cells AS
                SELECT s.meter_id AS subscription_meter_id, p.meter_id AS product_meter_id, n.meter_id AS plan_meter_id,
                    e.meter_id AS endpoint_meter_id, k.meter_id AS key_meter_id, c.class AS status_class
                FROM subscriptions s JOIN api_products p ON p.id = s.product_id JOIN plans n ON n.id = s.plan_id
                JOIN endpoints e ON e.product_id = p.id JOIN api_keys k ON k.subscription_id = s.id
                CROSS JOIN (VALUES (2::smallint), (5::smallint)) AS c (class);
            SELECT ensure_usage_partitions((now() AT TIME ZONE 'UTC')::date - 31, 33);"
        ))
        .await
        .unwrap();
    fill(&rows).await;
    let row = rows.client.query_one("SELECT id, organization_id FROM subscriptions ORDER BY meter_id LIMIT 1", &[]);
    let row = row.await.unwrap();
    World { publisher, consumer: row.get(1), subscription: row.get(0), now, rows }
}

async fn fill(rows: &Rows) {
    let all = "subscription_meter_id, key_meter_id, plan_meter_id, endpoint_meter_id, status_class, product_meter_id";
    let by_product = "product_meter_id, endpoint_meter_id, plan_meter_id, status_class";
    let day = "(now() AT TIME ZONE 'UTC')::date - d";
    let days = "generate_series(0, 30) d";
    // Of every hundredth subscription the finer rollups too: a chart of a single one reads no other.
    let few = "(SELECT * FROM bench_cells WHERE subscription_meter_id % 100 = 1) b";
    let hour = "date_trunc('hour', now()) - h * interval '1 hour'";
    let quarter = "date_trunc('hour', now()) - h * interval '15 minutes'";
    let products = format!("(SELECT DISTINCT {by_product} FROM bench_cells) b");
    for sql in [
        format!(
            "INSERT INTO usage_days (day, {all}, {COUNTS}) SELECT {day}, {all}, {COUNTED}
            FROM {days}, bench_cells b, LATERAL (SELECT 24 * (1 + (b.subscription_meter_id + d) % 50) AS n) x"
        ),
        format!(
            "INSERT INTO usage_subscription_days (day, product_meter_id, subscription_meter_id, {COUNTS}, client_error_count,
                server_error_count)
            SELECT {day}, product_meter_id, subscription_meter_id, {COUNTED}, 0, n / 2 FROM {days},
                (SELECT DISTINCT product_meter_id, subscription_meter_id FROM bench_cells) b,
                LATERAL (SELECT 96 * (1 + (b.subscription_meter_id + d) % 50) AS n) x"
        ),
        format!(
            "INSERT INTO usage_product_days (day, {by_product}, {COUNTS}, latency_histogram)
            SELECT {day}, {by_product}, {COUNTED}, {HISTOGRAM} FROM {days}, {products}, LATERAL (SELECT 600000::bigint AS n) x"
        ),
        format!(
            "INSERT INTO usage_product_hours (hour, {by_product}, {COUNTS}, latency_histogram)
            SELECT {hour}, {by_product}, {COUNTED}, {HISTOGRAM} FROM generate_series(0, 744) h, {products},
                LATERAL (SELECT 25000::bigint AS n) x"
        ),
        format!(
            "INSERT INTO usage_product_quarter_hours (quarter_hour, {by_product}, {COUNTS}, latency_histogram)
            SELECT {quarter}, {by_product}, {COUNTED}, {HISTOGRAM} FROM generate_series(-4, 2976) h, {products},
                LATERAL (SELECT 6000::bigint AS n) x"
        ),
        format!(
            "INSERT INTO usage_hours (hour, {all}, {COUNTS}) SELECT {hour}, {all}, {COUNTED}
            FROM generate_series(0, 744) h, {few}, LATERAL (SELECT 25::bigint AS n) x"
        ),
        format!(
            "INSERT INTO usage_quarter_hours (quarter_hour, {all}, {COUNTS}) SELECT {quarter}, {all}, {COUNTED}
            FROM generate_series(-4, 2976) h, {few}, LATERAL (SELECT 6::bigint AS n) x"
        ),
        // Three days of the log, a million requests.
        "INSERT INTO usage_logs (node_id, epoch, seq, ordinal, occurred_at, request_id, key_meter_id, subscription_meter_id,
            product_meter_id, endpoint_meter_id, plan_meter_id, method, status, verdict, request_bytes, response_bytes, latency_us,
            upstream_contacted, billable)
        SELECT '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 0, n,
            now() - n * interval '259 ms', gen_random_uuid(), b.key_meter_id, b.subscription_meter_id, b.product_meter_id,
            b.endpoint_meter_id, b.plan_meter_id, 'GET', b.status_class * 100, 'admitted', 1, 1, 1000, true, false
        FROM generate_series(1, 1000000) n
        JOIN (SELECT *, row_number() OVER () AS place FROM bench_cells) b ON b.place = n % 40000 + 1"
            .to_owned(),
        "VACUUM ANALYZE".to_owned(),
        // As one that has been there for a while: what was filled in within a minute is not written to disk beside the questions.
        "CHECKPOINT".to_owned(),
    ] {
        rows.client.batch_execute(&sql).await.unwrap();
    }
}

impl World {
    fn window(&self, step: Step) -> Window {
        let from = self.now - SignedDuration::from_hours(24 * 30);
        Window::around(from, self.now, step, Zone::utc()).unwrap()
    }

    async fn series(&self, scope: Scope, filter: Filter, step: Step, group: Option<GroupBy>) -> usize {
        let window = self.window(step);
        let fresh_from = self.now - SignedDuration::from_hours(2);
        let ask = &SeriesAsk { scope, filter, window: &window, group, groups: 5, fresh_from };
        let cells = self.rows.store.read("bench", |tx| Box::pin(list_cells(tx, ask))).await.unwrap();
        assert!(cells.iter().map(|cell| cell.sums.requests).sum::<i64>() > 0);
        cells.len()
    }

    async fn top(&self, scope: Scope, group: GroupBy, by: TopBy) -> usize {
        let window = self.window(Step::Day);
        let fresh_from = self.now - SignedDuration::from_hours(2);
        let ask = &TopAsk { scope, filter: Filter::default(), window: &window, group, by, rows: 10, fresh_from };
        let found = self.rows.store.read("bench", |tx| {
            Box::pin(async move {
                let found = list_top(tx, ask).await?;
                let ids: Vec<i64> = found.iter().map(|row| row.group).collect();
                let names = name_groups(tx, group, &ids).await?;
                assert_eq!(names.len(), found.len());
                Ok::<_, StoreError>(found)
            })
        });
        found.await.unwrap().len()
    }

    async fn requests(&self, scope: Scope) -> usize {
        let log = LogFilter {
            from: self.now - SignedDuration::from_hours(24 * 30),
            to: self.now,
            status: None,
            verdict: None,
            request_id: None,
        };
        let found =
            self.rows.store.read("bench", |tx| Box::pin(list_requests(tx, scope, Filter::default(), log, None, 101)));
        found.await.unwrap().len()
    }

    async fn quotas(&self, scope: Scope) -> usize {
        let found = self.rows.store.read("bench", |tx| Box::pin(list_quotas(tx, scope, Filter::default(), None, 101)));
        found.await.unwrap().len()
    }
}

/// Asks until there is a median, prints it, and keeps what was too slow.
async fn measure(slow: &mut Vec<String>, name: &str, ask: impl AsyncFn() -> usize) {
    let mut times = Vec::new();
    let mut rows = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        rows = ask().await;
        times.push(started.elapsed());
    }
    times.sort();
    let (median, slowest) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    eprintln!("{name:<66} {rows:>6} rows  median {median:>9.1?}  slowest {slowest:>9.1?}");
    if median > BOUND {
        slow.push(format!("{name}: {median:?}"));
    }
}

#[tokio::test]
#[ignore = "fills a database for a minute; run it by name"]
async fn thirty_days_of_ten_thousand_subscriptions_answer_within_a_tenth_of_a_second() {
    let started = Instant::now();
    let world = &thirty_days().await;
    let sizes = "SELECT (SELECT count(*) FROM usage_days), (SELECT count(*) FROM usage_subscription_days),
        (SELECT count(*) FROM usage_product_hours), (SELECT count(*) FROM usage_logs)";
    let row = world.rows.client.query_one(sizes, &[]).await.unwrap();
    let sizes: [i64; 4] = std::array::from_fn(|column| row.get(column));
    eprintln!("filled in {:?}: days, subscription days, product hours, log: {sizes:?}", started.elapsed());
    let (publisher, consumer) = (Scope::Publisher(world.publisher), Scope::Consumer(world.consumer));
    let slow = &mut Vec::new();
    let all = Filter::default();
    for (name, scope) in [("platform", Scope::Platform), ("publisher", publisher)] {
        for step in [Step::Day, Step::Hour] {
            for group in [None, Some(GroupBy::Product), Some(GroupBy::Endpoint), Some(GroupBy::StatusClass)] {
                let name = format!("{name}: series by {} and {:?}", step.as_str(), group.map(GroupBy::as_str));
                measure(slow, &name, async || world.series(scope, all, step, group).await).await;
            }
        }
        let by_subscription = async || world.series(scope, all, Step::Day, Some(GroupBy::Subscription)).await;
        measure(slow, &format!("{name}: series by day and subscription"), by_subscription).await;
        for group in [GroupBy::Subscription, GroupBy::Endpoint, GroupBy::Product] {
            for by in [TopBy::Requests, TopBy::Errors, TopBy::Latency, TopBy::Bytes] {
                let name = format!("{name}: top {} by {}", group.as_str(), by.as_str());
                measure(slow, &name, async || world.top(scope, group, by).await).await;
            }
        }
        measure(slow, &format!("{name}: request log, a page of 100"), async || world.requests(scope).await).await;
    }
    let one = Filter { subscription: Some(world.subscription), ..Filter::default() };
    for (name, scope, filter) in [
        ("consumer", consumer, all),
        ("publisher, one subscription", publisher, one),
        ("platform, one subscription", Scope::Platform, one),
    ] {
        for (step, group) in [
            (Step::Day, None),
            (Step::Hour, None),
            (Step::Day, Some(GroupBy::Key)),
            (Step::Hour, Some(GroupBy::Endpoint)),
        ] {
            let name = format!("{name}: series by {} and {:?}", step.as_str(), group.map(GroupBy::as_str));
            measure(slow, &name, async || world.series(scope, filter, step, group).await).await;
        }
    }
    measure(slow, "consumer: request log, a page of 100", async || world.requests(consumer).await).await;
    measure(slow, "consumer: quotas", async || world.quotas(consumer).await).await;
    measure(slow, "publisher: quotas, a page of 100", async || world.quotas(publisher).await).await;
    measure(slow, "platform: quotas, a page of 100", async || world.quotas(Scope::Platform).await).await;
    assert!(slow.is_empty(), "beyond {BOUND:?}: {slow:#?}");
}
