//! Endpoints through the router: the draft is free, what was released is only retired.

use axum::http::StatusCode;
use serde_json::json;

use crate::api::fixture::{Shop, add_endpoint, draft_product};
use crate::testing::App;

#[tokio::test]
async fn an_endpoint_is_created_edited_and_deleted_in_the_draft() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let id = add_endpoint(&petra, product, "GET", "/users/{id}").await;
    let path = format!("/v1/endpoints/{id}");
    let change = json!({"target_url": "https://api.example.com/v2/users/{id}", "retries": 2, "scope": "users:read", "total_timeout_ms": 5000});
    let edited = petra.patch(&path, change).await.expect(StatusCode::OK);
    assert_eq!(edited.json["scope"], "users:read");
    let opened = petra.patch(&path, json!({"scope": null, "total_timeout_ms": null})).await.expect(StatusCode::OK);
    assert!(opened.json["scope"].is_null() && opened.json["total_timeout_ms"].is_null());
    assert_eq!(opened.json["retries"], 2);
    petra.delete(&path).await.expect(StatusCode::NO_CONTENT);
    petra.get(&path).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn every_wrong_field_of_an_endpoint_is_named() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let path = format!("/v1/products/{product}/endpoints");
    let body = json!({"method": "get", "path_pattern": "/a", "target_url": "ftp://x", "retries": 9, "connect_timeout_ms": 0, "scope": "two words"});
    let answer = petra.post(&path, body).await.expect_problem(422, "validation_failed");
    assert_eq!(answer.pointers(), ["/method", "/target_url", "/scope", "/connect_timeout_ms", "/retries"]);
    add_endpoint(&petra, product, "GET", "/a").await;
    let body = json!({"method": "GET", "path_pattern": "/a", "target_url": "https://b.example.com/"});
    petra.post(&path, body).await.expect_problem(409, "already_exists");
    let null =
        petra.post(&path, json!({"method": null, "path_pattern": "/b", "target_url": "https://b.example.com"})).await;
    assert_eq!(null.expect_problem(422, "validation_failed").pointers(), ["/method"]);
}

#[tokio::test]
async fn a_target_with_a_forbidden_address_is_refused_when_saved_however_it_is_spelled() {
    let app = App::start_with("[upstream]\nallow = [\"127.0.0.1/32:9000\", \"127.0.0.1/32:8081\"]\n").await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let id = add_endpoint(&petra, product, "GET", "/a").await;
    let (create, edit) = (format!("/v1/products/{product}/endpoints"), format!("/v1/endpoints/{id}"));
    for (target, reason) in [
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://2852039166/", "metadata"),
        ("http://0xa9.0376.169.254/", "metadata"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("http://127.0.0.1:9001/", "loopback"),
        // Allowed by the operator, and refused even so: the control plane itself listens there.
        ("http://127.0.0.1:8081/", "our own"),
    ] {
        let body = json!({"method": "GET", "path_pattern": "/b", "target_url": target});
        for answer in [petra.post(&create, body).await, petra.patch(&edit, json!({"target_url": target})).await] {
            let answer = answer.expect_problem(422, "validation_failed");
            assert_eq!(answer.pointers(), ["/target_url"], "{target}");
            assert!(answer.json["errors"][0]["detail"].as_str().unwrap().contains(reason), "{}", answer.text);
        }
    }
    petra.patch(&edit, json!({"target_url": "http://127.0.0.1:9000/"})).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_released_endpoint_is_retired_and_its_route_becomes_free() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let path = format!("/v1/endpoints/{}", shop.endpoint);
    shop.publisher.delete(&path).await.expect(StatusCode::NO_CONTENT);
    let retired = shop.publisher.get(&path).await.expect(StatusCode::OK);
    assert!(retired.json["retired_at"].is_string());
    shop.publisher.patch(&path, json!({"retries": 1})).await.expect_problem(409, "invalid_state");
    add_endpoint(&shop.publisher, shop.product, "GET", "/forecast/{city}").await;
    let list = shop.publisher.get(&shop.product_path("/endpoints")).await.expect(StatusCode::OK);
    assert_eq!(list.json["data"].as_array().unwrap().len(), 1);
    let all = shop.publisher.get(&shop.product_path("/endpoints?with_retired=true&method=GET")).await;
    assert_eq!(all.expect(StatusCode::OK).json["data"].as_array().unwrap().len(), 2);
}
