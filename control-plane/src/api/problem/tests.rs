//! Problems: one form for all of them, whoever raised them.

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::{ALL_CODES, ApiError, Code};
use crate::store::StoreError;
use crate::testing::App;

#[test]
fn codes_are_unique_words_with_an_error_status() {
    let mut seen = std::collections::HashSet::new();
    for code in ALL_CODES {
        assert!(seen.insert(code.as_str()), "{} stands twice", code.as_str());
        assert!(code.status().is_client_error() || code.status().is_server_error());
        assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    }
}

#[tokio::test]
async fn a_problem_has_every_member_and_the_request_id_of_the_header() {
    let app = App::start().await;
    let answer = app.nobody().get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    assert_eq!(answer.json["type"], "/errors/unauthenticated");
    assert_eq!(answer.json["status"], 401);
    assert_eq!(answer.json["instance"], "/v1/users/me");
    assert!(answer.json["title"].is_string() && answer.json["detail"].is_string());
    assert!(answer.header("www-authenticate").starts_with("Bearer"));
    let id: uuid::Uuid = answer.header("x-request-id").parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
}

#[test]
fn a_commit_whose_outcome_is_unknown_is_never_told_as_nothing_changed() {
    let lost = ApiError::from(StoreError::OutcomeUnknown("connection closed".to_owned()));
    assert_eq!(lost.code, Code::Unavailable);
    assert!(lost.detail.starts_with("It may or may not have been done"), "{}", lost.detail);
    let away = ApiError::from(StoreError::unavailable("connection refused"));
    assert!(away.detail.ends_with("Nothing was changed."), "{}", away.detail);
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_method_are_problems_too() {
    let app = App::start().await;
    app.nobody().get("/v1/none").await.expect_problem(404, "not_found");
    let answer = app.nobody().delete("/v1/users").await.expect_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "POST");
    app.nobody().with(&[], Method::TRACE, "/v1/users/me", None).await.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let app = App::start().await;
    for path in ["/v1/none", "/v1/openapi.json", "/v1/reference", "/livez", "/metrics", "/v1/users/me"] {
        let answer = app.nobody().get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn a_client_cannot_choose_the_request_id() {
    let app = App::start().await;
    let answer = app.nobody().with(&[("x-request-id", "mine")], Method::GET, "/livez", None).await;
    assert_ne!(answer.header("x-request-id"), "mine");
}

#[tokio::test]
async fn postgres_away_is_503_with_retry_after_and_comes_back_by_itself() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let name = app.database.url.split('/').nth(3).unwrap().split('?').next().unwrap().to_owned();
    let admin_url = app.database.url.replace(&format!("/{name}"), "/postgres");
    let (client, connection) = tokio_postgres::connect(&admin_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    client.query(kill, &[&name]).await.unwrap();
    let started = std::time::Instant::now();
    let answer = ann.post("/v1/organizations", json!({"slug": "acme", "name": "Acme"})).await;
    let answer = answer.expect_problem(503, "unavailable");
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!(answer.header("retry-after"), "2");
    assert!(!answer.text.contains("connect"), "{}", answer.text);
    client.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.unwrap();
    ann.post("/v1/organizations", json!({"slug": "acme", "name": "Acme"})).await.expect(StatusCode::CREATED);
}
