//! Two rules that every operation keeps, tried on each one that the OpenAPI document names: a stranger's id is as good as none,
//! and whatever changes leaves an audit entry.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::fixture::{Shop, ask_database};
use crate::testing::{Answer, App, Client};

/// Not a tenant's: the operator's, the caller's own, or the public's.
const NOT_OF_A_TENANT: &[&str] =
    &["/v1/nodes/", "/v1/metering/", "/v1/sessions/", "/v1/access-tokens/", "/v1/catalog/", "/v1/billing-clocks/"];
/// Made for the shop, so that there is something to hide.
const INVOICE: &str = "01890000-0000-7000-8000-000000000001";
/// Deepest body that is made up; bodies are flatter than this.
const DEPTH_MAX: usize = 4;

struct Operation {
    method: Method,
    path: String,
    body: Option<Value>,
}

/// Every operation whose path names a thing of the shop, with a body that its schema takes.
async fn operations(app: &App, shop: &Shop) -> Vec<Operation> {
    let document = app.nobody().get("/v1/openapi.json").await.json;
    super::fixture::run_sql(
        app,
        &format!(
            "INSERT INTO invoices (id, consumer_organization_id, publisher_organization_id, month, period_start, period_end, time_zone, currency)
             VALUES ('{INVOICE}', '{}', '{}', '2020-01-01', '2020-01-01', '2020-02-01', 'UTC', 'USD')",
            shop.consumer_organization, shop.publisher_organization
        ),
    )
    .await;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if !path.contains('{') || NOT_OF_A_TENANT.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            // A body that may be left out is.
            let body = (!schema.is_null()).then(|| example(&document, schema, 0)).filter(|body| !body.is_null());
            found.push(Operation { method, path: filled(path, shop), body });
        }
    }
    found
}

/// The path with the shop's own ids.
fn filled(path: &str, shop: &Shop) -> String {
    let id = match path.split('/').nth(2) {
        Some("organizations") if path.contains("/subscriptions") => shop.consumer_organization,
        Some("organizations") => shop.publisher_organization,
        Some("products") => shop.product,
        Some("endpoints") => shop.endpoint,
        Some("plans") => shop.plan,
        Some("subscriptions") => shop.subscription,
        Some("keys") => shop.key,
        Some("invoices") => INVOICE.parse().unwrap(),
        other => panic!("{path}: which id does {other:?} take?"),
    };
    let path = path.replace("{id}", &id.to_string()).replace("{user_id}", &shop.publisher.user_id.to_string());
    let path = path.replace("{publisher_id}", &shop.publisher_organization.to_string());
    let path =
        path.replace("{number}", "1").replace("{a}", "1").replace("{b}", "1").replace("{host}", "api.example.com");
    assert!(!path.contains('{'), "{path}");
    path
}

/// The least that a schema takes.
fn example(document: &Value, schema: &Value, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|text| text.strip_prefix("#/components/schemas/")) {
        return example(document, &document["components"]["schemas"][name], depth + 1);
    }
    if let Some(choice) = schema["enum"].as_array().and_then(|choices| choices.first()) {
        return choice.clone();
    }
    if let Some(part) = schema["oneOf"].as_array().or(schema["allOf"].as_array()).and_then(|parts| parts.last()) {
        return example(document, part, depth + 1);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = required.iter().filter_map(Value::as_str);
            Value::Object(
                fields
                    .map(|name| (name.to_owned(), example(document, &schema["properties"][name], depth + 1)))
                    .collect::<Map<_, _>>(),
            )
        }
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("string") if schema["format"] == "uuid" => json!(uuid::Uuid::now_v7()),
        Some("string") => json!("1"),
        _ => Value::Null,
    }
}

async fn send(client: &Client, operation: &Operation) -> Answer {
    client.with(&[], operation.method.clone(), &operation.path, operation.body.clone()).await
}

#[tokio::test]
async fn no_operation_tells_a_stranger_that_something_is_there() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let stranger = app.user("stranger").await;
    let operations = operations(&app, &shop).await;
    assert!(operations.len() >= 45, "only {} operations were tried", operations.len());
    let before = ask_database(&app, "SELECT count(*) FROM audit_log").await;
    for operation in &operations {
        let answer = send(&stranger, operation).await;
        let name = format!("{} {} {:?}: {}", operation.method, operation.path, operation.body, answer.text);
        assert_eq!(answer.status.as_u16(), 404, "{name}");
        let nobody = send(&app.nobody(), operation).await;
        assert_eq!(nobody.status.as_u16(), 401, "{} {}: {}", operation.method, operation.path, nobody.text);
    }
    assert_eq!(ask_database(&app, "SELECT count(*) FROM audit_log").await, before, "a stranger changed something");
}

