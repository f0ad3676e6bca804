//! Plans through the router: defaults, versions, and that what was sold never changes.

use std::sync::Arc;

use axum::http::StatusCode;
use prometheus::Registry;
use serde_json::json;
use snapshot::record::{EntityKind, EntityRef};
use snapshot::wire;

use crate::api::fixture::{Shop, add_endpoint, add_plan, draft_product, publish, subscribe};
use crate::publish::book::Book;
use crate::publish::builder::{Builder, BuilderMetrics};
use crate::testing::App;

#[tokio::test]
async fn a_plan_without_a_policy_gets_a_bucket_of_a_tenth_in_the_publishers_currency() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let id = add_plan(&petra, product, "basic", json!({})).await;
    let plan = petra.get(&format!("/v1/plans/{id}")).await.expect(StatusCode::OK).json;
    let policy = json!({"requests_per_minute": 60, "burst_limit": 6, "algorithm": "token_bucket", "on_redis_down": "fair_share", "strict": false});
    assert_eq!(plan["policy"], policy);
    assert_eq!(
        (plan["price"].as_str(), plan["currency"].as_str(), plan["plan_version"].as_i64()),
        (Some("19.9"), Some("USD"), Some(1))
    );
    assert_eq!(plan["billable_statuses"], json!(["2xx"]));
}

#[tokio::test]
async fn every_wrong_field_of_a_plan_is_named() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let path = format!("/v1/products/{product}/plans");
    let body = json!({"slug": "basic", "name": "Basic", "price": "-1", "rate_limit": 60, "overage_price_per_1000": "1",
        "policy": {"algorithm": "fixed_window", "burst_limit": 5, "requests_per_minute": 61}});
    let answer = petra.post(&path, body).await.expect_problem(422, "validation_failed");
    assert_eq!(
        answer.pointers(),
        ["/price", "/overage_price_per_1000", "/policy/requests_per_minute", "/policy/burst_limit"]
    );
    add_plan(&petra, product, "basic", json!({})).await;
    let twice = json!({"slug": "basic", "name": "Basic", "price": "1", "rate_limit": 60});
    petra.post(&path, twice).await.expect_problem(409, "already_exists");
}

#[tokio::test]
async fn a_draft_is_edited_freely_and_its_policy_follows_the_rate() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let id = add_plan(&petra, product, "basic", json!({})).await;
    let path = format!("/v1/plans/{id}");
    let edited = petra.patch(&path, json!({"rate_limit": 600})).await.expect(StatusCode::OK);
    assert_eq!(edited.json["policy"]["requests_per_minute"], 600);
    assert_eq!(edited.json["policy"]["burst_limit"], 60);
    let soft = json!({"quota_mode": "soft", "included_requests": 1000, "overage_price_per_1000": "0.5", "policy": {"algorithm": "sliding_window"}});
    let edited = petra.patch(&path, soft).await.expect(StatusCode::OK);
    assert_eq!(edited.json["policy"]["burst_limit"], 600);
    petra.delete(&path).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_sold_version_never_changes_and_a_new_one_leaves_its_subscribers_alone() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let path = format!("/v1/plans/{}", shop.plan);
    shop.publisher.patch(&path, json!({"price": "25"})).await.expect_problem(409, "invalid_state");
    shop.publisher.delete(&path).await.expect_problem(409, "still_referenced");
    let renamed = shop.publisher.patch(&path, json!({"name": "Starter"})).await.expect(StatusCode::OK);
    assert!(renamed.header("x-config-revision").parse::<u64>().unwrap() > 0);

    let version = shop.publisher.post(&format!("{path}/versions"), json!({"price": "25"})).await;
    let version = version.expect(StatusCode::CREATED);
    assert_eq!((version.json["plan_version"].as_i64(), version.json["status"].as_str()), (Some(2), Some("draft")));
    assert_eq!(version.json["family_id"], json!(shop.plan));
    shop.publisher.post(&format!("{path}/versions"), json!({})).await.expect_problem(409, "invalid_state");

    publish(&shop.publisher, shop.product).await;
    let old = shop.publisher.get(&path).await.json;
    let new = shop.publisher.get(&format!("/v1/plans/{}", version.id())).await.json;
    assert_eq!((old["status"].as_str(), new["status"].as_str()), (Some("archived"), Some("active")));
    let kept = shop.consumer.get(&shop.subscription_path("")).await.json;
    assert_eq!((kept["plan_id"].clone(), kept["status"].as_str()), (json!(shop.plan), Some("active")));
    let late = app.user("late").await;
    let path = format!("/v1/organizations/{}/subscriptions", late.organization_id);
    late.post(&path, json!({"plan_id": shop.plan})).await.expect_problem(409, "invalid_state");
    subscribe(&late, version.id()).await;
}

