//! Writes a gateway's data directory with N keys, each with a subscription of its own, so that a gateway can be measured
//! without a control plane. Prints the keys and the path to call, as JSON.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)] // A program for benchmarks alone.

use snapshot::key::{Environment, mint};
use snapshot::token::Token;
use snapshot::wire;
use uuid::Uuid;

/// Products beside the one that is called, so that routing has something to choose from.
const PRODUCTS: u64 = 1_000;
/// High enough that no request of a benchmark is refused: the work is done, the answer is yes.
const PER_MINUTE: u32 = 50_000_000;

fn id() -> Vec<u8> {
    Uuid::now_v7().as_bytes().to_vec()
}

fn record(record: wire::record::Record) -> wire::Record {
    wire::Record { record: Some(record) }
}

fn product(id: Vec<u8>, meter_id: u64, slug: &str, upstream: &str) -> wire::Record {
    let endpoint = wire::Endpoint {
        id: self::id(),
        meter_id,
        method: "GET".to_owned(),
        pattern: "/items/{id}".to_owned(),
        target: format!("{upstream}/v1/items/{{id}}"),
        connect_timeout_ms: 2_000,
        read_timeout_ms: 30_000,
        write_timeout_ms: 30_000,
        ..wire::Endpoint::default()
    };
    record(wire::record::Record::Product(wire::Product {
        id,
        meter_id,
        organization_id: self::id(),
        organization_slug: "bench".to_owned(),
        slug: slug.to_owned(),
        release: 1,
        endpoints: vec![endpoint],
        ..wire::Product::default()
    }))
}

/// `make_snapshot DATA_DIR KEYS UPSTREAM_URL`
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (count, upstream): (u64, &str) = (arguments[2].parse().unwrap(), &arguments[3]);
    let (product_id, plan_id) = (id(), id());
    let mut records = vec![product(product_id.clone(), 1, "api", upstream)];
    records.extend((2..=PRODUCTS).map(|n| product(id(), n, &format!("other-{n}"), upstream)));
    let policy = wire::Policy {
        algorithm: wire::Algorithm::TokenBucket.into(),
        requests_per_minute: PER_MINUTE,
        burst_limit: PER_MINUTE,
        ..wire::Policy::default()
    };
    let plan = wire::Plan {
        id: plan_id.clone(),
        meter_id: 1,
        name: "Bench".to_owned(),
        version: 1,
        policy: Some(policy),
        ..wire::Plan::default()
    };
    records.push(record(wire::record::Record::Plan(plan)));
    let mut keys = Vec::new();
    for meter_id in 1..=count {
        let subscription_id = id();
        let minted = mint("hub", Environment::Live).unwrap();
        records.push(record(wire::record::Record::Subscription(wire::Subscription {
            id: subscription_id.clone(),
            meter_id,
            product_id: product_id.clone(),
            plan_id: plan_id.clone(),
            consumer_id: id(),
            consumer_username: format!("consumer-{meter_id}"),
            status: wire::SubscriptionStatus::Active.into(),
            ..wire::Subscription::default()
        })));
        records.push(record(wire::record::Record::Key(wire::Key {
            id: id(),
            meter_id,
            digest: minted.digest.0.to_vec(),
            subscription_id,
            environment: wire::Environment::Live.into(),
            ..wire::Key::default()
        })));
        keys.push(minted.reveal().to_owned());
    }
    let dir = std::path::Path::new(&arguments[1]);
    std::fs::create_dir_all(dir).unwrap();
    let disk = gateway::feed::disk::DiskSnapshot::at(dir.join(gateway::feed::SNAPSHOT_FILE));
    disk.save(Token { epoch: Uuid::now_v7(), revision: 1 }, 0, records).unwrap();
    println!("{}", serde_json::json!({ "keys": keys, "path": "/bench/api/items/7" }));
}
