//! Releases through the router: a publish is all or nothing, a draft is not live, a rollback points back.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::api::fixture::{Shop, add_endpoint, add_plan, ask_database, draft_product, publish};
use crate::testing::App;

#[tokio::test]
async fn a_publish_makes_product_and_plans_live_at_once() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    add_endpoint(&petra, product, "GET", "/forecast/{city}").await;
    let plan = add_plan(&petra, product, "basic", json!({})).await;
    let path = format!("/v1/products/{product}/publish");
    let answer = petra.with(&[("prefer", "wait=1")], Method::POST, &path, Some(json!({"note": "first"}))).await;
    let answer = answer.expect(StatusCode::CREATED);
    assert_eq!((answer.json["number"].as_i64(), answer.json["is_live"].as_bool()), (Some(1), Some(true)));
    assert!(answer.header("x-config-revision").parse::<u64>().unwrap() >= 2);
    assert_eq!(petra.get(&format!("/v1/products/{product}")).await.json["status"], "published");
    assert_eq!(petra.get(&format!("/v1/plans/{plan}")).await.json["status"], "active");
}

#[tokio::test]
async fn a_refused_publish_names_every_fault_and_changes_nothing() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let path = format!("/v1/products/{product}/publish");
    assert_eq!(petra.post(&path, json!({})).await.expect_problem(422, "publish_refused").pointers(), ["/endpoints"]);
    add_endpoint(&petra, product, "GET", "/a/{x}").await;
    let second = add_endpoint(&petra, product, "GET", "/a/{y}").await;
    // Saved while the operator still allowed the range.
    let meta = add_endpoint(&petra, product, "GET", "/meta").await;
    let client = app.state.store.connection().await.unwrap();
    let sql = "UPDATE endpoints SET target_url = 'http://[::ffff:169.254.169.254]/latest' WHERE id = $1";
    assert_eq!(client.execute(sql, &[&meta]).await.unwrap(), 1);
    let refused = petra.post(&path, json!({})).await.expect_problem(422, "publish_refused");
    let expected = [format!("/endpoints/{second}/path_pattern"), format!("/endpoints/{meta}/target_url")];
    assert_eq!(refused.pointers(), expected);
    assert!(refused.text.contains("'GET /a/{x}' and 'GET /a/{y}'"), "{}", refused.text);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM releases").await, 0);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM config_changes WHERE entity IN ('product', 'plan')").await, 0);
    assert_eq!(petra.get(&format!("/v1/products/{product}")).await.json["status"], "draft");
}

#[tokio::test]
async fn what_is_live_already_is_not_released_again() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let path = shop.product_path("/publish");
    let releases = "SELECT count(*) FROM releases";
    let first = ask_database(&app, releases).await;
    let again = shop.publisher.with(&[("prefer", "wait=1")], Method::POST, &path, Some(json!({"note": "again"}))).await;
    let again = again.expect(StatusCode::OK);
    assert_eq!((again.json["number"].as_i64(), again.json["is_live"].as_bool()), (Some(1), Some(true)));
    assert!(again.header("x-config-revision").parse::<u64>().unwrap() >= 2, "who waits still hears when it is served");
    assert_eq!(ask_database(&app, releases).await, first);
    // A plan that is not sold yet is something new, and so is any edit.
    add_plan(&shop.publisher, shop.product, "gold", json!({})).await;
    assert_eq!(publish(&shop.publisher, shop.product).await, 2);
    add_endpoint(&shop.publisher, shop.product, "POST", "/more").await;
    assert_eq!(publish(&shop.publisher, shop.product).await, 3);
    // After a rollback the draft is not what is live.
    shop.publisher.post(&shop.product_path("/rollback"), json!({"release": 2})).await.expect(StatusCode::OK);
    assert_eq!(publish(&shop.publisher, shop.product).await, 4);
}

