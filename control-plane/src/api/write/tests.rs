//! How mutations end: revisions, waiting, replays.

use std::time::Duration;

use axum::extract::FromRequestParts as _;
use axum::http::{Method, Request, StatusCode};
use serde_json::json;

use super::{Prefer, Written};
use crate::testing::App;

async fn prefer(value: &str) -> Prefer {
    let (mut parts, ()) = Request::builder().header("prefer", value).body(()).unwrap().into_parts();
    Prefer::from_request_parts(&mut parts, &()).await.unwrap()
}

#[tokio::test]
async fn the_preference_is_read_and_bounded() {
    assert_eq!(prefer("wait=5").await.wait, Some(Duration::from_secs(5)));
    assert_eq!(prefer("respond-async, WAIT=\"7\"; x=1").await.wait, Some(Duration::from_secs(7)));
    assert_eq!(prefer("wait=86400").await.wait, Some(Duration::from_secs(30)));
    for ignored in ["", "wait", "wait=", "wait=-1", "wait=x", "waiting=3"] {
        assert_eq!(prefer(ignored).await.wait, None, "{ignored}");
    }
}

#[test]
fn what_is_shown_once_is_not_kept() {
    let written =
        Written::created("/x".to_owned(), &json!({"id": 1, "token": "s3cret"})).unwrap().showing_once("token");
    assert_eq!(written.body_to_keep(), json!({"id": 1, "secret_already_shown": true}));
    assert_eq!(written.body["token"], "s3cret");
}

#[tokio::test]
async fn a_change_of_the_snapshot_answers_with_its_revision() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let path = format!("/v1/organizations/{}", ann.organization_id);
    let first = ann.patch(&path, json!({"slug": "one"})).await.expect(StatusCode::OK);
    let second = ann.patch(&path, json!({"slug": "two"})).await.expect(StatusCode::OK);
    let revision = |answer: &crate::testing::Answer| answer.header("x-config-revision").parse::<u64>().unwrap();
    assert!(revision(&second) > revision(&first));
}

#[tokio::test]
async fn without_a_gateway_waiting_is_done_at_once_and_with_a_silent_one_the_answer_is_202() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let path = format!("/v1/organizations/{}", ann.organization_id);
    let change =
        async |slug: &str| ann.with(&[("prefer", "wait=1")], Method::PATCH, &path, Some(json!({"slug": slug}))).await;
    let served = change("one").await.expect(StatusCode::OK);
    assert_eq!(served.header("preference-applied"), "wait=1");
    let add = app.state.store.run_tx("test", |tx| {
        Box::pin(async move {
            let sql = "INSERT INTO nodes (id, name, boot_id, version) VALUES ($1, 'silent', $1, '1')";
            tx.execute_cached(sql, &[&uuid::Uuid::now_v7()]).await
        })
    });
    let _: u64 = add.await.map_err(|error: crate::store::StoreError| error).unwrap();
    let missing = change("two").await.expect(StatusCode::ACCEPTED);
    assert_eq!(missing.header("x-config-missing"), "silent");
    assert_eq!(missing.json["slug"], "two");
}

#[tokio::test]
async fn a_repeated_create_answers_like_the_first_and_makes_nothing() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let create = async |key: &str, slug: &str| {
        let body = json!({"slug": slug, "name": slug});
        ann.with(&[("idempotency-key", key)], Method::POST, "/v1/organizations", Some(body)).await
    };
    let first = create("k1", "acme").await.expect(StatusCode::CREATED);
    let again = create("k1", "acme").await.expect(StatusCode::CREATED);
    assert_eq!(again.json, first.json);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("etag"), first.header("etag"));
    create("k1", "other").await.expect_problem(409, "idempotency_key_reused");
    create("k2", "acme").await.expect_problem(409, "already_exists");
    create("k2", "other").await.expect(StatusCode::CREATED);
    let (one, other) = tokio::join!(create("k3", "twin"), create("k3", "twin"));
    assert_eq!(one.expect(StatusCode::CREATED).id(), other.expect(StatusCode::CREATED).id());
    assert_eq!(
        create(&"x".repeat(256), "a9").await.expect_problem(422, "validation_failed").pointers(),
        ["/Idempotency-Key"]
    );
}
