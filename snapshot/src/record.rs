//! What a snapshot holds, as types that cannot be wrong. Wire records become these by `TryFrom` or `Product::compile`;
//! nothing below validates again. Holds no secrets: of a key only its digest.

use std::fmt;
use std::num::NonZeroU32;

use uuid::Uuid;

use crate::key::{Environment, KeyDigest};
use crate::pattern::{Pattern, PatternFault};
use crate::routes::{MethodMatch, ProductRoutes, RoutesFault};
use crate::target::{Target, TargetFault};

mod decode;

/// Endpoints of one product: bounds a release, and with it the largest message of the feed.
pub const ENDPOINTS_MAX: usize = 10_000;
/// Largest rate and burst that a policy may name, per minute: what the limits count exactly.
pub const REQUESTS_PER_MINUTE_MAX: u32 = 50_000_000;
/// Longest timeout an endpoint may ask for, in milliseconds.
pub const TIMEOUT_MS_MAX: u32 = 3_600_000;
/// Most retries an endpoint may ask for.
pub const RETRIES_MAX: u32 = 3;
/// The meter ids of keys and subscriptions: a trillion of each, ever.
pub const METER_ID_MAX: u64 = (1 << 40) - 1;

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

/// What one product may hold of one gateway at once. `None`: as much as the gateway's settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProductCaps {
    pub requests_in_flight_max: Option<NonZeroU32>,
    pub upstream_connections_max: Option<NonZeroU32>,
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
    pub caps: ProductCaps,
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
    /// In the place of the plan's: of a month of which it was held a part only.
    pub included: Option<u64>,
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