#[tokio::test]
async fn an_archived_plan_is_sold_no_more() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let path = format!("/v1/plans/{}/archive", shop.plan);
    assert_eq!(shop.publisher.post(&path, json!({})).await.expect(StatusCode::OK).json["status"], "archived");
    shop.publisher.post(&path, json!({})).await.expect_problem(409, "invalid_state");
    let list = shop.publisher.get(&shop.product_path("/plans?status=archived")).await.expect(StatusCode::OK);
    assert_eq!(list.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_policy_does_without_redis_and_whether_it_is_strict_reaches_the_gateways() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    add_endpoint(&petra, product, "GET", "/").await;
    let cases = [
        ("fair_share", false, wire::OnRedisDown::FairShare),
        ("open", true, wire::OnRedisDown::Open),
        ("closed", false, wire::OnRedisDown::Closed),
    ];
    let mut plans = Vec::new();
    for (on_redis_down, strict, wanted) in cases {
        let policy = json!({"on_redis_down": on_redis_down, "strict": strict});
        let slug = on_redis_down.replace('_', "-");
        let id = add_plan(&petra, product, &slug, json!({"policy": policy})).await;
        let shown = petra.get(&format!("/v1/plans/{id}")).await.expect(StatusCode::OK).json;
        assert_eq!(
            (&shown["policy"]["on_redis_down"], &shown["policy"]["strict"]),
            (&json!(on_redis_down), &json!(strict))
        );
        plans.push((id, strict, wanted));
    }
    // Another rate keeps them; another policy replaces them.
    let path = format!("/v1/plans/{}", plans[1].0);
    let kept = petra.patch(&path, json!({"rate_limit": 600})).await.expect(StatusCode::OK).json;
    assert_eq!((&kept["policy"]["on_redis_down"], &kept["policy"]["strict"]), (&json!("open"), &json!(true)));
    publish(&petra, product).await;

    let book = Arc::new(Book::default());
    let metrics = BuilderMetrics::register(&Registry::new()).unwrap();
    Builder::new(app.state.store.clone(), Arc::clone(&book), metrics).step().await.unwrap();
    for (id, strict, wanted) in plans {
        let record = book.record(&EntityRef { kind: EntityKind::Plan, id }).unwrap();
        let Some(wire::record::Record::Plan(plan)) = &record.record else { panic!("{record:?}") };
        let policy = plan.policy.as_ref().unwrap();
        assert_eq!((policy.on_redis_down(), policy.strict), (wanted, strict));
    }
}

#[tokio::test]
async fn a_policy_that_nobody_knows_is_refused_by_name() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = draft_product(&petra, "weather", json!({})).await;
    let id = add_plan(&petra, product, "basic", json!({})).await;
    for (policy, pointer) in [
        (json!({"on_redis_down": "ajar"}), "/policy/on_redis_down"),
        (json!({"on_redis_down": 1}), "/policy/on_redis_down"),
        (json!({"strict": "yes"}), "/policy/strict"),
        (json!({"algorithm": "leaky_bucket"}), "/policy/algorithm"),
        (json!({"stricter": true}), "/policy/stricter"),
    ] {
        let answer = petra.patch(&format!("/v1/plans/{id}"), json!({"policy": policy})).await;
        let answer = answer.expect_problem(422, "validation_failed");
        assert_eq!(answer.pointers(), [pointer], "{policy}");
    }
}
