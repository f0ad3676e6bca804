//! The audit log tells who did what, newest first, without secrets.

use axum::http::StatusCode;
use serde_json::json;

use crate::testing::App;

#[tokio::test]
async fn every_change_leaves_an_entry_with_its_actor_and_request() {
    let app = App::start().await;
    let (ann, ben) = (app.user("ann").await, app.user("ben").await);
    let org = format!("/v1/organizations/{}", ann.organization_id);
    let token = ann.with_token(&["admin"]).await;
    let renamed = token.patch(&org, json!({"name": "Renamed"})).await.expect(StatusCode::OK);
    ann.post(&format!("{org}/members"), json!({"email": ben.email, "role": "viewer"}))
        .await
        .expect(StatusCode::CREATED);
    ann.patch(&format!("{org}/members/{}", ben.user_id), json!({"role": "admin"})).await.expect(StatusCode::OK);
    ann.delete(&format!("{org}/members/{}", ben.user_id)).await.expect(StatusCode::NO_CONTENT);
    let log = ann.get(&format!("{org}/audit-log")).await.expect(StatusCode::OK);
    let entries = log.json["data"].as_array().unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    let wanted = ["member.delete", "member.update", "member.create", "organization.update", "organization.create"];
    assert_eq!(actions, wanted);
    let update = &entries[3];
    assert_eq!(update["actor_user_id"], json!(ann.user_id));
    assert!(update["actor_token_id"].is_string());
    assert_eq!(update["request_id"].as_str(), Some(renamed.header("x-request-id")));
    assert_eq!((&update["before"]["name"], &update["after"]["name"]), (&json!("ann"), &json!("Renamed")));
    assert_eq!(update["address"], "127.0.0.1");
}

#[tokio::test]
async fn the_log_can_be_filtered_and_paged() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let org = format!("/v1/organizations/{}", ann.organization_id);
    for n in 0..5 {
        ann.patch(&org, json!({"name": format!("N{n}")})).await.expect(StatusCode::OK);
    }
    let get = async |query: &str| ann.get(&format!("{org}/audit-log?{query}")).await.expect(StatusCode::OK).json;
    assert_eq!(get("action=organization.create").await["data"].as_array().unwrap().len(), 1);
    assert_eq!(get("target_kind=product").await["data"], json!([]));
    assert_eq!(get(&format!("actor_user_id={}", ann.user_id)).await["data"].as_array().unwrap().len(), 6);
    let first = get("limit=4").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = get(&format!("limit=4&cursor={cursor}")).await;
    assert_eq!((second["data"].as_array().unwrap().len(), &second["next_cursor"]), (2, &json!(null)));
}

#[tokio::test]
async fn a_refused_change_leaves_no_entry() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let org = format!("/v1/organizations/{}", ann.organization_id);
    ann.delete(&format!("{org}/members/{}", ann.user_id)).await.expect_problem(409, "invalid_state");
    let log = ann.get(&format!("{org}/audit-log")).await;
    assert_eq!(log.json["data"].as_array().unwrap().len(), 1);
}
