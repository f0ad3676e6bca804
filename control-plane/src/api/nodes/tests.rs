//! Operators see the nodes and say which are waited for; nobody else does.

use axum::http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::store::nodes::{NewNode, RegisterError, mark_disconnected, register_node};
use crate::testing::{App, until_blocked};

fn node(name: &str) -> NewNode {
    NewNode {
        id: Uuid::now_v7(),
        name: name.into(),
        boot_id: Uuid::now_v7(),
        version: "0.1.0".into(),
        features: vec!["routes.v1".into()],
        address: Some("127.0.0.1:4000".into()),
        served: None,
    }
}

#[tokio::test]
async fn an_operator_drains_activates_and_removes_a_node() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    let gateway = node("gateway-1");
    register_node(&app.state.store, &gateway).await.unwrap();
    let page = operator.get("/v1/nodes").await.expect(StatusCode::OK);
    let shown = &page.json["data"][0];
    assert_eq!(
        (&shown["name"], &shown["state"], &shown["is_connected"]),
        (&json!("gateway-1"), &json!("active"), &json!(true))
    );
    assert_eq!((&shown["served_revision"], &shown["refusals"]), (&json!(null), &json!([])));

    let path = |what: &str| format!("/v1/nodes/{}{what}", gateway.id);
    let drained = operator.post(&path("/drain"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(drained.json["state"], "drained");
    let active = operator.post(&path("/activate"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(active.json["state"], "active");

    operator.delete(&path("")).await.expect_problem(409, "invalid_state");
    mark_disconnected(&app.state.store, gateway.id, gateway.boot_id).await.unwrap();
    operator.delete(&path("")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(operator.get("/v1/nodes").await.json["data"], json!([]));
    operator.delete(&path("")).await.expect_problem(404, "not_found");

    // It comes back, so it is evidently there.
    register_node(&app.state.store, &gateway).await.unwrap();
    assert_eq!(operator.get("/v1/nodes").await.json["data"][0]["state"], "active");
}

#[tokio::test]
async fn a_node_that_is_just_coming_back_is_neither_removed_nor_robbed_of_its_name() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    let gateway = node("gateway-1");
    register_node(&app.state.store, &gateway).await.unwrap();
    mark_disconnected(&app.state.store, gateway.id, gateway.boot_id).await.unwrap();
    // As `register_node` does, not committed yet.
    let coming = app.state.store.connection().await.unwrap();
    let hello = format!(
        "BEGIN; UPDATE nodes SET last_seen_at = now() WHERE id = '{0}';
         UPDATE node_processes SET is_connected = true, last_seen_at = now() WHERE node_id = '{0}'",
        gateway.id
    );
    coming.batch_execute(&hello).await.unwrap();
    let path = format!("/v1/nodes/{}", gateway.id);
    let removing = tokio::spawn(async move { operator.delete(&path).await });
    let store = app.state.store.clone();
    let robbing = tokio::spawn(async move { register_node(&store, &node("gateway-1")).await });
    until_blocked(&app.state.store, 2).await;
    coming.batch_execute("COMMIT").await.unwrap();
    removing.await.unwrap().expect_problem(409, "invalid_state");
    assert!(matches!(robbing.await.unwrap(), Err(RegisterError::NameTaken { .. })));
}

#[tokio::test]
async fn nodes_come_in_pages() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    for name in ["a", "b", "c"] {
        register_node(&app.state.store, &node(name)).await.unwrap();
    }
    let first = operator.get("/v1/nodes?limit=2").await.expect(StatusCode::OK);
    assert_eq!(first.json["data"].as_array().unwrap().len(), 2);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let second = operator.get(&format!("/v1/nodes?limit=2&cursor={cursor}")).await.expect(StatusCode::OK);
    assert_eq!((&second.json["data"][0]["name"], &second.json["next_cursor"]), (&json!("c"), &json!(null)));
}

#[tokio::test]
async fn nodes_are_for_operators_alone() {
    let app = App::start().await;
    let (ann, operator) = (app.user("ann").await, app.admin("olga").await);
    let path = format!("/v1/nodes/{}/drain", Uuid::now_v7());
    ann.get("/v1/nodes").await.expect_problem(403, "forbidden");
    ann.post(&path, json!({})).await.expect_problem(403, "forbidden");
    app.nobody().get("/v1/nodes").await.expect_problem(401, "unauthenticated");
    let reader = operator.with_token(&["read"]).await;
    reader.get("/v1/nodes").await.expect_problem(403, "insufficient_scope");
    reader.post(&path, json!({})).await.expect_problem(403, "insufficient_scope");
}
