//! The public catalog through the router: what strangers see, and what they do not.

use axum::http::StatusCode;
use serde_json::json;

use crate::api::fixture::{Shop, add_endpoint, draft_product, publish};
use crate::testing::App;

#[tokio::test]
async fn a_stranger_sees_what_is_sold_but_not_where_it_leads() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let shown = app.nobody().get(&format!("/v1/catalog/products/{}", shop.product)).await.expect(StatusCode::OK);
    assert_eq!(shown.json["plans"][0]["id"], json!(shop.plan));
    assert_eq!(shown.json["endpoints"], json!([{"method": "GET", "path_pattern": "/forecast/{city}", "scope": null}]));
    assert!(!shown.text.contains("api.example.com"), "{}", shown.text);
    let list = app.nobody().get("/v1/catalog/products?search=WEATH").await.expect(StatusCode::OK);
    assert_eq!(list.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn drafts_private_and_retired_products_are_not_there() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let draft = draft_product(&petra, "draft", json!({})).await;
    let private = draft_product(&petra, "private", json!({"visibility": "private"})).await;
    let retired = draft_product(&petra, "retired", json!({})).await;
    for product in [private, retired] {
        add_endpoint(&petra, product, "GET", "/").await;
        publish(&petra, product).await;
    }
    petra.post(&format!("/v1/products/{retired}/retire"), json!({})).await.expect(StatusCode::OK);
    for product in [draft, private, retired] {
        app.nobody().get(&format!("/v1/catalog/products/{product}")).await.expect_problem(404, "not_found");
    }
    let list = app.nobody().get("/v1/catalog/products").await.expect(StatusCode::OK);
    assert!(list.json["data"].as_array().unwrap().is_empty());
}
