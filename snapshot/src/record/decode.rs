//! Wire records become domain types here, and nowhere else. Refuses what is incomplete or beyond its limit, by name.

use std::num::NonZeroU32;

use uuid::Uuid;

use super::{
    Algorithm, Cors, ENDPOINTS_MAX, Endpoint, EntityKind, EntityRef, Key, METER_ID_MAX, OnRedisDown, Override, Period,
    Plan, Policy, Product, ProductCaps, Quota, REQUESTS_PER_MINUTE_MAX, RETRIES_MAX, RecordFault, Subscription,
    SubscriptionStatus, TIMEOUT_MS_MAX, Timeouts, UpstreamHttp,
};
use crate::key::{Environment, KeyDigest};
use crate::pattern::Pattern;
use crate::routes::{MethodMatch, ProductRoutes};
use crate::target::Target;
use crate::wire;

fn field(field: &'static str) -> RecordFault {
    RecordFault::Field { field }
}

fn id(bytes: &[u8], name: &'static str) -> Result<Uuid, RecordFault> {
    Uuid::from_slice(bytes).map_err(|_| field(name))
}

impl Product {
    /// Compiles a release. Errors: every fault there is, so that a publisher mends them in one go.
    pub fn compile(wire: &wire::Product) -> Result<Product, Vec<RecordFault>> {
        if wire.endpoints.len() > ENDPOINTS_MAX {
            return Err(vec![RecordFault::TooManyEndpoints]);
        }
        let (endpoints, mut faults) = collect(wire.endpoints.iter().map(compile_endpoint));
        let pairs: Vec<_> = endpoints.iter().map(|e| (e.method.clone(), e.pattern.clone())).collect();
        let routes = ProductRoutes::compile(&pairs).unwrap_or_else(|found| {
            faults.extend(found.into_iter().map(RecordFault::from));
            ProductRoutes::default()
        });
        if wire.slug.is_empty() || wire.organization_slug.is_empty() {
            faults.push(field("slug"));
        }
        let (Ok(id), Ok(organization_id)) = (id(&wire.id, "id"), id(&wire.organization_id, "organization_id")) else {
            faults.push(field("id"));
            return Err(faults);
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Product {
            id,
            organization_id,
            meter_id: wire.meter_id,
            organization_slug: wire.organization_slug.clone(),
            slug: wire.slug.clone(),
            hosts: wire.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            release: wire.release,
            requires: wire.requires.clone(),
            key_in_query: wire.key_in_query,
            body_bytes_max: (wire.body_bytes_max > 0).then_some(wire.body_bytes_max),
            cors: wire.cors.as_ref().map(Cors::from),
            caps: ProductCaps {
                requests_in_flight_max: NonZeroU32::new(wire.requests_in_flight_max),
                upstream_connections_max: NonZeroU32::new(wire.upstream_connections_max),
            },
            endpoints,
            routes,
        })
    }
}

fn collect<T, E>(results: impl Iterator<Item = Result<T, E>>) -> (Vec<T>, Vec<E>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(fault) => bad.push(fault),
        }
    }
    (good, bad)
}

fn compile_endpoint(wire: &wire::Endpoint) -> Result<Endpoint, RecordFault> {
    let endpoint = || format!("{} {}", wire.method, wire.pattern);
    let method = MethodMatch::parse(&wire.method)?;
    let pattern =
        Pattern::parse(&wire.pattern).map_err(|fault| RecordFault::Pattern { endpoint: endpoint(), fault })?;
    let target =
        Target::parse(&wire.target, &pattern).map_err(|fault| RecordFault::Target { endpoint: endpoint(), fault })?;
    let bounded = |name: &'static str, value: u32, limit: u32| {
        let fault = || RecordFault::Limit { endpoint: endpoint(), field: name, limit };
        (value <= limit).then_some(value).ok_or_else(fault)
    };
    Ok(Endpoint {
        id: id(&wire.id, "endpoint.id")?,
        meter_id: wire.meter_id,
        method,
        pattern,
        target,
        scope: Some(wire.scope.clone()).filter(|scope| !scope.is_empty()),
        timeouts: Timeouts {
            connect_ms: bounded("connect_timeout_ms", wire.connect_timeout_ms, TIMEOUT_MS_MAX)?,
            read_ms: bounded("read_timeout_ms", wire.read_timeout_ms, TIMEOUT_MS_MAX)?,
            write_ms: bounded("write_timeout_ms", wire.write_timeout_ms, TIMEOUT_MS_MAX)?,
            total_ms: bounded("total_timeout_ms", wire.total_timeout_ms, TIMEOUT_MS_MAX)?,
        },
        retries: bounded("retries", wire.retries, RETRIES_MAX)?,
        upstream_http: match wire.upstream_http() {
            wire::UpstreamHttp::Auto => UpstreamHttp::Auto,
            wire::UpstreamHttp::H1 => UpstreamHttp::H1,
            wire::UpstreamHttp::H2 => UpstreamHttp::H2,
        },
    })
}

impl From<&wire::Cors> for Cors {
    fn from(wire: &wire::Cors) -> Self {
        Cors {
            origins: wire.origins.clone(),
            headers: wire.headers.clone(),
            exposed_headers: wire.exposed_headers.clone(),
            credentials: wire.credentials,
            max_age_s: wire.max_age_s,
        }
    }
}