#[tokio::test]
async fn an_access_token_of_another_organization_finds_nothing_either() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let other = shop.publisher.organization("elsewhere").await;
    let body = json!({"name": "bound", "scopes": ["admin"], "organization_id": other});
    let token = shop.publisher.post("/v1/access-tokens", body).await.expect(axum::http::StatusCode::CREATED);
    let bound = shop.publisher.bearer(token.json["token"].as_str().unwrap());
    for operation in operations(&app, &shop).await {
        let answer = send(&bound, &operation).await;
        assert_eq!(answer.status.as_u16(), 404, "{} {}: {}", operation.method, operation.path, answer.text);
    }
}

/// Bodies that succeed, in an order in which each one can; every mutating operation of the document must be among them.
fn mutations(shop: &Shop) -> Vec<(&'static str, Method, String, Value, bool)> {
    let publisher = format!("/v1/organizations/{}", shop.publisher_organization);
    let consumer = format!("/v1/organizations/{}", shop.consumer_organization);
    let (product, plan, key) = (shop.product_path(""), format!("/v1/plans/{}", shop.plan), shop.key_path(""));
    let (endpoint, subscription) = (format!("/v1/endpoints/{}", shop.endpoint), shop.subscription_path(""));
    let (post, patch, put, delete) = (Method::POST, Method::PATCH, Method::PUT, Method::DELETE);
    let none = json!({});
    let (by_publisher, by_consumer) = (true, false);
    vec![
        (
            "/v1/organizations/{id}/products",
            post.clone(),
            format!("{publisher}/products"),
            json!({"slug": "new", "name": "New"}),
            by_publisher,
        ),
        ("/v1/products/{id}", patch.clone(), product.clone(), json!({"name": "Weather 2"}), by_publisher),
        (
            "/v1/products/{id}/endpoints",
            post.clone(),
            format!("{product}/endpoints"),
            json!({"method": "GET", "path_pattern": "/new", "target_url": "https://api.example.com"}),
            by_publisher,
        ),
        ("/v1/endpoints/{id}", patch.clone(), endpoint.clone(), json!({"retries": 1}), by_publisher),
        ("/v1/endpoints/{id}", delete.clone(), endpoint, none.clone(), by_publisher),
        (
            "/v1/products/{id}/plans",
            post.clone(),
            format!("{product}/plans"),
            json!({"slug": "pro", "name": "Pro", "price": "9", "rate_limit": 10}),
            by_publisher,
        ),
        ("/v1/plans/{id}", patch.clone(), plan.clone(), json!({"name": "Basic 2"}), by_publisher),
        ("/v1/plans/{id}/versions", post.clone(), format!("{plan}/versions"), none.clone(), by_publisher),
        ("/v1/products/{id}/publish", post.clone(), format!("{product}/publish"), none.clone(), by_publisher),
        (
            "/v1/products/{id}/rollback",
            post.clone(),
            format!("{product}/rollback"),
            json!({"release": 1}),
            by_publisher,
        ),
        (
            "/v1/products/{id}/hosts",
            post.clone(),
            format!("{product}/hosts"),
            json!({"host": "api.example.com"}),
            by_publisher,
        ),
        (
            "/v1/products/{id}/hosts/{host}",
            delete.clone(),
            format!("{product}/hosts/api.example.com"),
            none.clone(),
            by_publisher,
        ),
        (
            "/v1/subscriptions/{id}/override",
            put,
            format!("{subscription}/override"),
            json!({"requests_per_minute": 100}),
            by_publisher,
        ),
        ("/v1/subscriptions/{id}/override", delete, format!("{subscription}/override"), none.clone(), by_publisher),
        ("/v1/subscriptions/{id}/suspend", post.clone(), format!("{subscription}/suspend"), none.clone(), by_publisher),
        ("/v1/subscriptions/{id}/resume", post.clone(), format!("{subscription}/resume"), none.clone(), by_publisher),
        ("/v1/keys/{id}", patch, key.clone(), json!({"name": "renamed"}), by_consumer),
        ("/v1/keys/{id}/rotate", post.clone(), format!("{key}/rotate"), none.clone(), by_consumer),
        ("/v1/keys/{id}/revoke", post.clone(), format!("{key}/revoke"), none.clone(), by_consumer),
        (
            "/v1/subscriptions/{id}/keys",
            post.clone(),
            format!("{subscription}/keys"),
            json!({"name": "another"}),
            by_consumer,
        ),
        (
            "/v1/subscriptions/{id}/cancel",
            post.clone(),
            format!("{subscription}/cancel"),
            json!({"when": "now"}),
            by_consumer,
        ),
        ("/v1/products/{id}/deprecate", post.clone(), format!("{product}/deprecate"), none.clone(), by_publisher),
        ("/v1/products/{id}/retire", post.clone(), format!("{product}/retire"), none, by_publisher),
        ("/v1/organizations/{id}/subscriptions", post, format!("{consumer}/subscriptions"), Value::Null, by_consumer),
    ]
}

