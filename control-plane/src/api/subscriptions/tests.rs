//! Subscriptions through the router: who may take which step, and what a private, deprecated or bought product says.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::api::fixture::{Shop, add_endpoint, add_plan, ask_database, draft_product, publish, subscribe};
use crate::testing::{Answer, App, Client, until_blocked};

async fn request(consumer: &Client, plan: uuid::Uuid) -> Answer {
    consumer
        .post(&format!("/v1/organizations/{}/subscriptions", consumer.organization_id), json!({"plan_id": plan}))
        .await
}

#[tokio::test]
async fn an_automatic_subscription_begins_at_once_in_this_month() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let got = shop.consumer.get(&shop.subscription_path("")).await.expect(StatusCode::OK).json;
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    assert_eq!(got["status"], "active");
    assert_eq!(got["period_id"], json!(i32::from(now.year()) * 100 + i32::from(now.month())));
    assert_eq!(got["period_start"], json!(format!("{}T00:00:00Z", now.date().first_of_month())));
    assert_eq!(got["gateway_path"], json!("/petra/weather"));
    request(&shop.consumer, shop.plan).await.expect_problem(409, "already_exists");
    let path = format!("/v1/organizations/{}/subscriptions?product_id={}", shop.consumer_organization, shop.product);
    assert_eq!(shop.consumer.get(&path).await.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_manual_one_waits_for_the_publisher() {
    let app = App::start().await;
    let (petra, carl) = (app.user("petra").await, app.user("carl").await);
    let product = draft_product(&petra, "weather", json!({"approval": "manual"})).await;
    add_endpoint(&petra, product, "GET", "/").await;
    let plan = add_plan(&petra, product, "basic", json!({})).await;
    publish(&petra, product).await;
    let id = subscribe(&carl, plan).await;
    let path = |step: &str| format!("/v1/subscriptions/{id}/{step}");
    let pending =
        petra.get(&format!("/v1/products/{product}/subscriptions?status=pending")).await.expect(StatusCode::OK);
    assert_eq!(pending.json["data"][0]["id"], json!(id));
    carl.post(&path("approve"), json!({})).await.expect_problem(403, "forbidden");
    petra.post(&path("suspend"), json!({})).await.expect_problem(409, "invalid_state");
    let approved = petra.post(&path("approve"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(approved.json["status"], "active");
    assert!(approved.header("x-config-revision").parse::<u64>().unwrap() > 0);
    petra.post(&path("reject"), json!({})).await.expect_problem(409, "invalid_state");

    let dora = app.user("dora").await;
    let rejected = subscribe(&dora, plan).await;
    petra.post(&format!("/v1/subscriptions/{rejected}/reject"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(dora.get(&format!("/v1/subscriptions/{rejected}")).await.json["status"], "cancelled");
    subscribe(&dora, plan).await;
}

#[tokio::test]
async fn a_suspension_is_the_publishers_and_a_cancellation_anybodys() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let (publisher, consumer) = (&shop.publisher, &shop.consumer);
    let path = |step: &str| shop.subscription_path(&format!("/{step}"));
    consumer.post(&path("suspend"), json!({})).await.expect_problem(403, "forbidden");
    assert_eq!(publisher.post(&path("suspend"), json!({})).await.expect(StatusCode::OK).json["status"], "suspended");
    consumer.post(&path("resume"), json!({})).await.expect_problem(403, "forbidden");
    assert_eq!(publisher.post(&path("resume"), json!({})).await.expect(StatusCode::OK).json["status"], "active");

    let later = consumer.raw(axum::http::Method::POST, &path("cancel"), "application/json", "").await;
    let later = later.expect(StatusCode::OK).json;
    assert_eq!((later["status"].as_str(), later["cancel_at"].clone()), (Some("active"), later["period_end"].clone()));
    let kept = consumer.post(&path("resume"), json!({})).await.expect(StatusCode::OK).json;
    assert_eq!(kept["cancel_at"], Value::Null);
    let ended = publisher.post(&path("cancel"), json!({"when": "now"})).await.expect(StatusCode::OK).json;
    assert_eq!(ended["status"], "cancelled");
    consumer.post(&path("cancel"), json!({})).await.expect_problem(409, "invalid_state");
    subscribe(consumer, shop.plan).await;
}

#[tokio::test]
async fn each_side_takes_only_its_own_cancellation_back() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let (publisher, consumer) = (&shop.publisher, &shop.consumer);
    let path = |step: &str| shop.subscription_path(&format!("/{step}"));
    publisher.post(&path("cancel"), json!({})).await.expect(StatusCode::OK);
    consumer.post(&path("resume"), json!({})).await.expect_problem(403, "forbidden");
    // That the consumer wants it too does not make it his.
    consumer.post(&path("cancel"), json!({})).await.expect(StatusCode::OK);
    consumer.post(&path("resume"), json!({})).await.expect_problem(403, "forbidden");
    let kept = publisher.post(&path("resume"), json!({})).await.expect(StatusCode::OK).json;
    assert_eq!((kept["status"].as_str(), kept["cancel_at"].clone()), (Some("active"), Value::Null));
    consumer.post(&path("cancel"), json!({})).await.expect(StatusCode::OK);
    publisher.post(&path("resume"), json!({})).await.expect_problem(409, "invalid_state");
    assert_eq!(ask_database(&app, "SELECT count(*) FROM subscriptions WHERE cancelled_by = 'consumer'").await, 1);
    consumer.post(&path("resume"), json!({})).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_private_product_is_for_its_own_members() {
    let app = App::start().await;
    let (petra, carl) = (app.user("petra").await, app.user("carl").await);
    let product = draft_product(&petra, "inner", json!({"visibility": "private"})).await;
    add_endpoint(&petra, product, "GET", "/").await;
    let plan = add_plan(&petra, product, "basic", json!({})).await;
    request(&petra, plan).await.expect_problem(404, "not_found");
    publish(&petra, product).await;
    request(&carl, plan).await.expect_problem(404, "not_found");
    request(&petra, plan).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_deprecated_product_takes_nobody_new_and_a_retired_one_is_not_there() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let dora = app.user("dora").await;
    shop.publisher.post(&shop.product_path("/deprecate"), json!({})).await.expect(StatusCode::OK);
    request(&dora, shop.plan).await.expect_problem(409, "invalid_state");
    shop.publisher.post(&shop.product_path("/retire"), json!({})).await.expect(StatusCode::OK);
    request(&dora, shop.plan).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn an_override_suits_the_plans_algorithm() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let path = shop.subscription_path("/override");
    let set = shop.publisher.put(&path, json!({"requests_per_minute": 6000})).await.expect(StatusCode::OK);
    assert_eq!(set.json["override"], json!({"requests_per_minute": 6000, "burst_limit": 600}));
    shop.consumer.put(&path, json!({"requests_per_minute": 6000})).await.expect_problem(403, "forbidden");
    let zero = shop.publisher.put(&path, json!({"requests_per_minute": 0, "burst_limit": 0})).await;
    let zero = zero.expect_problem(422, "validation_failed");
    assert_eq!(zero.pointers(), ["/requests_per_minute", "/burst_limit"]);
    let removed = shop.publisher.delete(&path).await.expect(StatusCode::OK);
    assert!(removed.json["override"].is_null());
}

#[tokio::test]
async fn two_requests_at_once_make_one_subscription() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let dora = app.user("dora").await;
    let answers = futures::future::join_all((0..5).map(|_| request(&dora, shop.plan))).await;
    let created = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(created, 1);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM subscriptions").await, 2);
}

#[tokio::test]
async fn a_step_that_waits_for_a_plan_change_finds_the_subscription_with_its_new_plan() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let pro = add_plan(&shop.publisher, shop.product, "pro", json!({"price": "90"})).await;
    publish(&shop.publisher, shop.product).await;
    let changing = app.state.store.connection().await.unwrap();
    let change = format!("BEGIN; UPDATE subscriptions SET plan_id = '{pro}' WHERE id = '{}'", shop.subscription);
    changing.batch_execute(&change).await.unwrap();
    let (consumer, path) = (shop.consumer.clone(), shop.subscription_path("/cancel"));
    let cancelling = tokio::spawn(async move { consumer.post(&path, json!({})).await });
    until_blocked(&app.state.store, 1).await;
    changing.batch_execute("COMMIT").await.unwrap();
    let cancelled = cancelling.await.unwrap().expect(StatusCode::OK).json;
    assert_eq!((cancelled["plan_id"].clone(), cancelled["cancel_at"].is_null()), (json!(pro), false));
}
