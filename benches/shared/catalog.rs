//! A catalog of any size as wire records: one product that is called, others beside it, and keys with a subscription each. What
//! benchmarks, counts and the load comparison run on; records come one by one, so that ten million of them need no memory here.
#![allow(dead_code)] // Each program uses a part of it.

use snapshot::key::{Environment, mint};
use snapshot::wire;
use uuid::Uuid;

/// High enough that no request of a benchmark is refused: the work is done, the answer is yes.
pub(crate) const PER_MINUTE: u32 = 50_000_000;
/// What the called product answers at; its other endpoints are `/other-<n>/{id}`.
pub(crate) const PATH: &str = "/bench/api/items/7";
/// Enough for one request: the next one is a 429.
const PER_MINUTE_OF_THE_SMALL: u32 = 1;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// At least four, for the last three are special.
    pub(crate) keys: u64,
    /// At least two.
    pub(crate) products: u64,
    /// Of each product.
    pub(crate) endpoints: u64,
}

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    Called,
    /// The called product, once a minute.
    CalledOnce,
    /// The second product: a neighbour, which takes any method and can reach an upstream of its own at `/own/{id}`.
    Neighbour,
    /// The neighbour, once a minute.
    NeighbourOnce,
}

/// Products, the plans, and then each key behind its subscription. `keep` is told every key, its number from 1, and what it opens.
pub(crate) fn records<'a>(
    size: Size,
    upstream: &'a str,
    neighbours_own: &'a str,
    mut keep: impl FnMut(u64, Opens, String) + 'a,
) -> impl Iterator<Item = wire::Record> + 'a {
    let (called, neighbour, plan_id, small_id) = (id(), id(), id(), id());
    let first = product(called.clone(), 1, "api", upstream, size.endpoints);
    let second = with_own(product(neighbour.clone(), 2, "other-2", upstream, size.endpoints), neighbours_own);
    let others = (3..=size.products)
        .map(move |number| product(id(), number, &format!("other-{number}"), upstream, size.endpoints))
        .map(into_record);
    let plans = [plan(&plan_id, 1, PER_MINUTE), plan(&small_id, 2, PER_MINUTE_OF_THE_SMALL)];
    let keys = (1..=size.keys).flat_map(move |number| {
        let opens = match size.keys - number {
            0 => Opens::CalledOnce,
            1 => Opens::NeighbourOnce,
            2 => Opens::Neighbour,
            _ => Opens::Called,
        };
        let product_id = if matches!(opens, Opens::Called | Opens::CalledOnce) { &called } else { &neighbour };
        let plan_id = if matches!(opens, Opens::Called | Opens::Neighbour) { &plan_id } else { &small_id };
        let (pair, key) = key(number, product_id, plan_id);
        keep(number, opens, key);
        pair
    });
    [into_record(first), into_record(second)].into_iter().chain(others).chain(plans).chain(keys)
}

fn into_record(product: wire::Product) -> wire::Record {
    record(wire::record::Record::Product(product))
}

fn with_own(mut product: wire::Product, own: &str) -> wire::Product {
    let usual = product.endpoints[0].clone();
    product.endpoints.iter_mut().for_each(|endpoint| endpoint.method = "*".to_owned());
    let (pattern, target) = ("/own/{id}".to_owned(), format!("{own}/own/{{id}}"));
    product.endpoints.push(wire::Endpoint { id: id(), method: "*".to_owned(), pattern, target, ..usual });
    product
}

fn id() -> Vec<u8> {
    Uuid::now_v7().as_bytes().to_vec()
}

fn record(record: wire::record::Record) -> wire::Record {
    wire::Record { record: Some(record) }
}

fn product(id: Vec<u8>, meter_id: u64, slug: &str, upstream: &str, endpoints: u64) -> wire::Product {
    let endpoint = |number: u64| {
        let name = if number == 0 { "items".to_owned() } else { format!("other-{number}") };
        wire::Endpoint {
            id: self::id(),
            meter_id: meter_id * 1_000_000 + number,
            method: "GET".to_owned(),
            pattern: format!("/{name}/{{id}}"),
            target: format!("{upstream}/v1/{name}/{{id}}"),
            connect_timeout_ms: 2_000,
            read_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            ..wire::Endpoint::default()
        }
    };
    wire::Product {
        id,
        meter_id,
        organization_id: self::id(),
        organization_slug: "bench".to_owned(),
        slug: slug.to_owned(),
        release: 1,
        endpoints: (0..endpoints).map(endpoint).collect(),
        ..wire::Product::default()
    }
}

fn plan(id: &[u8], meter_id: u64, per_minute: u32) -> wire::Record {
    let policy = wire::Policy {
        algorithm: wire::Algorithm::TokenBucket.into(),
        requests_per_minute: per_minute,
        burst_limit: per_minute,
        ..wire::Policy::default()
    };
    record(wire::record::Record::Plan(wire::Plan {
        id: id.to_vec(),
        meter_id,
        name: "Bench".to_owned(),
        version: 1,
        policy: Some(policy),
        ..wire::Plan::default()
    }))
}

fn key(number: u64, product_id: &[u8], plan_id: &[u8]) -> ([wire::Record; 2], String) {
    let subscription_id = id();
    let minted = mint("hub", Environment::Live).unwrap();
    let subscription = wire::Subscription {
        id: subscription_id.clone(),
        meter_id: number,
        product_id: product_id.to_vec(),
        plan_id: plan_id.to_vec(),
        consumer_id: id(),
        consumer_username: format!("consumer-{number}"),
        status: wire::SubscriptionStatus::Active.into(),
        ..wire::Subscription::default()
    };
    let key = wire::Key {
        id: id(),
        meter_id: number,
        digest: minted.digest.0.to_vec(),
        subscription_id,
        environment: wire::Environment::Live.into(),
        ..wire::Key::default()
    };
    let pair = [record(wire::record::Record::Subscription(subscription)), record(wire::record::Record::Key(key))];
    (pair, minted.reveal().to_owned())
}
