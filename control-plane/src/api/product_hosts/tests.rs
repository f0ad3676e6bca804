//! Hosts through the router: claims are free, proofs are not believed without a look.

use axum::http::StatusCode;
use serde_json::json;

use crate::api::fixture::{Shop, draft_product};
use crate::testing::App;

#[tokio::test]
async fn a_host_is_claimed_by_many_and_given_up() {
    let app = App::start().await;
    let (petra, rival) = (app.user("petra").await, app.user("rival").await);
    let (mine, theirs) =
        (draft_product(&petra, "mine", json!({})).await, draft_product(&rival, "theirs", json!({})).await);
    let (path, other) = (format!("/v1/products/{mine}/hosts"), format!("/v1/products/{theirs}/hosts"));
    let claimed = petra.post(&path, json!({"host": "API.example.com"})).await.expect(StatusCode::CREATED);
    assert_eq!((claimed.json["host"].as_str(), claimed.json["verified_at"].is_null()), (Some("api.example.com"), true));
    rival.post(&other, json!({"host": "api.example.com"})).await.expect(StatusCode::CREATED);
    petra.post(&path, json!({"host": "api.example.com"})).await.expect_problem(409, "already_exists");
    let bad = petra.post(&path, json!({"host": "127.0.0.1"})).await.expect_problem(422, "validation_failed");
    assert_eq!(bad.pointers(), ["/host"]);
    petra.delete(&format!("{path}/api.example.com")).await.expect(StatusCode::NO_CONTENT);
    let list = petra.get(&path).await.expect(StatusCode::OK);
    assert!(list.json["data"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_host_that_does_not_answer_stays_unproved() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    shop.publisher
        .post(&shop.product_path("/hosts"), json!({"host": "nowhere.invalid"}))
        .await
        .expect(StatusCode::CREATED);
    let verified = shop.publisher.post(&shop.product_path("/hosts/nowhere.invalid/verify"), json!({})).await;
    assert_eq!(verified.expect_problem(422, "validation_failed").pointers(), ["/host"]);
    let unclaimed = shop.publisher.post(&shop.product_path("/hosts/other.invalid/verify"), json!({})).await;
    unclaimed.expect_problem(404, "not_found");
    // Each proof is a call into somebody else's network: they are counted.
    let mut last = app.nobody().get("/livez").await;
    for _ in 0..10 {
        last = shop.publisher.post(&shop.product_path("/hosts/other.invalid/verify"), json!({})).await;
    }
    last.expect_problem(429, "too_many_requests");
    let other = app.user("other").await;
    let shown = other.post(&shop.product_path("/hosts/other.invalid/verify"), json!({})).await;
    shown.expect_problem(404, "not_found");
    assert_eq!(shop.publisher.get(&shop.product_path("")).await.json["hosts"], json!([]));
}
