//! Snapshots of as many keys as are asked for, one record at a time, and what the process holds in memory. Random in every bit
//! that a table looks at, and the same in every run.

use std::sync::Arc;

use gateway::live::{Building, Snapshot};
use snapshot::key::{KeyDigest, digest};
use snapshot::token::Token;
use snapshot::wire;
use uuid::Uuid;
use wire::record::Record as RecordKind;

/// Keys of one subscription, where nothing else is asked for.
pub(crate) const KEYS_PER_SUBSCRIPTION: u64 = 10;

pub(crate) fn token(revision: u64) -> Token {
    Token { epoch: Uuid::from_u128(1), revision }
}

/// From the environment, or this.
pub(crate) fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

pub(crate) fn key_digest(number: u64) -> KeyDigest {
    digest(&number.to_le_bytes())
}

fn id(kind: u8, number: u64) -> Vec<u8> {
    let mut bytes = [&[kind][..], &number.to_le_bytes()].concat();
    bytes = digest(&bytes).0[..16].to_vec();
    bytes
}

fn record(kind: RecordKind) -> wire::Record {
    wire::Record { record: Some(kind) }
}

pub(crate) fn key(number: u64, subscriptions: u64) -> wire::Record {
    record(RecordKind::Key(wire::Key {
        id: id(b'k', number),
        meter_id: number + 1,
        digest: key_digest(number).0.to_vec(),
        subscription_id: id(b's', number % subscriptions),
        environment: wire::Environment::Live.into(),
        ..wire::Key::default()
    }))
}

fn subscription(number: u64) -> wire::Record {
    record(RecordKind::Subscription(wire::Subscription {
        id: id(b's', number),
        meter_id: number + 1,
        product_id: id(b'p', 1),
        plan_id: id(b'l', number % 10),
        consumer_id: id(b'c', number),
        consumer_username: format!("consumer-{number}"),
        status: wire::SubscriptionStatus::Active.into(),
        ..wire::Subscription::default()
    }))
}

fn plan(number: u64) -> wire::Record {
    let policy = wire::Policy {
        algorithm: wire::Algorithm::TokenBucket.into(),
        requests_per_minute: 600,
        burst_limit: 60,
        ..wire::Policy::default()
    };
    record(RecordKind::Plan(wire::Plan {
        id: id(b'l', number),
        meter_id: number + 1,
        name: format!("plan {number}"),
        version: 1,
        policy: Some(policy),
        ..wire::Plan::default()
    }))
}

/// `/acme/p<number>/v1/r<n>/{id}`.
pub(crate) fn product(number: u64, endpoints: u64) -> wire::Record {
    let endpoint = |at: u64| wire::Endpoint {
        id: id(b'e', number * endpoints + at),
        meter_id: number * endpoints + at,
        method: "GET".to_owned(),
        pattern: format!("/v1/r{at}/{{id}}"),
        target: "http://10.0.0.1:9000/{id}".to_owned(),
        ..wire::Endpoint::default()
    };
    record(RecordKind::Product(wire::Product {
        id: id(b'p', number),
        meter_id: number,
        organization_id: id(b'o', 1),
        organization_slug: "acme".to_owned(),
        slug: format!("p{number}"),
        release: 1,
        endpoints: (0..endpoints).map(endpoint).collect(),
        ..wire::Product::default()
    }))
}

/// Plans and subscriptions before the keys, as a control plane sends them.
pub(crate) fn snapshot(keys: u64, subscriptions: u64) -> Snapshot {
    built((0..10).map(plan).chain((0..subscriptions).map(subscription)).chain((0..keys).map(|n| key(n, subscriptions))))
}

pub(crate) fn built(records: impl Iterator<Item = wire::Record>) -> Snapshot {
    let mut building = Building::beside(Arc::new(Snapshot::empty()));
    records.for_each(|record| building.put(&record));
    let (snapshot, refusals) = building.finish(token(1));
    assert!(refusals.is_empty(), "{refusals:?}");
    snapshot
}
