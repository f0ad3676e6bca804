//! What admitting a request costs on the heap: the path that is sent on, the box that carries the decision, and nothing
//! else. Everything more would be work that the snapshot could have done once.

#[path = "shared/allocations.rs"]
mod allocations;
#[path = "../../benches/shared/fleet.rs"]
mod fleet;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gateway::clock::Now;
use gateway::decide::{Decision, EdgeRules, RequestHead, decide};
use gateway::live::Snapshot;
use http::{HeaderMap, HeaderValue, Method, Version};
use snapshot::key::{self, Environment};
use snapshot::token::Token;
use snapshot::wire;
use uuid::Uuid;

use allocations::allocations;
use fleet::Fleet;
use wire::record::Record as RecordKind;

fn id(number: u128) -> Vec<u8> {
    Uuid::from_u128(number).as_bytes().to_vec()
}

fn records(digest: [u8; 32]) -> Vec<wire::Record> {
    let endpoint = wire::Endpoint {
        id: id(2),
        method: "GET".to_owned(),
        pattern: "/users/{id}".to_owned(),
        target: "https://api.example.com/v2/users/{id}".to_owned(),
        ..wire::Endpoint::default()
    };
    let policy = wire::Policy {
        algorithm: wire::Algorithm::TokenBucket.into(),
        requests_per_minute: 1_000,
        burst_limit: 1_000,
        ..wire::Policy::default()
    };
    [
        RecordKind::Product(wire::Product {
            id: id(1),
            organization_id: id(9),
            organization_slug: "acme".to_owned(),
            slug: "weather".to_owned(),
            endpoints: vec![endpoint],
            ..wire::Product::default()
        }),
        RecordKind::Plan(wire::Plan { id: id(3), policy: Some(policy), ..wire::Plan::default() }),
        RecordKind::Subscription(wire::Subscription {
            id: id(4),
            meter_id: 4,
            product_id: id(1),
            plan_id: id(3),
            consumer_id: id(5),
            status: wire::SubscriptionStatus::Active.into(),
            ..wire::Subscription::default()
        }),
        RecordKind::Key(wire::Key {
            id: id(6),
            digest: digest.to_vec(),
            subscription_id: id(4),
            environment: wire::Environment::Live.into(),
            ..wire::Key::default()
        }),
    ]
    .into_iter()
    .map(|record| wire::Record { record: Some(record) })
    .collect()
}

#[test]
fn an_admitted_request_allocates_its_path_and_its_decision_only() {
    let minted = key::mint("hub", Environment::Live).unwrap();
    let token = Token { epoch: Uuid::from_u128(1), revision: 1 };
    let (snapshot, refusals) = Snapshot::build(token, records(minted.digest.0));
    assert_eq!(refusals, []);
    let (snapshot, fleet, rules) = (Arc::new(snapshot), Fleet::start(), EdgeRules::default());
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("gateway.example"));
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {}", minted.reveal())).unwrap());
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let now = Now::read();

    let allocations = || {
        let before = allocations();
        let target = b"/acme/weather/users/42?units=si";
        let head = RequestHead::read(&Method::GET, Version::HTTP_11, target, None, &headers, peer).unwrap();
        let decision = decide(&head, &snapshot, &fleet.limiter, now, &rules);
        let count = allocations() - before;
        assert!(matches!(decision, Ok(Decision::Admitted(_))));
        count
    };
    let _first_makes_the_limiters_slot = allocations();
    assert_eq!(allocations(), 2);
}