/// Mutations that other tests follow: accounts and members by their own room, the rest by a shop in another state.
const TRIED_ELSEWHERE: &[&str] = &[
    "/v1/users",
    "/v1/sessions",
    "/v1/access-tokens",
    // A ticket changes nothing that anybody has.
    "/v1/live/tickets",
    "/v1/nodes",
    "/v1/fleet",
    "/v1/metering",
    "/v1/organizations/{id}/members",
    "/v1/subscriptions/{id}/approve",
    "/v1/subscriptions/{id}/reject",
    "/v1/plans/{id}/archive",
    "/v1/products/{id}/caps",
    "/v1/products/{id}/hosts/{host}/verify",
    "/v1/subscriptions/{id}/plan",
    "/v1/invoices",
    "/v1/organizations/{id}/credit",
    "/v1/organizations/{id}/budgets",
    "/v1/billing-clocks",
];

#[tokio::test]
async fn every_mutation_leaves_an_audit_entry() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let mutations = mutations(&shop);
    for (name, method, path, body, by_publisher) in &mutations {
        if body.is_null() {
            continue;
        }
        let before = ask_database(&app, "SELECT count(*) FROM audit_log").await;
        let client = if *by_publisher { &shop.publisher } else { &shop.consumer };
        let body = (*method != Method::DELETE).then(|| body.clone());
        let answer = client.with(&[], method.clone(), path, body).await;
        assert!(answer.status.is_success(), "{method} {name}: {}", answer.text);
        let after = ask_database(&app, "SELECT count(*) FROM audit_log").await;
        assert!(after > before, "{method} {name} left no audit entry");
    }
    let document = app.nobody().get("/v1/openapi.json").await.json;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["post", "put", "patch", "delete"].iter().filter(|method| item.get(**method).is_some()) {
            let is_deletion_of_a_draft =
                *method == "delete" && ["/v1/products/{id}", "/v1/plans/{id}"].contains(&path.as_str());
            let is_listed =
                mutations.iter().any(|(name, found, ..)| name == path && found.as_str().eq_ignore_ascii_case(method));
            let is_elsewhere = TRIED_ELSEWHERE.iter().any(|prefix| path.starts_with(prefix))
                || path == "/v1/organizations"
                || path == "/v1/organizations/{id}";
            assert!(is_deletion_of_a_draft || is_listed || is_elsewhere, "{method} {path} is not tried");
        }
    }
}

#[tokio::test]
async fn steps_that_need_another_shop_leave_an_audit_entry_too() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let product = super::fixture::draft_product(&petra, "weather", json!({"approval": "manual"})).await;
    super::fixture::add_endpoint(&petra, product, "GET", "/").await;
    let plan = super::fixture::add_plan(&petra, product, "basic", json!({})).await;
    super::fixture::publish(&petra, product).await;
    let draft = super::fixture::add_plan(&petra, product, "pro", json!({})).await;
    petra.delete(&format!("/v1/plans/{draft}")).await.expect(axum::http::StatusCode::NO_CONTENT);
    let unwanted = super::fixture::draft_product(&petra, "unwanted", json!({})).await;
    petra.delete(&format!("/v1/products/{unwanted}")).await.expect(axum::http::StatusCode::NO_CONTENT);
    for (name, step) in [("carl", "approve"), ("dora", "reject")] {
        let consumer = app.user(name).await;
        let subscription = super::fixture::subscribe(&consumer, plan).await;
        let path = format!("/v1/subscriptions/{subscription}/{step}");
        petra.post(&path, json!({})).await.expect(axum::http::StatusCode::OK);
    }
    petra.post(&format!("/v1/plans/{plan}/archive"), json!({})).await.expect(axum::http::StatusCode::OK);
    let by_publisher = [
        "product.delete",
        "plan.delete",
        "subscription.approve",
        "subscription.reject",
        "plan.archive",
        "plan.activate",
    ];
    for action in by_publisher {
        let (organization, sql) = (petra.organization_id, "SELECT count(*) FROM audit_log WHERE action =");
        let count = format!("{sql} '{action}' AND organization_id = '{organization}'");
        assert_eq!(ask_database(&app, &count).await, 1, "{action}");
    }
    let requested = "SELECT count(*) FROM audit_log WHERE action = 'subscription.create'";
    assert_eq!(ask_database(&app, requested).await, 2);
}
