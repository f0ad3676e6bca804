//! Signing in and out.

use axum::http::{StatusCode, header};
use serde_json::json;

use crate::testing::{App, PASSWORD};

#[tokio::test]
async fn the_cookie_is_locked_to_this_host_and_out_of_scripts_reach() {
    let app = App::start().await;
    app.user("ann").await;
    let body = json!({"email": "Ann@Example.com", "password": PASSWORD});
    let answer = app.nobody().post("/v1/sessions", body).await.expect(StatusCode::CREATED);
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-apihub_session="), "{cookie}");
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Max-Age=1209600"] {
        assert!(cookie.contains(part), "{cookie} lacks {part}");
    }
    let token = cookie.split(['=', ';']).nth(1).unwrap();
    assert_eq!(token.len(), 43, "256 bits in base62");
    assert!(!answer.text.contains(token), "the token is in the body");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json["user"]["email"], "ann@example.com");
}

#[tokio::test]
async fn on_loopback_a_plain_cookie_can_be_had() {
    let app = App::start_with("[sessions]\ninsecure_cookies = true\nttl_s = 300\n").await;
    let ann = app.user("ann").await;
    let body = json!({"email": ann.email, "password": PASSWORD});
    let answer = app.nobody().post("/v1/sessions", body).await.expect(StatusCode::CREATED);
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("apihub_session=") && !cookie.contains("Secure") && cookie.contains("Max-Age=300"));
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_get_the_same_answer() {
    let app = App::start().await;
    app.user("ann").await;
    let try_in = async |email: &str, password: &str| {
        let answer = app.nobody().post("/v1/sessions", json!({"email": email, "password": password})).await;
        let mut problem = answer.expect_problem(401, "invalid_credentials").json;
        problem.as_object_mut().unwrap().remove("request_id");
        problem
    };
    let wrong = try_in("ann@example.com", "not the password").await;
    assert_eq!(wrong, try_in("nobody@example.com", "not the password").await);
    assert_eq!(wrong, try_in("not an address", "").await);
    assert_eq!(wrong, try_in("ann@example.com", &"x".repeat(60_000)).await);
}

#[tokio::test]
async fn guessing_is_throttled_and_the_owner_who_was_here_before_gets_in() {
    let app = App::start_with("[rest]\ntrusted_proxies = [\"127.0.0.1\"]\n").await;
    let ann = app.user("ann").await;
    let try_from = async |address: &str, password: &str| {
        let body = json!({"email": ann.email, "password": password});
        app.nobody().with(&[("x-forwarded-for", address)], axum::http::Method::POST, "/v1/sessions", Some(body)).await
    };
    try_from("203.0.113.7", PASSWORD).await.expect(StatusCode::CREATED);
    let mut refused = None;
    for _ in 0..20 {
        let answer = try_from("198.51.100.1", "a wrong password").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("guessing went on").expect_problem(429, "too_many_requests");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    try_from("198.51.100.1", PASSWORD).await.expect_problem(429, "too_many_requests");
    try_from("203.0.113.7", PASSWORD).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_forged_forwarding_header_does_not_change_the_source() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let mut last = StatusCode::OK;
    for n in 0..20 {
        let body = json!({"email": ann.email, "password": "a wrong password"});
        let address = format!("203.0.113.{n}");
        let headers = [("x-forwarded-for", address.as_str())];
        last = app.nobody().with(&headers, axum::http::Method::POST, "/v1/sessions", Some(body)).await.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn two_hundred_sign_ins_at_once_are_all_answered() {
    let app = App::start().await;
    app.user("ann").await;
    let tries = (0..200).map(|n| {
        let nobody = app.nobody();
        async move {
            let body = json!({"email": format!("u{n}@example.com"), "password": "a wrong password"});
            nobody.post("/v1/sessions", body).await.status.as_u16()
        }
    });
    let statuses = futures::future::join_all(tries).await;
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let other = app.nobody().sign_in(&ann.email, PASSWORD).await;
    let listed = ann.get("/v1/sessions").await.expect(StatusCode::OK);
    let sessions = listed.json["data"].as_array().unwrap();
    assert_eq!(
        sessions.iter().map(|session| session["is_current"].as_bool().unwrap()).collect::<Vec<_>>(),
        [true, false]
    );
    let id = sessions[1]["id"].as_str().unwrap().to_owned();
    ann.delete(&format!("/v1/sessions/{id}")).await.expect(StatusCode::NO_CONTENT);
    other.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    ann.delete(&format!("/v1/sessions/{id}")).await.expect_problem(404, "not_found");
    let out = ann.delete("/v1/sessions/current").await.expect(StatusCode::NO_CONTENT);
    assert!(out.headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    ann.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
}

#[tokio::test]
async fn nobody_ends_the_session_of_another() {
    let app = App::start().await;
    let (ann, eve) = (app.user("ann").await, app.user("eve").await);
    let listed = ann.get("/v1/sessions").await;
    let id = listed.json["data"][0]["id"].as_str().unwrap();
    eve.delete(&format!("/v1/sessions/{id}")).await.expect_problem(404, "not_found");
    ann.get("/v1/users/me").await.expect(StatusCode::OK);
}
