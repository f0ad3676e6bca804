//! Products through the router: what a draft may, what a released one may not.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::api::fixture::{Shop, add_endpoint, add_plan, draft_product, publish};
use crate::testing::App;

#[tokio::test]
async fn a_product_is_created_read_edited_and_deleted() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let id = draft_product(&petra, "weather", json!({"cors": {"origins": ["https://app.example.com"]}})).await;
    let path = format!("/v1/products/{id}");
    let read = petra.get(&path).await.expect(StatusCode::OK);
    assert_eq!((read.json["status"].as_str(), read.header("etag")), (Some("draft"), "\"1\""));
    assert_eq!(read.json["body_bytes_max"], 10_485_760);

    let stale = petra.with(&[("if-match", "\"9\"")], Method::PATCH, &path, Some(json!({"name": "x"}))).await;
    stale.expect_problem(412, "precondition_failed");
    let change = json!({"name": "Weather 2", "cors": null, "category": "science"});
    let edited = petra.with(&[("if-match", "\"1\"")], Method::PATCH, &path, Some(change)).await.expect(StatusCode::OK);
    assert_eq!((edited.json["name"].as_str(), edited.json["cors"].is_null()), (Some("Weather 2"), true));
    assert_eq!(edited.header("etag"), "\"2\"");

    add_endpoint(&petra, id, "GET", "/").await;
    add_plan(&petra, id, "basic", json!({})).await;
    petra.delete(&path).await.expect(StatusCode::NO_CONTENT);
    petra.get(&path).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn every_wrong_field_of_a_product_is_named() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let path = format!("/v1/organizations/{}/products", petra.organization_id);
    let body =
        json!({"slug": "No Slug", "name": "", "category": "", "body_bytes_max": 1u64 << 50, "cors": {"origins": []}});
    let answer = petra.post(&path, body).await.expect_problem(422, "validation_failed");
    assert_eq!(answer.pointers(), ["/slug", "/name", "/category", "/body_bytes_max", "/cors"]);
    let unknown = petra.post(&path, json!({"slug": "ab", "name": "A", "colour": "red"})).await;
    assert_eq!(unknown.expect_problem(422, "validation_failed").pointers(), ["/colour"]);
    petra.post(&path, json!({"slug": "weather", "name": "A"})).await.expect(StatusCode::CREATED);
    petra.post(&path, json!({"slug": "weather", "name": "B"})).await.expect_problem(409, "already_exists");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    for slug in ["one", "two", "three"] {
        draft_product(&petra, slug, json!({})).await;
    }
    let path = format!("/v1/organizations/{}/products", petra.organization_id);
    let first = petra.get(&format!("{path}?limit=2")).await.expect(StatusCode::OK);
    assert_eq!(first.json["data"].as_array().unwrap().len(), 2);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let second = petra.get(&format!("{path}?limit=2&cursor={cursor}")).await.expect(StatusCode::OK);
    assert_eq!((second.json["data"][0]["slug"].as_str(), second.json["next_cursor"].is_null()), (Some("three"), true));
    let found = petra.get(&format!("{path}?search=TW&status=draft")).await.expect(StatusCode::OK);
    assert_eq!(found.json["data"].as_array().unwrap().len(), 1);
    let none = petra.get(&format!("{path}?status=published")).await.expect(StatusCode::OK);
    assert!(none.json["data"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_released_product_is_not_deleted_and_keeps_its_address() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let refused = shop.publisher.delete(&shop.product_path("")).await.expect_problem(409, "still_referenced");
    let detail = refused.json["detail"].as_str().unwrap();
    assert!(detail.contains("1 releases, 1 plans, 1 subscriptions"), "{detail}");
    let renamed = shop.publisher.patch(&shop.product_path(""), json!({"slug": "climate"})).await;
    renamed.expect_problem(409, "invalid_state");
}

#[tokio::test]
async fn a_product_goes_from_published_to_deprecated_to_retired_and_no_way_back() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let deprecated = shop.publisher.post(&shop.product_path("/deprecate"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(deprecated.json["status"], "deprecated");
    assert!(deprecated.header("x-config-revision").parse::<u64>().unwrap() > 0);
    shop.publisher.post(&shop.product_path("/deprecate"), json!({})).await.expect_problem(409, "invalid_state");
    add_endpoint(&shop.publisher, shop.product, "POST", "/more").await;
    assert_eq!(publish(&shop.publisher, shop.product).await, 2);
    let still = shop.publisher.get(&shop.product_path("")).await;
    assert_eq!((still.json["status"].as_str(), still.json["live_release"].as_i64()), (Some("deprecated"), Some(2)));
    shop.publisher.post(&shop.product_path("/retire"), json!({})).await.expect(StatusCode::OK);
    for path in ["/retire", "/deprecate", "/publish"] {
        shop.publisher.post(&shop.product_path(path), json!({})).await.expect_problem(409, "invalid_state");
    }
}

#[tokio::test]
async fn a_viewer_reads_and_a_developer_writes() {
    let app = App::start().await;
    let (petra, vera) = (app.user("petra").await, app.user("vera").await);
    let id = draft_product(&petra, "weather", json!({})).await;
    let members = format!("/v1/organizations/{}/members", petra.organization_id);
    let invited = json!({"email": vera.email, "role": "viewer"});
    petra.post(&members, invited).await.expect(StatusCode::CREATED);
    let path = format!("/v1/products/{id}");
    vera.get(&path).await.expect(StatusCode::OK);
    vera.patch(&path, json!({"name": "x"})).await.expect_problem(403, "insufficient_role");
    petra.patch(&format!("{members}/{}", vera.user_id), json!({"role": "developer"})).await.expect(StatusCode::OK);
    vera.patch(&path, json!({"name": "x"})).await.expect(StatusCode::OK);
    let reader = petra.with_token(&["read"]).await;
    reader.get(&path).await.expect(StatusCode::OK);
    reader.patch(&path, json!({"name": "y"})).await.expect_problem(403, "insufficient_scope");
}

#[tokio::test]
async fn a_repeated_create_with_its_key_makes_one_product() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let path = format!("/v1/organizations/{}/products", petra.organization_id);
    let headers = [("idempotency-key", "once")];
    let body = json!({"slug": "weather", "name": "Weather"});
    let first = petra.with(&headers, Method::POST, &path, Some(body.clone())).await.expect(StatusCode::CREATED);
    let again = petra.with(&headers, Method::POST, &path, Some(body)).await.expect(StatusCode::CREATED);
    assert_eq!(first.json, again.json);
    let other = json!({"slug": "climate", "name": "Climate"});
    let reused = petra.with(&headers, Method::POST, &path, Some(other)).await;
    reused.expect_problem(409, "idempotency_key_reused");
}
