//! What was written once can be read for ever: each file in `golden/` is a snapshot in a form that was published, and still
//! means what it meant. A file is never rewritten; a changed form gets a new one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // A test crate: a failed expectation is the failed test.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Once;

use prost::Message;
use snapshot::record::{Algorithm, Key, METER_ID_MAX, Plan, Product, RecordFault, Subscription, SubscriptionStatus};
use snapshot::wire::{self, record};

fn id(number: u8) -> Vec<u8> {
    [0x01, 0x93, 0x00, 0x00, 0x00, 0x00, 0x70, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, number].to_vec()
}

fn product() -> wire::Product {
    wire::Product {
        id: id(1),
        meter_id: 11,
        organization_id: id(9),
        organization_slug: "acme".into(),
        slug: "weather".into(),
        hosts: vec!["api.weather.example".into()],
        release: 3,
        requires: vec!["routes.v1".into(), "keys.v1".into(), "limits.v1".into(), "cors.v1".into()],
        endpoints: vec![
            wire::Endpoint {
                id: id(2),
                meter_id: 21,
                method: "GET".into(),
                pattern: "/cities/{city}".into(),
                target: "https://upstream.example/v2/{city}".into(),
                scope: "read".into(),
                connect_timeout_ms: 2_000,
                read_timeout_ms: 30_000,
                write_timeout_ms: 30_000,
                total_timeout_ms: 60_000,
                retries: 2,
                upstream_http: wire::UpstreamHttp::H2.into(),
            },
            wire::Endpoint {
                id: id(3),
                meter_id: 22,
                method: "*".into(),
                pattern: "/stream/{*rest}".into(),
                target: "http://10.1.2.3:9000/{rest}".into(),
                ..Default::default()
            },
        ],
        key_in_query: true,
        body_bytes_max: 10_485_760,
        cors: Some(wire::Cors {
            origins: vec!["https://app.example".into()],
            headers: vec!["x-api-key".into()],
            exposed_headers: vec!["ratelimit".into()],
            credentials: true,
            max_age_s: 600,
        }),
        quarantined: false,
        requests_in_flight_max: 0,
        upstream_connections_max: 0,
    }
}

fn quarantined_product() -> wire::Product {
    wire::Product {
        id: id(4),
        meter_id: 12,
        organization_id: id(9),
        organization_slug: "acme".into(),
        slug: "broken".into(),
        release: 1,
        quarantined: true,
        ..Default::default()
    }
}

fn plan() -> wire::Plan {
    wire::Plan {
        id: id(5),
        meter_id: 31,
        name: "Pro".into(),
        version: 2,
        policy: Some(wire::Policy {
            algorithm: wire::Algorithm::SlidingWindow.into(),
            requests_per_minute: 600,
            burst_limit: 600,
            on_redis_down: wire::OnRedisDown::Closed.into(),
            strict: true,
        }),
        included_requests: Some(1_000_000),
        quota_hard: true,
    }
}

fn subscription() -> wire::Subscription {
    wire::Subscription {
        id: id(6),
        meter_id: 41,
        product_id: id(1),
        plan_id: id(5),
        consumer_id: id(8),
        consumer_username: "buyer".into(),
        status: wire::SubscriptionStatus::PastDue.into(),
        override_requests_per_minute: Some(1_200),
        override_burst_limit: Some(1_200),
        period: Some(wire::Period { id: 202_611, ends_at_ms: 1_796_083_200_000, included_requests: None }),
        next_period: Some(wire::Period { id: 202_612, ends_at_ms: 1_798_761_600_000, included_requests: None }),
        cancel_at_ms: Some(1_796_083_200_000),
        refuse_unpaid_from_ms: Some(1_795_000_000_000),
    }
}

fn key() -> wire::Key {
    wire::Key {
        id: id(7),
        meter_id: 51,
        digest: (0..32).collect(),
        subscription_id: id(6),
        environment: wire::Environment::Test.into(),
        expires_at_ms: Some(1_800_000_000_000),
        scopes: vec!["read".into(), "write".into()],
    }
}

