//! Access tokens: shown once, bounded in time and scope, revocable.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::testing::App;

#[tokio::test]
async fn a_token_is_shown_once_and_stored_as_a_digest() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let body = json!({"name": "ci", "scopes": ["write", "read", "read"]});
    let headers = [("idempotency-key", "one")];
    let made =
        ann.with(&headers, Method::POST, "/v1/access-tokens", Some(body.clone())).await.expect(StatusCode::CREATED);
    let token = made.json["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("apihub_pat_") && token.len() == 11 + 43, "{token}");
    assert_eq!(made.json["scopes"], json!(["read", "write"]));
    assert!(token.starts_with(made.json["prefix"].as_str().unwrap()));
    let replay = ann.with(&headers, Method::POST, "/v1/access-tokens", Some(body)).await.expect(StatusCode::CREATED);
    assert_eq!(
        (replay.json["id"].clone(), replay.json["secret_already_shown"].as_bool()),
        (made.json["id"].clone(), Some(true))
    );
    assert!(replay.json.get("token").is_none());
    let listed = ann.get("/v1/access-tokens").await.expect(StatusCode::OK);
    assert!(!listed.text.contains(&token));
    let find = app.state.store.read("test", |tx| {
        Box::pin(async move {
            let sql = "SELECT string_agg(t::text, '') || (SELECT string_agg(a::text, '') FROM audit_log a)
                       || (SELECT string_agg(i::text, '') FROM idempotency_keys i) FROM access_tokens t";
            Ok::<String, crate::store::StoreError>(tx.query_one_cached(sql, &[]).await?.try_get(0)?)
        })
    });
    assert!(!find.await.unwrap().contains(&token), "the token is stored somewhere");
}

#[tokio::test]
async fn a_token_has_an_end_and_at_least_one_scope() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let create = async |body| ann.post("/v1/access-tokens", body).await;
    let made = create(json!({"name": "a", "scopes": ["read"]})).await.expect(StatusCode::CREATED);
    let end: jiff::Timestamp = made.json["expires_at"].as_str().unwrap().parse().unwrap();
    let days = (end - jiff::Timestamp::now()).get_seconds() / 86_400
        + end.duration_since(jiff::Timestamp::now()).as_hours() / 24;
    assert!(days >= 89, "{days}");
    for body in [
        json!({"name": "a", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}),
        json!({"name": "a", "scopes": ["read"], "expires_at": "2999-01-01T00:00:00Z"}),
        json!({"name": "a", "scopes": ["read"], "expires_at": "tomorrow"}),
    ] {
        assert_eq!(create(body).await.expect_problem(422, "validation_failed").pointers(), ["/expires_at"]);
    }
    assert_eq!(
        create(json!({"name": "a", "scopes": []})).await.expect_problem(422, "validation_failed").pointers(),
        ["/scopes"]
    );
    let unknown = create(json!({"name": "a", "scopes": ["root"]})).await.expect_problem(422, "validation_failed");
    assert_eq!(unknown.pointers().len(), 1);
    let foreign = json!({"name": "a", "scopes": ["read"], "organization_id": uuid::Uuid::now_v7()});
    create(foreign).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_token_of_lesser_scope_makes_no_tokens() {
    let app = App::start().await;
    let ann = app.user("ann").await.with_token(&["write"]).await;
    ann.post("/v1/access-tokens", json!({"name": "a", "scopes": ["admin"]}))
        .await
        .expect_problem(403, "insufficient_scope");
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_only_its_owner_revokes_it() {
    let app = App::start().await;
    let (ann, eve) = (app.user("ann").await, app.user("eve").await);
    let token = ann.with_token(&["read"]).await;
    let id = ann.get("/v1/access-tokens").await.json["data"][0]["id"].as_str().unwrap().to_owned();
    eve.delete(&format!("/v1/access-tokens/{id}")).await.expect_problem(404, "not_found");
    token.get("/v1/users/me").await.expect(StatusCode::OK);
    ann.delete(&format!("/v1/access-tokens/{id}")).await.expect(StatusCode::NO_CONTENT);
    token.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
    assert_eq!(ann.get("/v1/access-tokens").await.json["data"], json!([]));
}

#[tokio::test]
async fn a_user_has_only_so_many_tokens_and_those_that_ended_do_not_count() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let client = app.state.store.connection().await.unwrap();
    let sql = "INSERT INTO access_tokens (id, user_id, name, prefix, token_digest, scopes, created_at, expires_at)
               SELECT gen_random_uuid(), $1, 'many', 'apihub_pat_many', sha256(n::text::bytea), '{read}',
                      now() - interval '2 days', now() + CASE WHEN n = 1 THEN -1 ELSE 1 END * interval '1 day'
               FROM generate_series(1, 101) n";
    client.execute(sql, &[&ann.user_id]).await.unwrap();
    let create = async || ann.post("/v1/access-tokens", json!({"name": "a", "scopes": ["read"]})).await;
    let refused = create().await.expect_problem(409, "invalid_state");
    assert!(refused.json["detail"].as_str().unwrap().contains("at most 100"), "{}", refused.text);
    client
        .execute("UPDATE access_tokens SET revoked_at = now() WHERE token_digest = sha256('2'::bytea)", &[])
        .await
        .unwrap();
    create().await.expect(StatusCode::CREATED);
}
