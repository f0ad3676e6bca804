//! Caps through the router: an operator's alone, in force without a release, gone again when left out.

use axum::http::StatusCode;
use serde_json::json;

use crate::api::fixture::{Shop, ask_database};
use crate::testing::App;

#[tokio::test]
async fn an_operator_sets_a_products_caps_and_takes_them_back() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let operator = app.admin("olga").await;
    let caps = json!({"requests_in_flight_max": 50, "upstream_connections_max": 20});
    let set = operator.put(&shop.product_path("/caps"), caps).await.expect(StatusCode::OK);
    assert_eq!(
        (set.json["requests_in_flight_max"].as_u64(), set.json["upstream_connections_max"].as_u64()),
        (Some(50), Some(20))
    );
    assert!(!set.header("x-config-revision").is_empty());
    let seen = shop.publisher.get(&shop.product_path("")).await.expect(StatusCode::OK).json;
    assert_eq!(seen["requests_in_flight_max"], 50, "its publisher sees what holds");
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'product.caps'";
    assert_eq!(ask_database(&app, audited).await, 1);
    let back = operator.put(&shop.product_path("/caps"), json!({"requests_in_flight_max": 60})).await;
    assert!(back.expect(StatusCode::OK).json["upstream_connections_max"].is_null());
}

#[tokio::test]
async fn nobody_else_sets_caps_and_nonsense_is_named() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let (path, caps) = (shop.product_path("/caps"), json!({"requests_in_flight_max": 100_000}));
    shop.publisher.put(&path, caps.clone()).await.expect_problem(403, "forbidden");
    shop.consumer.put(&path, caps).await.expect_problem(404, "not_found");
    let operator = app.admin("olga").await;
    let wrong = json!({"requests_in_flight_max": 0, "upstream_connections_max": 2_000_000});
    let refused = operator.put(&path, wrong).await.expect_problem(422, "validation_failed");
    assert_eq!(refused.pointers(), ["/requests_in_flight_max", "/upstream_connections_max"]);
    let nothing = format!("/v1/products/{}/caps", uuid::Uuid::now_v7());
    operator.put(&nothing, json!({})).await.expect_problem(404, "not_found");
}
