//! Who may call: cookies, tokens, origins, scopes.

use axum::http::{Method, StatusCode, header};
use serde_json::json;

use crate::testing::App;

#[tokio::test]
async fn a_mutation_with_a_session_needs_the_origin_of_this_control_plane() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let body = json!({"display_name": "Ann"});
    for origin in
        ["https://evil.test", "http://hub.test", "null", "https://hub.test.evil.test", "https://hub.test:8443"]
    {
        let request = axum::http::Request::builder().method(Method::PATCH).uri("/v1/users/me");
        let cookie = ann.request(Method::GET, "/").body(()).unwrap().headers()[header::COOKIE].clone();
        let request = request.header(header::HOST, "hub.test").header(header::COOKIE, cookie);
        let request = request.header(header::CONTENT_TYPE, "application/json").header(header::ORIGIN, origin);
        let answer = ann.answer(request.body(body.to_string().into()).unwrap()).await;
        answer.expect_problem(403, "origin_refused");
    }
    ann.patch("/v1/users/me", body).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_public_address_in_the_settings_is_the_only_origin() {
    let app = App::start_with("[rest]\npublic_url = \"https://console.example.com/app\"\n").await;
    let nobody = app.nobody();
    let body = json!({"email": "ann@example.com", "password": crate::testing::PASSWORD});
    nobody.post("/v1/users", body.clone()).await.expect(StatusCode::CREATED);
    nobody.post("/v1/sessions", body.clone()).await.expect_problem(403, "origin_refused");
    let request = axum::http::Request::post("/v1/sessions").header(header::ORIGIN, "https://console.example.com");
    let request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string().into()).unwrap();
    nobody.answer(request).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_token_does_what_its_scope_allows_and_needs_no_origin() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let read = ann.with_token(&["read"]).await;
    read.get("/v1/users/me").await.expect(StatusCode::OK);
    read.post("/v1/organizations", json!({"slug": "a1", "name": "A"})).await.expect_problem(403, "insufficient_scope");
    let write = ann.with_token(&["read", "write"]).await;
    write.post("/v1/organizations", json!({"slug": "a1", "name": "A"})).await.expect_problem(403, "insufficient_scope");
    let admin = ann.with_token(&["admin"]).await;
    admin.with(&[("origin", "https://evil.test")], Method::GET, "/v1/users/me", None).await.expect(StatusCode::OK);
    admin.post("/v1/organizations", json!({"slug": "a1", "name": "A"})).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_token_of_one_organization_does_not_reach_another_nor_its_user() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let acme = ann.organization("acme").await;
    let body = json!({"name": "ci", "scopes": ["admin"], "organization_id": acme});
    let made = ann.post("/v1/access-tokens", body).await.expect(StatusCode::CREATED);
    let bound = ann.bearer(made.json["token"].as_str().unwrap());
    bound.get(&format!("/v1/organizations/{acme}")).await.expect(StatusCode::OK);
    bound.get(&format!("/v1/organizations/{}", ann.organization_id)).await.expect_problem(404, "not_found");
    let listed = bound.get("/v1/organizations").await.expect(StatusCode::OK);
    assert_eq!(listed.json["data"].as_array().unwrap().len(), 1);
    bound.get("/v1/access-tokens").await.expect_problem(403, "insufficient_scope");
    bound.get("/v1/sessions").await.expect_problem(403, "insufficient_scope");
    bound.post("/v1/organizations", json!({"slug": "a2", "name": "A"})).await.expect_problem(403, "insufficient_scope");
}

#[tokio::test]
async fn every_bad_credential_gets_the_same_answer() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let expected = ann.bearer("apihub_pat_x").get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    let long = "x".repeat(5000);
    for token in ["", "x", "apihub_pat_", "apihub_pat_\u{e9}", long.as_str()] {
        let answer = ann.bearer(token).get("/v1/users/me").await.expect_problem(401, "unauthenticated");
        assert_eq!(answer.json["detail"], expected.json["detail"]);
    }
    for cookie in ["__Host-apihub_session=", "__Host-apihub_session=x", "apihub_session=x", "=", ";;"] {
        let request = axum::http::Request::get("/v1/users/me").header(header::COOKIE, cookie);
        let answer = ann.answer(request.body(axum::body::Body::empty()).unwrap()).await;
        answer.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn a_bad_token_beside_a_good_session_is_refused() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let answer = ann.with(&[("authorization", "Bearer apihub_pat_x")], Method::GET, "/v1/users/me", None).await;
    answer.expect_problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_flood_of_bad_tokens_is_throttled_and_good_ones_are_not() {
    let app = App::start().await;
    let ann = app.user("ann").await.with_token(&["read"]).await;
    for _ in 0..300 {
        ann.get("/v1/users/me").await.expect(StatusCode::OK);
    }
    let bad = ann.bearer("apihub_pat_0000000000000000000000000000000000000000000");
    let mut statuses = Vec::new();
    for _ in 0..150 {
        statuses.push(bad.get("/v1/users/me").await.status.as_u16());
    }
    assert_eq!(statuses.first(), Some(&401));
    assert_eq!(statuses.last(), Some(&429));
}

#[tokio::test]
async fn a_suspended_user_is_out_at_once() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let token = ann.with_token(&["read"]).await;
    let id = ann.user_id;
    let suspend = app.state.store.run_tx("test", |tx| {
        Box::pin(async move { tx.execute_cached("UPDATE users SET status = 'suspended' WHERE id = $1", &[&id]).await })
    });
    let _: Result<u64, crate::store::StoreError> = suspend.await;
    ann.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    token.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    let body = json!({"email": ann.email, "password": crate::testing::PASSWORD});
    app.nobody().post("/v1/sessions", body).await.expect_problem(401, "invalid_credentials");
}
