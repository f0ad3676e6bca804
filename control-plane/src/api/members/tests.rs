//! Members: who may add, change and remove whom.

use axum::http::StatusCode;
use serde_json::json;

use crate::testing::{App, Client};

async fn add(by: &Client, members: &str, who: &Client, role: &str) {
    by.post(members, json!({"email": who.email, "role": role})).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn an_organization_has_only_so_many_members() {
    let app = App::start().await;
    let (ann, ben) = (app.user("ann").await, app.user("ben").await);
    let client = app.state.store.connection().await.unwrap();
    let sql = "WITH made AS (INSERT INTO users (id, email, display_name)
                   SELECT gen_random_uuid(), 'many' || n || '@example.com', 'Many' FROM generate_series(2, 1000) n RETURNING id)
               INSERT INTO organization_members (organization_id, user_id, role) SELECT $1, id, 'viewer' FROM made";
    assert_eq!(client.execute(sql, &[&ann.organization_id]).await.unwrap(), 999);
    let path = format!("/v1/organizations/{}/members", ann.organization_id);
    let refused = ann.post(&path, json!({"email": ben.email, "role": "viewer"})).await;
    let refused = refused.expect_problem(409, "invalid_state");
    assert!(refused.json["detail"].as_str().unwrap().contains("at most 1000"), "{}", refused.text);
}

#[tokio::test]
async fn roles_open_what_they_should_and_no_more() {
    let app = App::start().await;
    let (ann, ben, eve) = (app.user("ann").await, app.user("ben").await, app.user("eve").await);
    let acme = ann.organization("acme").await;
    let (org, members) = (format!("/v1/organizations/{acme}"), format!("/v1/organizations/{acme}/members"));
    add(&ann, &members, &ben, "viewer").await;
    ben.get(&org).await.expect(StatusCode::OK);
    ben.get(&members).await.expect(StatusCode::OK);
    let ben_path = format!("{members}/{}", ben.user_id);
    for role in ["viewer", "developer"] {
        ann.patch(&ben_path, json!({"role": role})).await.expect(StatusCode::OK);
        ben.patch(&org, json!({"name": "X"})).await.expect_problem(403, "insufficient_role");
        ben.get(&format!("{org}/audit-log")).await.expect_problem(403, "insufficient_role");
        ben.post(&members, json!({"email": eve.email, "role": "viewer"}))
            .await
            .expect_problem(403, "insufficient_role");
        ben.patch(&ben_path, json!({"role": "owner"})).await.expect_problem(403, "insufficient_role");
    }
    ann.patch(&ben_path, json!({"role": "admin"})).await.expect(StatusCode::OK);
    ben.patch(&org, json!({"name": "X"})).await.expect(StatusCode::OK);
    ben.get(&format!("{org}/audit-log")).await.expect(StatusCode::OK);
    add(&ben, &members, &eve, "developer").await;
    let listed = ann.get(&format!("{members}?role=developer")).await.expect(StatusCode::OK);
    assert_eq!(listed.json["data"][0]["email"], "eve@example.com");
}

#[tokio::test]
async fn admins_neither_make_nor_unmake_owners() {
    let app = App::start().await;
    let (ann, ben, eve) = (app.user("ann").await, app.user("ben").await, app.user("eve").await);
    let members = format!("/v1/organizations/{}/members", ann.organization_id);
    add(&ann, &members, &ben, "admin").await;
    ben.post(&members, json!({"email": eve.email, "role": "owner"})).await.expect_problem(403, "insufficient_role");
    let (ann_path, ben_path) = (format!("{members}/{}", ann.user_id), format!("{members}/{}", ben.user_id));
    ben.patch(&ben_path, json!({"role": "owner"})).await.expect_problem(403, "insufficient_role");
    ben.patch(&ann_path, json!({"role": "viewer"})).await.expect_problem(403, "insufficient_role");
    ben.delete(&ann_path).await.expect_problem(403, "insufficient_role");
}

#[tokio::test]
async fn an_organization_keeps_an_owner_even_when_two_leave_at_once() {
    let app = App::start().await;
    let (ann, ben) = (app.user("ann").await, app.user("ben").await);
    let members = format!("/v1/organizations/{}/members", ann.organization_id);
    let (ann_path, ben_path) = (format!("{members}/{}", ann.user_id), format!("{members}/{}", ben.user_id));
    let alone = ann.delete(&ann_path).await.expect_problem(409, "invalid_state");
    assert!(alone.json["detail"].as_str().unwrap().contains("owner"), "{}", alone.text);
    ann.patch(&ann_path, json!({"role": "viewer"})).await.expect_problem(409, "invalid_state");
    add(&ann, &members, &ben, "owner").await;
    let (one, other) = tokio::join!(ann.delete(&ann_path), ben.delete(&ben_path));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
}

#[tokio::test]
async fn somebody_who_leaves_is_a_stranger_again() {
    let app = App::start().await;
    let (ann, ben) = (app.user("ann").await, app.user("ben").await);
    let org = format!("/v1/organizations/{}", ann.organization_id);
    add(&ann, &format!("{org}/members"), &ben, "viewer").await;
    ben.delete(&format!("{org}/members/{}", ben.user_id)).await.expect(StatusCode::NO_CONTENT);
    ben.get(&org).await.expect_problem(404, "not_found");
    ann.delete(&format!("{org}/members/{}", ben.user_id)).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn only_somebody_registered_can_be_added_and_once() {
    let app = App::start().await;
    let (ann, ben) = (app.user("ann").await, app.user("ben").await);
    let members = format!("/v1/organizations/{}/members", ann.organization_id);
    let nobody = ann.post(&members, json!({"email": "no@example.com", "role": "viewer"})).await;
    assert_eq!(nobody.expect_problem(422, "validation_failed").pointers(), ["/email"]);
    let bad_role = ann.post(&members, json!({"email": ben.email, "role": "king"})).await;
    assert_eq!(bad_role.expect_problem(422, "validation_failed").pointers(), ["/role"]);
    add(&ann, &members, &ben, "viewer").await;
    ann.post(&members, json!({"email": ben.email, "role": "admin"})).await.expect_problem(409, "already_exists");
}
