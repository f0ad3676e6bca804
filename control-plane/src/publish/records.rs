//! Rows become wire records, and nothing else: pure functions, so that every control plane makes the same bytes of the
//! same rows. A release that does not compile is quarantined here, alone; it never stops a build.

use std::collections::BTreeMap;

use prost::Message;
use snapshot::record::{EntityKind, EntityRef, Product};
use snapshot::wire;
use uuid::Uuid;

use crate::domain::key::Environment;
use crate::domain::plan::{Algorithm, OnRedisDown, QuotaMode};
use crate::domain::subscription::SubscriptionStatus;
use crate::store::snapshot_rows::{KeyRow, PlanRow, ProductRow, SnapshotRows, SubscriptionRow};

/// Largest record, encoded, in bytes: it must fit into one message of the feed, with room for its frame.
pub const RECORD_BYTES_MAX: usize = wire::FEED_MESSAGE_BYTES_MAX - 40 * 1024;
/// Longest reason of a quarantine that is stored, in bytes.
const QUARANTINE_REASON_BYTES_MAX: usize = 2_000;

/// A product whose quarantine differs from what its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineChange {
    pub product: Uuid,
    pub reason: Option<String>,
}

/// Records of some rows, in the one order that everybody uses.
#[derive(Debug, Default)]
pub struct Records {
    pub records: BTreeMap<EntityRef, wire::Record>,
    pub quarantine_changes: Vec<QuarantineChange>,
}

/// The record of the fleet has no id of its own.
pub const FLEET: EntityRef = EntityRef { kind: EntityKind::Fleet, id: Uuid::nil() };

pub fn compile_rows(rows: SnapshotRows) -> Records {
    let mut made = Records::default();
    for row in rows.products {
        let stored = row.quarantine_reason.clone();
        let id = row.id;
        let (record, reason) = product(row);
        if reason != stored {
            made.quarantine_changes.push(QuarantineChange { product: id, reason });
        }
        made.add(EntityKind::Product, id, wire::record::Record::Product(record));
    }
    for row in rows.plans {
        made.add(EntityKind::Plan, row.id, wire::record::Record::Plan(plan(row)));
    }
    for row in rows.subscriptions {
        made.add(EntityKind::Subscription, row.id, wire::record::Record::Subscription(subscription(row)));
    }
    for row in rows.keys {
        made.add(EntityKind::Key, row.id, wire::record::Record::Key(key(row)));
    }
    made
}

pub fn fleet(fleet_max: i32) -> wire::Record {
    wire::Record { record: Some(wire::record::Record::Fleet(wire::Fleet { fleet_max: unsigned(fleet_max).max(1) })) }
}

impl Records {
    fn add(&mut self, kind: EntityKind, id: Uuid, record: wire::record::Record) {
        self.records.insert(EntityRef { kind, id }, wire::Record { record: Some(record) });
    }
}

/// The release as stored, under the fields that apply without one; and why it is quarantined, if it is.
fn product(row: ProductRow) -> (wire::Product, Option<String>) {
    let decoded = wire::Product::decode(row.compiled.as_slice()).map_err(|error| format!("does not decode: {error}"));
    let checked = decoded.map(|release| overlay(release, &row)).and_then(|product| match Product::compile(&product) {
        Ok(_) if product.encoded_len() > RECORD_BYTES_MAX => Err(format!("is larger than {RECORD_BYTES_MAX} bytes")),
        Ok(_) => Ok(product),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    });
    match checked {
        Ok(product) => (product, None),
        Err(reason) => {
            let closed = overlay(wire::Product { quarantined: true, ..Default::default() }, &row);
            (closed, Some(shorten(format!("release {}: {reason}", row.release))))
        }
    }
}

