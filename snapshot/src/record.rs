//! What a snapshot holds, as types that cannot be wrong. Wire records become these by `TryFrom` or `Product::compile`;
//! nothing below validates again. Holds no secrets: of a key only its digest.

use std::fmt;
use std::num::NonZeroU32;

use uuid::Uuid;

use crate::key::{Environment, KeyDigest};
use crate::pattern::{Pattern, PatternFault};
use crate::routes::{MethodMatch, ProductRoutes, RoutesFault};
use crate::target::{Target, TargetFault};
use crate::wire;

/// Endpoints of one product: bounds a release, and with it the largest message of the feed.
pub const ENDPOINTS_MAX: usize = 10_000;
/// Largest rate a policy may name, per minute.
pub const REQUESTS_PER_MINUTE_MAX: u32 = 60_000_000;
/// Longest timeout an endpoint may ask for, in milliseconds.
pub const TIMEOUT_MS_MAX: u32 = 3_600_000;
/// Most retries an endpoint may ask for.
pub const RETRIES_MAX: u32 = 3;

/// Which record a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntityKind {
    Fleet,
    Product,
    Plan,
    Subscription,
    Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityRef {
    pub kind: EntityKind,
    pub id: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Exact origins, or a single `*`.
    pub origins: Vec<String>,
    pub headers: Vec<String>,
    pub exposed_headers: Vec<String>,
    pub credentials: bool,
    pub max_age_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1, or whatever TLS negotiates.
    Auto,
    H1,
    H2,
}

/// Of one endpoint. Zero total: no limit, for streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect_ms: u32,
    pub read_ms: u32,
    pub write_ms: u32,
    pub total_ms: u32,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: Uuid,
    pub meter_id: u64,
    pub method: MethodMatch,
    pub pattern: Pattern,
    pub target: Target,
    /// A key with scopes must have this one.
    pub scope: Option<String>,
    pub timeouts: Timeouts,
    pub retries: u32,
    pub upstream_http: UpstreamHttp,
}

/// A product's live release, compiled.
#[derive(Clone)]
pub struct Product {
    pub id: Uuid,
    pub meter_id: u64,
    pub organization_id: Uuid,
    pub organization_slug: String,
    pub slug: String,
    pub hosts: Vec<String>,
    pub release: u64,
    pub requires: Vec<String>,
    pub key_in_query: bool,
    /// `None`: the gateway's own limit alone.
    pub body_bytes_max: Option<u64>,
    pub cors: Option<Cors>,
    pub endpoints: Vec<Endpoint>,
    pub routes: ProductRoutes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    TokenBucket,
    SlidingWindow,
    FixedWindow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRedisDown {
    FairShare,
    Open,
    Closed,
}

/// How a plan's rate is enforced. For windows, `burst` equals `per_minute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub algorithm: Algorithm,
    pub per_minute: NonZeroU32,
    pub burst: NonZeroU32,
    pub on_redis_down: OnRedisDown,
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub included: u64,
    pub hard: bool,
}

/// One version of a plan; immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub id: Uuid,
    pub meter_id: u64,
    pub name: String,
    pub version: u32,
    pub policy: Policy,
    pub quota: Option<Quota>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionStatus {
    Pending,
    Active,
    Suspended,
    PastDue,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub id: u32,
    pub ends_at_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    pub per_minute: NonZeroU32,
    pub burst: NonZeroU32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: Uuid,
    pub meter_id: u64,
    pub product_id: Uuid,
    pub plan_id: Uuid,
    pub consumer_id: Uuid,
    pub consumer_username: String,
    pub status: SubscriptionStatus,
    pub rate_override: Option<Override>,
    pub period: Option<Period>,
    pub next_period: Option<Period>,
    pub cancel_at_ms: Option<i64>,
    pub refuse_unpaid_from_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: Uuid,
    pub meter_id: u64,
    pub digest: KeyDigest,
    pub subscription_id: Uuid,
    pub environment: Environment,
    pub expires_at_ms: Option<i64>,
    /// Empty: every endpoint.
    pub scopes: Vec<String>,
}

/// Why a record from outside was not taken in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordFault {
    #[error("{field} is missing or not valid")]
    Field { field: &'static str },
    #[error("{endpoint}: {fault}")]
    Pattern { endpoint: String, fault: PatternFault },
    #[error("{endpoint}: {fault}")]
    Target { endpoint: String, fault: TargetFault },
    #[error("{endpoint}: {field} is beyond its limit of {limit}")]
    Limit { endpoint: String, field: &'static str, limit: u32 },
    #[error(transparent)]
    Routes(#[from] RoutesFault),
    #[error("a product has at most {ENDPOINTS_MAX} endpoints")]
    TooManyEndpoints,
}

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
        let period = |wire: &wire::Period| Period { id: wire.id, ends_at_ms: wire.ends_at_ms };
        Ok(Subscription {
            id: id(&wire.id, "subscription.id")?,
            meter_id: wire.meter_id,
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

impl EntityKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EntityKind::Fleet => "fleet",
            EntityKind::Product => "product",
            EntityKind::Plan => "plan",
            EntityKind::Subscription => "subscription",
            EntityKind::Key => "key",
        }
    }
}

impl fmt::Display for EntityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
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
