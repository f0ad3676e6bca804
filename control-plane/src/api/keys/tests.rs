//! Keys through the router: shown once, kept from the publisher, rotated with an overlap, revoked for good.

use axum::http::{Method, StatusCode};
use serde_json::json;
use snapshot::key;

use crate::api::fixture::{Shop, ask_database, make_key};
use crate::domain::key::ACTIVE_KEYS_MAX;
use crate::testing::App;

#[tokio::test]
async fn a_key_is_shown_once_and_only_its_digest_is_stored() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let (_, digest) = key::parse(shop.secret.as_bytes()).unwrap();
    let stored = app.state.store.connection().await.unwrap();
    let row = stored.query_one("SELECT key_digest FROM api_keys WHERE id = $1", &[&shop.key]).await.unwrap();
    assert_eq!(row.get::<_, Vec<u8>>(0), digest.0);
    for path in [shop.key_path(""), shop.subscription_path("/keys")] {
        let shown = shop.consumer.get(&path).await.expect(StatusCode::OK);
        assert!(!shown.text.contains(&shop.secret));
    }
    let shown = shop.consumer.get(&shop.key_path("")).await.json;
    assert!(shop.secret.starts_with(shown["prefix"].as_str().unwrap()));
    assert!(shop.secret.ends_with(shown["last_four"].as_str().unwrap()));
    let leaks = format!(
        "SELECT count(*) FROM audit_log WHERE before::text || after::text LIKE '%{0}%' OR after::text LIKE '%{0}%'",
        &shop.secret[20..30]
    );
    assert_eq!(ask_database(&app, &leaks).await, 0);
}

#[tokio::test]
async fn a_replayed_create_never_shows_the_key_again() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let (path, headers) = (shop.subscription_path("/keys"), [("idempotency-key", "one")]);
    let body = json!({"name": "second", "environment": "test", "scopes": ["a:b", "a:b"]});
    let first = shop.consumer.with(&headers, Method::POST, &path, Some(body.clone())).await.expect(StatusCode::CREATED);
    let again = shop.consumer.with(&headers, Method::POST, &path, Some(body)).await.expect(StatusCode::CREATED);
    assert!(first.json["key"].as_str().unwrap().starts_with("hub_test_"));
    assert_eq!(
        (again.json["id"].clone(), again.json["secret_already_shown"].as_bool()),
        (first.json["id"].clone(), Some(true))
    );
    assert!(again.json.get("key").is_none());
    assert_eq!(first.json["scopes"], json!(["a:b"]));
}

#[tokio::test]
async fn a_publisher_sees_no_key() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    shop.publisher.get(&shop.subscription_path("")).await.expect(StatusCode::OK);
    shop.publisher.get(&shop.subscription_path("/keys")).await.expect_problem(403, "forbidden");
    let create = shop.publisher.post(&shop.subscription_path("/keys"), json!({"name": "mine"})).await;
    create.expect_problem(403, "forbidden");
    shop.publisher.get(&shop.key_path("")).await.expect_problem(404, "not_found");
    shop.publisher.post(&shop.key_path("/revoke"), json!({})).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_rotated_key_works_on_for_the_overlap_and_is_rotated_once() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let rotated = shop.consumer.post(&shop.key_path("/rotate"), json!({"overlap_seconds": 3600})).await;
    let rotated = rotated.expect(StatusCode::CREATED);
    assert_eq!(rotated.json["predecessor_id"], json!(shop.key));
    assert!(key::parse(rotated.json["key"].as_str().unwrap().as_bytes()).is_ok());
    let old = shop.consumer.get(&shop.key_path("")).await.json;
    assert_eq!((old["status"].as_str(), old["successor_id"].clone()), (Some("active"), rotated.json["id"].clone()));
    let ends: jiff::Timestamp = old["expires_at"].as_str().unwrap().parse().unwrap();
    let seconds = ends.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    shop.consumer.post(&shop.key_path("/rotate"), json!({})).await.expect_problem(409, "invalid_state");

    let third = shop.consumer.post(&format!("/v1/keys/{}/rotate", rotated.id()), json!({"overlap_seconds": 0})).await;
    third.expect(StatusCode::CREATED);
    assert_eq!(shop.consumer.get(&shop.key_path("")).await.json["status"], "revoked");
    let long = shop.consumer.post(&shop.key_path("/rotate"), json!({"overlap_seconds": 604_801})).await;
    assert_eq!(long.expect_problem(422, "validation_failed").pointers(), ["/overlap_seconds"]);
}

#[tokio::test]
async fn a_rotated_key_may_end_sooner_but_never_later() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let rotated = shop.consumer.with(&[], Method::POST, &shop.key_path("/rotate"), None).await;
    rotated.expect(StatusCode::CREATED);
    for later in [json!(null), json!("2099-01-01T00:00:00Z")] {
        let refused = shop.consumer.patch(&shop.key_path(""), json!({"expires_at": later})).await;
        assert_eq!(refused.expect_problem(422, "validation_failed").pointers(), ["/expires_at"]);
    }
    let sooner = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(600);
    let change = json!({"name": "old", "expires_at": sooner.to_string()});
    shop.consumer.patch(&shop.key_path(""), change).await.expect(StatusCode::OK);
    shop.consumer.patch(&shop.key_path(""), json!({"name": "older"})).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_key_is_renamed_dated_and_revoked_for_good() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    let change = json!({"name": "renamed", "expires_at": "2099-01-01T00:00:00Z"});
    let edited = shop.consumer.patch(&shop.key_path(""), change).await.expect(StatusCode::OK);
    assert_eq!(
        (edited.json["name"].as_str(), edited.json["expires_at"].as_str()),
        (Some("renamed"), Some("2099-01-01T00:00:00Z"))
    );
    let past = shop.consumer.patch(&shop.key_path(""), json!({"name": "", "expires_at": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(past.expect_problem(422, "validation_failed").pointers(), ["/name", "/expires_at"]);
    let revoked = shop.consumer.post(&shop.key_path("/revoke"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(revoked.json["status"], "revoked");
    assert!(revoked.header("x-config-revision").parse::<u64>().unwrap() > 0);
    for answer in [
        shop.consumer.post(&shop.key_path("/revoke"), json!({})).await,
        shop.consumer.post(&shop.key_path("/rotate"), json!({})).await,
        shop.consumer.patch(&shop.key_path(""), json!({"name": "x"})).await,
    ] {
        answer.expect_problem(409, "invalid_state");
    }
}

#[tokio::test]
async fn a_subscription_has_a_bounded_number_of_keys() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    for at in 1..ACTIVE_KEYS_MAX {
        make_key(&shop.consumer, shop.subscription, &format!("key {at}")).await;
    }
    let path = shop.subscription_path("/keys");
    shop.consumer.post(&path, json!({"name": "one too many"})).await.expect_problem(409, "invalid_state");
    shop.consumer.post(&shop.key_path("/revoke"), json!({})).await.expect(StatusCode::OK);
    let last = shop.consumer.post(&path, json!({"name": "room again"})).await.expect(StatusCode::CREATED).id();
    shop.consumer.post(&shop.subscription_path("/cancel"), json!({"when": "now"})).await.expect(StatusCode::OK);
    shop.consumer.post(&path, json!({"name": "too late"})).await.expect_problem(409, "invalid_state");
    let rotate = format!("/v1/keys/{last}/rotate");
    shop.consumer.post(&rotate, json!({})).await.expect_problem(409, "invalid_state");
}
