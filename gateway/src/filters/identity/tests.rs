//! No spelling of a reserved name, and no key, reaches an upstream from a client.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use snapshot::key::Environment;
use snapshot::wire;
use uuid::Uuid;

use super::*;
use crate::live::Snapshot;
use crate::live::fixtures::{self, IntoRecord};

#[test]
fn the_reserved_names_are_stripped_in_every_spelling_and_others_are_not() {
    let mut client = HeaderMap::new();
    let reserved = [
        "X-Consumer-ID",
        "x_consumer_id",
        "X-Consumer_Username",
        "X-Credential-Identifier",
        "x_credential_anything",
        "X-Subscription-ID",
        "x_plan",
        "X-Gateway-Error",
        "X-Request-ID",
        "X_Forwarded_For",
        "X-Forwarded-Proto",
        "Forwarded",
        "X-Real-IP",
        "X_API_Key",
    ];
    let others = ["x-planet", "x-consumer", "accept", "authorization", "traceparent", "cookie", "x-api-key"];
    for name in reserved.iter().chain(&others) {
        client.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("v"));
    }
    let stripped = headers_to_strip(&client, KeyPlaces::default());
    let mut expected: Vec<String> = reserved.iter().map(|name| name.to_ascii_lowercase()).collect();
    let mut names: Vec<String> = stripped.iter().map(|name| name.as_str().to_owned()).collect();
    expected.sort();
    names.sort();
    assert_eq!(names, expected);
}

#[test]
fn the_key_is_stripped_where_it_was_and_another_authorization_is_kept() {
    let mut client = HeaderMap::new();
    for name in ["authorization", "x-api-key", "apikey"] {
        client.insert(name, HeaderValue::from_static("v"));
    }
    let places = KeyPlaces { x_api_key: true, ..KeyPlaces::default() };
    assert_eq!(headers_to_strip(&client, places), [X_API_KEY]);
    let places = KeyPlaces { authorization: true, apikey: true, ..KeyPlaces::default() };
    assert_eq!(headers_to_strip(&client, places).len(), 2);
}

#[test]
fn the_upstream_learns_the_caller_in_plain_ascii() {
    let minted = fixtures::minted(Environment::Live);
    let mut plan = fixtures::plan(10, 60);
    plan.name = "Gold 100%".to_owned();
    let mut subscription = fixtures::subscription(11, 1, 10);
    subscription.consumer_username = "J\u{f8}rgen\r\nX-Plan: free".to_owned();
    let records: Vec<wire::Record> = vec![
        fixtures::product(1).record(),
        plan.record(),
        subscription.record(),
        fixtures::key(20, 11, &minted).record(),
    ];
    let (snapshot, _) = Snapshot::build(fixtures::token(1), records);
    let product = snapshot.product(&Uuid::from_u128(1)).and_then(|entry| entry.served()).unwrap();
    let known = KnownSubscription {
        product: Arc::clone(product),
        endpoint: Arc::clone(&product.endpoints[0]),
        key: snapshot.key(&minted.digest).unwrap(),
        subscription: Arc::clone(snapshot.subscription(&Uuid::from_u128(11)).unwrap()),
        plan: Arc::clone(snapshot.plan(&Uuid::from_u128(10)).unwrap()),
    };
    let mut texts = HeaderTexts::with_capacity(256);
    let pieces = headers_to_send(&known, &mut texts);
    let ready = texts.ready();
    let lines: String =
        pieces.iter().map(|(name, piece)| format!("{name}: {}\n", ready.value(piece).to_str().unwrap())).collect();
    insta::assert_snapshot!(lines, @r"
    x-consumer-id: 00000000-0000-0000-0000-0000000003f3
    x-consumer-username: J%C3%B8rgen%0D%0AX-Plan:%20free
    x-credential-identifier: 00000000-0000-0000-0000-000000000014
    x-subscription-id: 00000000-0000-0000-0000-00000000000b
    x-plan: Gold%20100%25
    ");
}