/// The snapshot that `v1.bin` holds. Never changed; whatever comes later has a file of its own.
fn v1() -> wire::Records {
    let records = [
        record::Record::Fleet(wire::Fleet { fleet_max: 3 }),
        record::Record::Product(product()),
        record::Record::Product(quarantined_product()),
        record::Record::Plan(plan()),
        record::Record::Subscription(subscription()),
        record::Record::Key(key()),
    ];
    wire::Records { records: records.map(|record| wire::Record { record: Some(record) }).into() }
}

/// The committed bytes. With `APIHUB_REGENERATE=1` a missing file is made; one that exists stays as it is.
fn committed(name: &str, want: &wire::Records) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    static MAKE: Once = Once::new();
    MAKE.call_once(|| {
        if std::env::var_os("APIHUB_REGENERATE").is_some() && !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, want.encode_to_vec()).unwrap();
        }
    });
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_first_published_form_still_decodes_to_what_it_meant() {
    let bytes = committed("v1.bin", &v1());
    assert_eq!(wire::Records::decode(bytes.as_slice()).unwrap(), v1());
}

#[test]
fn the_same_records_are_still_the_same_bytes() {
    assert_eq!(v1().encode_to_vec(), committed("v1.bin", &v1()));
}

#[test]
fn a_product_with_caps_still_says_which() {
    let product = wire::Product { requests_in_flight_max: 500, upstream_connections_max: 200, ..product() };
    let records = wire::Records { records: vec![wire::Record { record: Some(record::Record::Product(product)) }] };
    let bytes = committed("product_caps.bin", &records);
    assert_eq!(wire::Records::decode(bytes.as_slice()).unwrap(), records);
    let Some(record::Record::Product(wire)) = &records.records[0].record else { panic!("it is a product") };
    let caps = Product::compile(wire).ok().unwrap().caps;
    assert_eq!(caps.requests_in_flight_max.map(NonZeroU32::get), Some(500));
    assert_eq!(caps.upstream_connections_max.map(NonZeroU32::get), Some(200));
}

#[test]
fn every_record_of_the_first_form_still_compiles() {
    let decoded = wire::Records::decode(committed("v1.bin", &v1()).as_slice()).unwrap();
    for record in decoded.records {
        match record.record.unwrap() {
            record::Record::Fleet(fleet) => assert_eq!(fleet.fleet_max, 3),
            record::Record::Product(wire) => {
                let product = Product::compile(&wire).ok().unwrap();
                assert_eq!(product.endpoints.len(), if wire.quarantined { 0 } else { 2 });
            }
            record::Record::Plan(wire) => {
                assert_eq!(Plan::try_from(&wire).unwrap().policy.algorithm, Algorithm::SlidingWindow);
            }
            record::Record::Subscription(wire) => {
                let subscription = Subscription::try_from(&wire).unwrap();
                assert_eq!(subscription.status, SubscriptionStatus::PastDue);
                assert_eq!(subscription.rate_override.unwrap().per_minute.get(), 1_200);
            }
            record::Record::Key(wire) => {
                assert_eq!(Key::try_from(&wire).unwrap().expires_at_ms, Some(1_800_000_000_000))
            }
        }
    }
}

#[test]
fn a_meter_id_beyond_what_gateways_count_by_is_refused_by_name() {
    let last = wire::Subscription { meter_id: METER_ID_MAX, ..subscription() };
    assert_eq!(Subscription::try_from(&last).map(|read| read.meter_id), Ok(METER_ID_MAX));
    let beyond = wire::Subscription { meter_id: METER_ID_MAX + 1, ..subscription() };
    let fault = Subscription::try_from(&beyond).map(|_| ()).unwrap_err();
    assert_eq!(fault, RecordFault::Field { field: "subscription.meter_id" });
}
