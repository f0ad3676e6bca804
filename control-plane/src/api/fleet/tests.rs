//! The size of the fleet through the router: read, set, guarded, and never below what there is.

use axum::http::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::api::fixture::ask_database;
use crate::store::fleet::make_room;
use crate::store::nodes::{NewNode, mark_disconnected, register_node};
use crate::testing::App;

const PATH: &str = "/v1/fleet";

fn node(name: &str) -> NewNode {
    NewNode {
        id: Uuid::now_v7(),
        name: name.into(),
        boot_id: Uuid::now_v7(),
        version: "0.1.0".into(),
        features: vec![],
        address: None,
        served: None,
    }
}

async fn nodes(app: &App, names: &[&str]) -> Vec<NewNode> {
    let nodes: Vec<_> = names.iter().map(|name| node(name)).collect();
    for node in &nodes {
        register_node(&app.state.store, node).await.unwrap();
    }
    nodes
}

#[tokio::test]
async fn an_operator_sets_the_size_with_a_revision_an_audit_entry_and_an_etag() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    let got = operator.get(PATH).await.expect(StatusCode::OK);
    assert_eq!((&got.json, got.header("etag")), (&json!({"fleet_max": 1, "nodes": 0}), "\"1\""));

    let set = operator.with(&[("if-match", "\"1\"")], Method::PUT, PATH, Some(json!({"fleet_max": 12}))).await;
    let set = set.expect(StatusCode::OK);
    assert_eq!((&set.json, set.header("etag")), (&json!({"fleet_max": 12, "nodes": 0}), "\"12\""));
    assert!(set.header("x-config-revision").parse::<u64>().unwrap() > 0);
    let written = "SELECT count(*) FROM audit_log WHERE action = 'fleet.set' AND before ->> 'fleet_max' = '1'
        AND after ->> 'fleet_max' = '12' AND actor_user_id IS NOT NULL";
    assert_eq!(ask_database(&app, written).await, 1);

    let stale = operator.with(&[("if-match", "\"1\"")], Method::PUT, PATH, Some(json!({"fleet_max": 13}))).await;
    stale.expect_problem(412, "precondition_failed");
    let same = operator.put(PATH, json!({"fleet_max": 12})).await.expect(StatusCode::OK);
    assert!(!same.headers.contains_key("x-config-revision"), "nothing changed, so there is no change");
    assert_eq!(ask_database(&app, "SELECT count(*) FROM config_changes WHERE entity = 'fleet'").await, 1);
}

#[tokio::test]
async fn a_size_that_cannot_be_is_refused_by_name() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    for size in [json!(0), json!(10_001), json!(4_000_000_000_u32), json!(-1), json!("three"), json!(null)] {
        let answer = operator.put(PATH, json!({"fleet_max": size})).await.expect_problem(422, "validation_failed");
        assert_eq!(answer.pointers(), ["/fleet_max"], "{size}");
    }
    operator.put(PATH, json!({"fleet_max": 10_000})).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn it_is_raised_for_every_node_and_lowered_only_by_hand_and_not_below_them() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    let all = nodes(&app, &["a", "b", "c"]).await;
    assert!(make_room(&app.state.store).await.unwrap().is_some());
    assert!(make_room(&app.state.store).await.unwrap().is_none(), "there is room now");
    assert_eq!(operator.get(PATH).await.json, json!({"fleet_max": 3, "nodes": 3}));
    let by_itself = "SELECT count(*) FROM audit_log WHERE action = 'fleet.raise' AND actor_user_id IS NULL";
    assert_eq!(ask_database(&app, by_itself).await, 1);

    operator.put(PATH, json!({"fleet_max": 2})).await.expect_problem(409, "invalid_state");
    mark_disconnected(&app.state.store, all[0].id, all[0].boot_id).await.unwrap();
    operator.put(PATH, json!({"fleet_max": 2})).await.expect_problem(409, "invalid_state");
    operator.delete(&format!("/v1/nodes/{}", all[0].id)).await.expect(StatusCode::NO_CONTENT);
    assert!(make_room(&app.state.store).await.unwrap().is_none());
    assert_eq!(operator.get(PATH).await.json, json!({"fleet_max": 3, "nodes": 2}), "never lowered unasked");
    operator.put(PATH, json!({"fleet_max": 2})).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn both_processes_of_an_upgrade_count_and_a_drained_node_as_long_as_it_is_there() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    let all = nodes(&app, &["a", "b"]).await;
    let successor = NewNode { boot_id: Uuid::now_v7(), ..all[0].clone() };
    register_node(&app.state.store, &successor).await.unwrap();
    assert_eq!(operator.get(PATH).await.json["nodes"], 3);
    mark_disconnected(&app.state.store, all[0].id, all[0].boot_id).await.unwrap();
    assert_eq!(operator.get(PATH).await.json["nodes"], 2);

    operator.post(&format!("/v1/nodes/{}/drain", all[1].id), json!({})).await.expect(StatusCode::OK);
    assert_eq!(operator.get(PATH).await.json["nodes"], 2, "it still serves");
    mark_disconnected(&app.state.store, all[1].id, all[1].boot_id).await.unwrap();
    assert_eq!(operator.get(PATH).await.json["nodes"], 1);

    operator.put(PATH, json!({"fleet_max": 1})).await.expect(StatusCode::OK);
    // Expected again, it is counted before it is seen.
    let active = operator.post(&format!("/v1/nodes/{}/activate", all[1].id), json!({})).await.expect(StatusCode::OK);
    assert!(active.headers.contains_key("x-config-revision"), "room was made");
    assert_eq!(operator.get(PATH).await.json, json!({"fleet_max": 2, "nodes": 2}));
}

#[tokio::test]
async fn nodes_that_come_at_the_same_time_are_all_counted() {
    let app = App::start().await;
    let register = |index: usize| {
        let store = app.state.store.clone();
        async move {
            register_node(&store, &node(&format!("n{index}"))).await.unwrap();
            make_room(&store).await.unwrap();
        }
    };
    futures::future::join_all((0..12).map(register)).await;
    assert_eq!(ask_database(&app, "SELECT fleet_max::bigint FROM feed_state").await, 12);
}

#[tokio::test]
async fn the_size_is_for_operators_alone() {
    let app = App::start().await;
    let (ann, operator) = (app.user("ann").await, app.admin("olga").await);
    ann.get(PATH).await.expect_problem(403, "forbidden");
    ann.put(PATH, json!({"fleet_max": 5})).await.expect_problem(403, "forbidden");
    app.nobody().get(PATH).await.expect_problem(401, "unauthenticated");
    let writer = operator.with_token(&["read", "write"]).await;
    writer.put(PATH, json!({"fleet_max": 5})).await.expect_problem(403, "insufficient_scope");
}
