//! What the log says while secrets pass through: at its most talkative, and still none of them.

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::http::{Method, StatusCode};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::api::fixture::Shop;
use crate::testing::{App, PASSWORD};

/// Everything that is logged on this thread, from every crate, at every level.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Captured;

    fn make_writer(&'a self) -> Captured {
        self.clone()
    }
}

#[tokio::test]
async fn no_password_cookie_token_or_key_is_logged() {
    let app = App::start().await;
    let captured = Captured::default();
    // The program lets the database driver say no more than this whatever the filter: it would log the values of statements.
    let subscriber = tracing_subscriber::fmt().with_env_filter("trace,tokio_postgres=info").with_ansi(false);
    // With a single subscriber in the process, a call site that another test's thread meets first is switched off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = subscriber.with_writer(captured.clone()).finish().set_default();

    let shop = Shop::open(&app).await;
    let ann = app.user("ann").await;
    let signed_in = ann.post("/v1/sessions", json!({"email": ann.email, "password": PASSWORD})).await;
    let cookie = signed_in.expect(StatusCode::CREATED).header("set-cookie").to_owned();
    let session = cookie.split(['=', ';']).nth(1).unwrap().to_owned();
    let made = ann.post("/v1/access-tokens", json!({"name": "ci", "scopes": ["read"]})).await;
    let token = made.expect(StatusCode::CREATED).json["token"].as_str().unwrap().to_owned();
    ann.bearer(&token).get("/v1/users/me").await.expect(StatusCode::OK);
    let rotated = shop.consumer.post(&shop.key_path("/rotate"), json!({})).await.expect(StatusCode::CREATED);
    let rotated = rotated.json["key"].as_str().unwrap().to_owned();
    // Refusals have more to say than answers.
    let wrong = "a wrong but long passphrase";
    ann.post("/v1/sessions", json!({"email": ann.email, "password": wrong}))
        .await
        .expect_problem(401, "invalid_credentials");
    let stale = format!("{token}x");
    ann.bearer(&stale).get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    let headers = [("idempotency-key", "b ad")];
    let body = json!({"name": token, "scopes": ["nothing"]});
    ann.with(&headers, Method::POST, "/v1/access-tokens", Some(body)).await;

    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    for expected in ["/v1/sessions", "/v1/access-tokens", "/v1/keys/{id}/rotate", "status=201", "request refused"] {
        assert!(log.contains(expected), "the log says nothing of {expected}:\n{log}");
    }
    for secret in [PASSWORD, wrong, &session, &token, &shop.secret, &rotated, "$argon2id"] {
        assert!(secret.len() >= 9 && !log.contains(secret), "{secret} is in the log");
    }
}
