//! A whole shop for the tests: a publisher with a published product, a consumer with a subscription and a key. Reads as
//! sentences: `Shop::open(&app).await`, `shop.product_path("/publish")`.

use axum::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::testing::{App, Client};

pub(crate) struct Shop {
    pub(crate) publisher: Client,
    pub(crate) consumer: Client,
    pub(crate) publisher_organization: Uuid,
    pub(crate) consumer_organization: Uuid,
    pub(crate) product: Uuid,
    pub(crate) endpoint: Uuid,
    pub(crate) plan: Uuid,
    pub(crate) subscription: Uuid,
    pub(crate) key: Uuid,
    pub(crate) secret: String,
}

/// A product of the caller's own organization, as a draft.
pub(crate) async fn draft_product(publisher: &Client, slug: &str, extra: Value) -> Uuid {
    let mut body = json!({"slug": slug, "name": slug, "visibility": "public"});
    merge(&mut body, extra);
    let path = format!("/v1/organizations/{}/products", publisher.organization_id);
    publisher.post(&path, body).await.expect(StatusCode::CREATED).id()
}

pub(crate) async fn add_endpoint(publisher: &Client, product: Uuid, method: &str, path_pattern: &str) -> Uuid {
    let body = json!({"method": method, "path_pattern": path_pattern, "target_url": "https://api.example.com/"});
    publisher.post(&format!("/v1/products/{product}/endpoints"), body).await.expect(StatusCode::CREATED).id()
}

pub(crate) async fn add_plan(publisher: &Client, product: Uuid, slug: &str, extra: Value) -> Uuid {
    let mut body = json!({"slug": slug, "name": slug, "price": "19.90", "rate_limit": 60});
    merge(&mut body, extra);
    publisher.post(&format!("/v1/products/{product}/plans"), body).await.expect(StatusCode::CREATED).id()
}

pub(crate) async fn publish(publisher: &Client, product: Uuid) -> i64 {
    let answer = publisher.post(&format!("/v1/products/{product}/publish"), json!({})).await;
    answer.expect(StatusCode::CREATED).json["number"].as_i64().unwrap()
}

pub(crate) async fn subscribe(consumer: &Client, plan: Uuid) -> Uuid {
    let path = format!("/v1/organizations/{}/subscriptions", consumer.organization_id);
    consumer.post(&path, json!({"plan_id": plan})).await.expect(StatusCode::CREATED).id()
}

pub(crate) async fn make_key(consumer: &Client, subscription: Uuid, name: &str) -> (Uuid, String) {
    let answer = consumer.post(&format!("/v1/subscriptions/{subscription}/keys"), json!({"name": name})).await;
    let answer = answer.expect(StatusCode::CREATED);
    (answer.id(), answer.json["key"].as_str().unwrap().to_owned())
}

/// What the database says to a question with one answer.
pub(crate) async fn ask_database(app: &App, sql: &str) -> i64 {
    let client = app.state.store.connection().await.unwrap();
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn merge(body: &mut Value, extra: Value) {
    let (Value::Object(body), Value::Object(extra)) = (body, extra) else { return };
    body.extend(extra);
}

impl Shop {
    pub(crate) async fn open(app: &App) -> Shop {
        Shop::with_plan(app, json!({})).await
    }

    pub(crate) fn product_path(&self, rest: &str) -> String {
        format!("/v1/products/{}{rest}", self.product)
    }

    pub(crate) fn subscription_path(&self, rest: &str) -> String {
        format!("/v1/subscriptions/{}{rest}", self.subscription)
    }

    pub(crate) fn key_path(&self, rest: &str) -> String {
        format!("/v1/keys/{}{rest}", self.key)
    }
}

/// Billable requests in the billing record: `count` more in the quarter of an hour that `at` (SQL) lies in, under the plan.
pub(crate) async fn use_api(app: &App, subscription: Uuid, plan: Uuid, at: &str, count: i64) {
    let sql = format!(
        "INSERT INTO usage_quarter_hours AS u (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id,
            status_class, product_meter_id, request_count, admitted_count, failed_count, limited_count, billable_count, request_bytes,
            response_bytes, latency_us_sum, upstream_latency_us_sum)
         SELECT s.meter_id, date_bin('15 minutes', {at}, timestamptz '2000-01-01 00:00:00+00'),
            coalesce((SELECT min(k.meter_id) FROM api_keys k WHERE k.subscription_id = s.id), 0), l.meter_id, 1, 2, p.meter_id,
            {count}, {count}, 0, 0, {count}, 0, 0, 0, 0
         FROM subscriptions s JOIN api_products p ON p.id = s.product_id, plans l WHERE s.id = '{subscription}' AND l.id = '{plan}'
         ON CONFLICT (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
         DO UPDATE SET request_count = u.request_count + excluded.request_count, admitted_count = u.admitted_count + excluded.admitted_count,
            billable_count = u.billable_count + excluded.billable_count"
    );
    run_sql(app, &sql).await;
}

/// Statements for a state that only time would bring about.
pub(crate) async fn run_sql(app: &App, sql: &str) {
    app.state.store.connection().await.unwrap().batch_execute(sql).await.unwrap();
}

/// A time zone in which no month has begun within the last hours.
pub(crate) fn calm_zone() -> &'static str {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    if now.day() == 1 && now.hour() < 12 { "Pacific/Honolulu" } else { "UTC" }
}

/// The shop with its publisher's month cut in a calm zone, and its subscription as if it had begun with the month before.
pub(crate) async fn since_last_month(app: &App, shop: &Shop) {
    let (publisher, zone) = (shop.publisher_organization, calm_zone());
    run_sql(
        app,
        &format!(
            "DELETE FROM billing_months WHERE organization_id = '{publisher}';
             UPDATE organizations SET time_zone = '{zone}' WHERE id = '{publisher}';
             INSERT INTO billing_months (organization_id, month, starts_at, ends_at, time_zone, usage_from, usage_until)
             SELECT '{publisher}', m::date, m AT TIME ZONE '{zone}', (m + interval '1 month') AT TIME ZONE '{zone}', '{zone}',
                m AT TIME ZONE '{zone}', (m + interval '1 month') AT TIME ZONE '{zone}'
             FROM (SELECT date_trunc('month', now() AT TIME ZONE '{zone}') - interval '1 month' AS m) AS last;
             UPDATE subscription_terms SET starts_at = (SELECT starts_at FROM billing_months WHERE organization_id = '{publisher}');
             UPDATE subscriptions SET activated_at = (SELECT starts_at FROM billing_months WHERE organization_id = '{publisher}')"
        ),
    )
    .await;
}

impl Shop {
    /// A shop whose plan has these terms.
    pub(crate) async fn with_plan(app: &App, terms: Value) -> Shop {
        let (publisher, consumer) = (app.user("petra").await, app.user("carl").await);
        let product = draft_product(&publisher, "weather", json!({})).await;
        let endpoint = add_endpoint(&publisher, product, "GET", "/forecast/{city}").await;
        let plan = add_plan(&publisher, product, "basic", terms).await;
        publish(&publisher, product).await;
        let subscription = subscribe(&consumer, plan).await;
        let (key, secret) = make_key(&consumer, subscription, "production").await;
        Shop {
            publisher_organization: publisher.organization_id,
            consumer_organization: consumer.organization_id,
            publisher,
            consumer,
            product,
            endpoint,
            plan,
            subscription,
            key,
            secret,
        }
    }

    pub(crate) fn invoices_path(&self) -> String {
        format!("/v1/organizations/{}/invoices", self.consumer_organization)
    }
}