fn overlay(release: wire::Product, row: &ProductRow) -> wire::Product {
    wire::Product {
        id: row.id.as_bytes().to_vec(),
        meter_id: meter_id(row.meter_id),
        organization_id: row.organization_id.as_bytes().to_vec(),
        organization_slug: row.organization_slug.clone(),
        slug: row.slug.clone(),
        hosts: row.hosts.clone(),
        release: u64::from(unsigned(row.release)),
        requests_in_flight_max: row.caps.requests_in_flight_max.map_or(0, unsigned),
        upstream_connections_max: row.caps.upstream_connections_max.map_or(0, unsigned),
        ..release
    }
}

fn shorten(mut reason: String) -> String {
    let mut end = reason.len().min(QUARANTINE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

fn plan(row: PlanRow) -> wire::Plan {
    let algorithm = match row.algorithm {
        Algorithm::TokenBucket => wire::Algorithm::TokenBucket,
        Algorithm::SlidingWindow => wire::Algorithm::SlidingWindow,
        Algorithm::FixedWindow => wire::Algorithm::FixedWindow,
    };
    let on_redis_down = match row.on_redis_down {
        OnRedisDown::FairShare => wire::OnRedisDown::FairShare,
        OnRedisDown::Open => wire::OnRedisDown::Open,
        OnRedisDown::Closed => wire::OnRedisDown::Closed,
    };
    wire::Plan {
        id: row.id.as_bytes().to_vec(),
        meter_id: meter_id(row.meter_id),
        name: row.name,
        version: unsigned(row.version),
        policy: Some(wire::Policy {
            algorithm: algorithm.into(),
            requests_per_minute: unsigned(row.requests_per_minute),
            burst_limit: unsigned(row.burst_limit),
            on_redis_down: on_redis_down.into(),
            strict: row.strict,
        }),
        included_requests: row.included_requests.map(meter_id),
        quota_hard: row.quota_mode == QuotaMode::Hard,
    }
}

fn subscription(row: SubscriptionRow) -> wire::Subscription {
    let status = match row.status {
        SubscriptionStatus::Pending => wire::SubscriptionStatus::Pending,
        SubscriptionStatus::Active => wire::SubscriptionStatus::Active,
        SubscriptionStatus::Suspended => wire::SubscriptionStatus::Suspended,
        SubscriptionStatus::PastDue => wire::SubscriptionStatus::PastDue,
        SubscriptionStatus::Cancelled => wire::SubscriptionStatus::Cancelled,
    };
    let period = unsigned(row.period_id);
    wire::Subscription {
        id: row.id.as_bytes().to_vec(),
        meter_id: meter_id(row.meter_id),
        product_id: row.product_id.as_bytes().to_vec(),
        plan_id: row.plan_id.as_bytes().to_vec(),
        consumer_id: row.consumer_id.as_bytes().to_vec(),
        consumer_username: row.consumer_username,
        status: status.into(),
        override_requests_per_minute: row.override_requests_per_minute.map(unsigned),
        override_burst_limit: row.override_burst_limit.map(unsigned),
        period: row.period_end_ms.map(|ends_at_ms| wire::Period {
            id: period,
            ends_at_ms,
            included_requests: row.period_included.map(meter_id),
        }),
        next_period: row.next_period_id.zip(row.next_period_end_ms).map(|(id, ends_at_ms)| wire::Period {
            id: unsigned(id),
            ends_at_ms,
            included_requests: None,
        }),
        cancel_at_ms: row.cancel_at_ms,
        refuse_unpaid_from_ms: row.refuse_unpaid_from_ms,
    }
}

fn key(row: KeyRow) -> wire::Key {
    let environment = match row.environment {
        Environment::Live => wire::Environment::Live,
        Environment::Test => wire::Environment::Test,
    };
    wire::Key {
        id: row.id.as_bytes().to_vec(),
        meter_id: meter_id(row.meter_id),
        digest: row.digest,
        subscription_id: row.subscription_id.as_bytes().to_vec(),
        environment: environment.into(),
        expires_at_ms: row.expires_at_ms,
        scopes: row.scopes,
    }
}

/// The database's checks keep these from being negative.
fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn meter_id(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
