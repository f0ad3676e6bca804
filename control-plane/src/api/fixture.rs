//! A whole shop for the tests: a publisher with a published product, a consumer with a subscription and a key. Reads as
//! sentences: `Shop::open(&app).await`, `shop.product_path("/publish")`.

use axum::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::testing::{App, Client};
pub(crate) use crate::testing::{calm_zone, hold_pair, run_sql, since_last_month, until_blocked, use_api};

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

impl Shop {
    /// A shop whose plan has these terms.
    pub(crate) async fn with_plan(app: &App, terms: Value) -> Shop {
        Shop::between(app, "petra", "carl", terms).await
    }

    /// A shop of other people.
    pub(crate) async fn between(app: &App, publisher: &str, consumer: &str, terms: Value) -> Shop {
        let (publisher, consumer) = (app.user(publisher).await, app.user(consumer).await);
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

    /// Of what the consumer means to spend at the publisher.
    pub(crate) fn budget_path(&self) -> String {
        format!("/v1/organizations/{}/budgets/{}", self.consumer_organization, self.publisher_organization)
    }
}