#[tokio::test]
async fn a_repeated_publish_answers_what_the_first_did() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let path = shop.product_path("/publish");
    add_endpoint(&shop.publisher, shop.product, "POST", "/more").await;
    let key = [("idempotency-key", "publish-2")];
    let first = shop.publisher.with(&key, Method::POST, &path, Some(json!({}))).await.expect(StatusCode::CREATED);
    add_endpoint(&shop.publisher, shop.product, "POST", "/even-more").await;
    let replayed = shop.publisher.with(&key, Method::POST, &path, Some(json!({}))).await.expect(StatusCode::CREATED);
    assert_eq!((&replayed.json, replayed.header("idempotency-replayed")), (&first.json, "true"));
    assert_eq!(ask_database(&app, "SELECT max(number)::bigint FROM releases").await, 2);
    let other = shop.publisher.with(&key, Method::POST, &path, Some(json!({"note": "another request"}))).await;
    other.expect_problem(409, "idempotency_key_reused");
}

#[tokio::test]
async fn edits_are_live_only_after_the_next_publish_and_two_releases_can_be_compared() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let added = add_endpoint(&shop.publisher, shop.product, "POST", "/reports").await;
    let change = json!({"target_url": "https://v2.example.com/{city}"});
    shop.publisher.patch(&format!("/v1/endpoints/{}", shop.endpoint), change).await.expect(StatusCode::OK);
    let live = app.nobody().get(&format!("/v1/catalog/products/{}", shop.product)).await.expect(StatusCode::OK);
    assert_eq!(live.json["endpoints"].as_array().unwrap().len(), 1);

    assert_eq!(publish(&shop.publisher, shop.product).await, 2);
    let diff = shop.publisher.get(&shop.product_path("/releases/1/compare/2")).await.expect(StatusCode::OK).json;
    assert_eq!(diff["diff"]["endpoints"]["added"][0]["id"], json!(added));
    assert_eq!(diff["diff"]["endpoints"]["changed"][0]["fields"][0]["field"], "target_url");
    assert_eq!(diff["diff"]["plans"], json!({"added": [], "removed": [], "changed": []}));
    let shown = shop.publisher.get(&shop.product_path("/releases/2")).await.expect(StatusCode::OK).json;
    assert_eq!((shown["is_live"].as_bool(), shown["summary"]["endpoints"].as_array().unwrap().len()), (Some(true), 2));
}

#[tokio::test]
async fn a_rollback_points_at_the_older_release() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    add_endpoint(&shop.publisher, shop.product, "POST", "/reports").await;
    publish(&shop.publisher, shop.product).await;
    let path = shop.product_path("/rollback");
    let back = shop.publisher.post(&path, json!({"release": 1})).await.expect(StatusCode::OK);
    assert!(back.header("x-config-revision").parse::<u64>().unwrap() > 0);
    assert_eq!(shop.publisher.get(&shop.product_path("")).await.json["live_release"], 1);
    shop.publisher.post(&path, json!({"release": 1})).await.expect_problem(409, "invalid_state");
    shop.publisher.post(&path, json!({"release": 7})).await.expect_problem(404, "not_found");
    let list = shop.publisher.get(&shop.product_path("/releases")).await.expect(StatusCode::OK).json;
    let live: Vec<_> = list["data"].as_array().unwrap().iter().map(|release| release["is_live"].clone()).collect();
    assert_eq!(live, [json!(true), json!(false)]);
    assert_eq!(publish(&shop.publisher, shop.product).await, 3);
}

#[tokio::test]
async fn many_publishes_at_once_make_one_release() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    add_endpoint(&shop.publisher, shop.product, "POST", "/more").await;
    let path = shop.product_path("/publish");
    let answers = futures::future::join_all((0..4).map(|_| shop.publisher.post(&path, json!({})))).await;
    assert!(answers.iter().all(|answer| answer.json["number"] == 2), "{answers:?}");
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    let found = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!((made, found), (1, 3));
}
