//! Records for tests, as sentences: `product(1).with_endpoint("GET", "/a")`. Ids are small numbers, so that a failing test
//! can be read.

use ::snapshot::key::{self, Environment, MintedKey};
use ::snapshot::token::Token;
use ::snapshot::{features, wire};
use uuid::Uuid;
use wire::record::Record as RecordKind;

pub(crate) fn id(number: u128) -> Vec<u8> {
    Uuid::from_u128(number).as_bytes().to_vec()
}

pub(crate) fn token(revision: u64) -> Token {
    Token { epoch: Uuid::from_u128(1), revision }
}

/// `/acme/p<number>`, one endpoint `GET /users/{id}` and one `POST /users`, both to `http://10.0.0.1:9000`.
pub(crate) fn product(number: u128) -> wire::Product {
    wire::Product {
        id: id(number),
        meter_id: meter(number),
        organization_id: id(500),
        organization_slug: "acme".to_owned(),
        slug: format!("p{number}"),
        release: 1,
        requires: vec![features::ROUTES_V1.to_owned()],
        endpoints: vec![
            endpoint("GET", "/users/{id}", "http://10.0.0.1:9000/u/{id}"),
            endpoint("POST", "/users", "http://10.0.0.1:9000/u"),
        ],
        ..wire::Product::default()
    }
}

pub(crate) fn endpoint(method: &str, pattern: &str, target: &str) -> wire::Endpoint {
    wire::Endpoint {
        id: id(900),
        meter_id: 900,
        method: method.to_owned(),
        pattern: pattern.to_owned(),
        target: target.to_owned(),
        ..wire::Endpoint::default()
    }
}

/// A token bucket of `per_minute` with an equal burst; no quota.
pub(crate) fn plan(number: u128, per_minute: u32) -> wire::Plan {
    wire::Plan {
        id: id(number),
        meter_id: meter(number),
        name: format!("plan {number}"),
        version: 1,
        policy: Some(wire::Policy {
            algorithm: wire::Algorithm::TokenBucket.into(),
            requests_per_minute: per_minute,
            burst_limit: per_minute,
            ..wire::Policy::default()
        }),
        ..wire::Plan::default()
    }
}

pub(crate) fn subscription(number: u128, product: u128, plan: u128) -> wire::Subscription {
    wire::Subscription {
        id: id(number),
        meter_id: meter(number),
        product_id: id(product),
        plan_id: id(plan),
        consumer_id: id(number + 1_000),
        consumer_username: format!("consumer{number}"),
        status: wire::SubscriptionStatus::Active.into(),
        period: Some(wire::Period { id: 1, ends_at_ms: i64::MAX / 2, included_requests: None }),
        ..wire::Subscription::default()
    }
}

pub(crate) fn minted(environment: Environment) -> MintedKey {
    key::mint("hub", environment).unwrap()
}

pub(crate) fn key(number: u128, subscription: u128, minted: &MintedKey) -> wire::Key {
    let (environment, digest) = key::parse(minted.reveal().as_bytes()).unwrap();
    let environment = match environment {
        Environment::Live => wire::Environment::Live,
        Environment::Test => wire::Environment::Test,
    };
    wire::Key {
        id: id(number),
        meter_id: meter(number),
        digest: digest.0.to_vec(),
        subscription_id: id(subscription),
        environment: environment.into(),
        ..wire::Key::default()
    }
}

fn meter(number: u128) -> u64 {
    u64::try_from(number).unwrap()
}

pub(crate) trait IntoRecord {
    fn record(self) -> wire::Record;
}

macro_rules! into_record {
    ($($message:ident),*) => {
        $(impl IntoRecord for wire::$message {
            fn record(self) -> wire::Record {
                wire::Record { record: Some(RecordKind::$message(self)) }
            }
        })*
    };
}
into_record!(Fleet, Product, Plan, Subscription, Key);

pub(crate) fn put(record: impl IntoRecord) -> wire::Change {
    wire::Change { change: Some(wire::change::Change::Put(record.record())) }
}

pub(crate) fn remove(kind: wire::EntityKind, number: u128) -> wire::Change {
    let entity = wire::EntityRef { kind: kind.into(), id: id(number) };
    wire::Change { change: Some(wire::change::Change::Remove(entity)) }
}
