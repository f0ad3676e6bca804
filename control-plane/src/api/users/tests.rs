//! Registration and one's own profile.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::testing::{App, PASSWORD};

#[tokio::test]
async fn registration_makes_a_user_and_an_organization_that_he_owns() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let me = ann.get("/v1/users/me").await.expect(StatusCode::OK);
    assert_eq!((me.json["email"].as_str(), me.json["is_admin"].as_bool()), (Some("ann@example.com"), Some(false)));
    assert_eq!(me.header("etag"), "\"1\"");
    let own = ann.get(&format!("/v1/organizations/{}", ann.organization_id)).await.expect(StatusCode::OK);
    assert_eq!((own.json["slug"].as_str(), own.json["role"].as_str()), (Some("ann"), Some("owner")));
    assert_eq!(own.json["is_personal"], true);
    assert!(!me.text.contains("password") && !me.text.contains("argon2"));
}

#[tokio::test]
async fn a_taken_or_reserved_slug_gets_a_suffix() {
    let app = App::start().await;
    let mut slugs = Vec::new();
    for host in ["a.test", "b.test", "c.test"] {
        let body = json!({"email": format!("ann@{host}"), "password": PASSWORD});
        let answer = app.nobody().post("/v1/users", body).await.expect(StatusCode::CREATED);
        slugs.push(answer.json["personal_organization_slug"].as_str().unwrap().to_owned());
    }
    assert_eq!(slugs, ["ann", "ann-2", "ann-3"]);
    let body = json!({"email": "admin@a.test", "password": PASSWORD, "display_name": "The Boss"});
    let boss = app.nobody().post("/v1/users", body).await.expect(StatusCode::CREATED);
    assert_eq!(boss.json["personal_organization_slug"], "the-boss");
    let body = json!({"email": "x@a.test", "password": PASSWORD, "display_name": "李"});
    let other = app.nobody().post("/v1/users", body).await.expect(StatusCode::CREATED);
    assert_eq!(other.json["personal_organization_slug"], "personal");
}

#[tokio::test]
async fn an_address_registers_once_whatever_its_case() {
    let app = App::start().await;
    app.user("ann").await;
    let body = json!({"email": "ANN@example.com", "password": PASSWORD});
    app.nobody().post("/v1/users", body).await.expect_problem(409, "already_exists");
}

#[tokio::test]
async fn nothing_can_be_assigned_that_is_not_offered() {
    let app = App::start().await;
    for field in ["is_admin", "role", "id", "status", "organization_id", "password_hash"] {
        let mut body = json!({"email": "eve@example.com", "password": PASSWORD});
        body[field] = json!(true);
        let answer = app.nobody().post("/v1/users", body).await.expect_problem(422, "validation_failed");
        assert_eq!(answer.pointers(), [format!("/{field}")]);
    }
}

#[tokio::test]
async fn all_faults_of_a_registration_are_told_at_once_and_no_password_is_echoed() {
    let app = App::start().await;
    let body = json!({"email": "nobody", "password": "hunter2", "display_name": "\u{7}"});
    let answer = app.nobody().post("/v1/users", body).await.expect_problem(422, "validation_failed");
    assert_eq!(answer.pointers(), ["/email", "/display_name", "/password"]);
    assert!(!answer.text.contains("hunter2"));
}

#[tokio::test]
async fn registration_can_be_closed() {
    let app = App::start_with("[sessions]\nregistration_open = false\n").await;
    let body = json!({"email": "ann@example.com", "password": PASSWORD});
    app.nobody().post("/v1/users", body).await.expect_problem(403, "registration_closed");
}

#[tokio::test]
async fn a_profile_is_changed_on_the_version_that_was_read() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let change = async |tag: &str, name: &str| {
        ann.with(&[("if-match", tag)], Method::PATCH, "/v1/users/me", Some(json!({"display_name": name}))).await
    };
    let changed = change("\"1\"", "Ann B").await.expect(StatusCode::OK);
    assert_eq!((changed.header("etag"), changed.json["display_name"].as_str()), ("\"2\"", Some("Ann B")));
    let stale = change("\"1\"", "Ann C").await.expect_problem(412, "precondition_failed");
    assert_eq!(stale.header("etag"), "\"2\"");
    change("W/\"2\"", "Ann C").await.expect_problem(412, "precondition_failed");
    change("\"9\", \"2\"", "Ann C").await.expect(StatusCode::OK);
    change("*", "Ann D").await.expect(StatusCode::OK);
    let null = ann.patch("/v1/users/me", json!({"display_name": null})).await.expect_problem(422, "validation_failed");
    assert_eq!(null.pointers(), ["/display_name"]);
}

#[tokio::test]
async fn a_new_password_needs_the_old_one_and_signs_the_others_out() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let elsewhere = app.nobody().sign_in(&ann.email, PASSWORD).await;
    let change = async |current: &str, new: &str| {
        ann.patch("/v1/users/me", json!({"password": {"current": current, "new": new}})).await
    };
    let wrong = change("not my password", "another good phrase").await.expect_problem(422, "validation_failed");
    assert_eq!(wrong.pointers(), ["/password/current"]);
    let weak = change(PASSWORD, "password123").await.expect_problem(422, "validation_failed");
    assert_eq!(weak.pointers(), ["/password/new"]);
    change(PASSWORD, "another good phrase").await.expect(StatusCode::OK);
    ann.get("/v1/users/me").await.expect(StatusCode::OK);
    elsewhere.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    app.nobody().sign_in(&ann.email, "another good phrase").await;
}