impl TryFrom<&wire::Policy> for Policy {
    type Error = RecordFault;
    fn try_from(wire: &wire::Policy) -> Result<Self, RecordFault> {
        let algorithm = match wire.algorithm() {
            wire::Algorithm::TokenBucket => Algorithm::TokenBucket,
            wire::Algorithm::SlidingWindow => Algorithm::SlidingWindow,
            wire::Algorithm::FixedWindow => Algorithm::FixedWindow,
            wire::Algorithm::Unspecified => return Err(field("policy.algorithm")),
        };
        let on_redis_down = match wire.on_redis_down() {
            wire::OnRedisDown::FairShare => OnRedisDown::FairShare,
            wire::OnRedisDown::Open => OnRedisDown::Open,
            wire::OnRedisDown::Closed => OnRedisDown::Closed,
        };
        let per_minute = rate(wire.requests_per_minute, "policy.requests_per_minute")?;
        let burst = rate(wire.burst_limit, "policy.burst_limit")?;
        Ok(Policy { algorithm, per_minute, burst, on_redis_down, strict: wire.strict })
    }
}

fn rate(value: u32, name: &'static str) -> Result<NonZeroU32, RecordFault> {
    NonZeroU32::new(value).filter(|rate| rate.get() <= REQUESTS_PER_MINUTE_MAX).ok_or(field(name))
}

impl TryFrom<&wire::Plan> for Plan {
    type Error = RecordFault;
    fn try_from(wire: &wire::Plan) -> Result<Self, RecordFault> {
        Ok(Plan {
            id: id(&wire.id, "plan.id")?,
            meter_id: wire.meter_id,
            name: wire.name.clone(),
            version: wire.version,
            policy: wire.policy.as_ref().ok_or(field("plan.policy"))?.try_into()?,
            quota: wire.included_requests.map(|included| Quota { included, hard: wire.quota_hard }),
        })
    }
}

impl TryFrom<&wire::Subscription> for Subscription {
    type Error = RecordFault;
    fn try_from(wire: &wire::Subscription) -> Result<Self, RecordFault> {
        let rate_override = match (wire.override_requests_per_minute, wire.override_burst_limit) {
            (None, None) => None,
            (per_minute, burst) => Some(Override {
                per_minute: rate(per_minute.unwrap_or(0), "override_requests_per_minute")?,
                burst: rate(burst.unwrap_or(0), "override_burst_limit")?,
            }),
        };
        let period =
            |wire: &wire::Period| Period { id: wire.id, ends_at_ms: wire.ends_at_ms, included: wire.included_requests };
        Ok(Subscription {
            id: id(&wire.id, "subscription.id")?,
            meter_id: Some(wire.meter_id).filter(|id| *id <= METER_ID_MAX).ok_or(field("subscription.meter_id"))?,
            product_id: id(&wire.product_id, "subscription.product_id")?,
            plan_id: id(&wire.plan_id, "subscription.plan_id")?,
            consumer_id: id(&wire.consumer_id, "subscription.consumer_id")?,
            consumer_username: wire.consumer_username.clone(),
            status: match wire.status() {
                wire::SubscriptionStatus::Pending => SubscriptionStatus::Pending,
                wire::SubscriptionStatus::Active => SubscriptionStatus::Active,
                wire::SubscriptionStatus::Suspended => SubscriptionStatus::Suspended,
                wire::SubscriptionStatus::PastDue => SubscriptionStatus::PastDue,
                wire::SubscriptionStatus::Cancelled => SubscriptionStatus::Cancelled,
                wire::SubscriptionStatus::Unspecified => return Err(field("subscription.status")),
            },
            rate_override,
            period: wire.period.as_ref().map(period),
            next_period: wire.next_period.as_ref().map(period),
            cancel_at_ms: wire.cancel_at_ms,
            refuse_unpaid_from_ms: wire.refuse_unpaid_from_ms,
        })
    }
}

impl TryFrom<&wire::Key> for Key {
    type Error = RecordFault;
    fn try_from(wire: &wire::Key) -> Result<Self, RecordFault> {
        Ok(Key {
            id: id(&wire.id, "key.id")?,
            meter_id: wire.meter_id,
            digest: KeyDigest(<[u8; 32]>::try_from(wire.digest.as_slice()).map_err(|_| field("key.digest"))?),
            subscription_id: id(&wire.subscription_id, "key.subscription_id")?,
            environment: match wire.environment() {
                wire::Environment::Live => Environment::Live,
                wire::Environment::Test => Environment::Test,
                wire::Environment::Unspecified => return Err(field("key.environment")),
            },
            expires_at_ms: wire.expires_at_ms,
            scopes: wire.scopes.clone(),
        })
    }
}

impl TryFrom<&wire::EntityRef> for EntityRef {
    type Error = RecordFault;
    fn try_from(wire: &wire::EntityRef) -> Result<Self, RecordFault> {
        let kind = match wire.kind() {
            wire::EntityKind::Fleet => EntityKind::Fleet,
            wire::EntityKind::Product => EntityKind::Product,
            wire::EntityKind::Plan => EntityKind::Plan,
            wire::EntityKind::Subscription => EntityKind::Subscription,
            wire::EntityKind::Key => EntityKind::Key,
            wire::EntityKind::Unspecified => return Err(field("entity.kind")),
        };
        Ok(EntityRef { kind, id: id(&wire.id, "entity.id")? })
    }
}

impl From<EntityRef> for wire::EntityRef {
    fn from(entity: EntityRef) -> Self {
        let kind = match entity.kind {
            EntityKind::Fleet => wire::EntityKind::Fleet,
            EntityKind::Product => wire::EntityKind::Product,
            EntityKind::Plan => wire::EntityKind::Plan,
            EntityKind::Subscription => wire::EntityKind::Subscription,
            EntityKind::Key => wire::EntityKind::Key,
        };
        wire::EntityRef { kind: kind.into(), id: entity.id.as_bytes().to_vec() }
    }
}
