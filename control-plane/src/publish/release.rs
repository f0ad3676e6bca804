//! Rows → wire form → compiled check → bytes. A release that this lets through compiles in the gateway, because it is the
//! same function; a literal address is judged by the operator's rules, a name when it is resolved.

use std::collections::HashMap;

use prost::Message as _;
use snapshot::features;
use snapshot::guard::AddressPolicy;
use snapshot::pattern::Pattern;
use snapshot::record::{self, RecordFault};
use snapshot::routes::RoutesFault;
use snapshot::target::Target;
use snapshot::wire;

use super::summary::Summary;
use crate::domain::endpoint::{UpstreamHttp, check_address};
use crate::domain::fault::{Fault, Flaw};
use crate::domain::plan::{Algorithm, OnRedisDown};
use crate::store::endpoints::EndpointRow;
use crate::store::plans::PlanRow;
use crate::store::products::ProductRow;

/// Largest release in bytes: what the feed carries in one message, with room for its frame.
const RELEASE_BYTES_MAX: usize = wire::FEED_MESSAGE_BYTES_MAX - 64 * 1024;

/// Everything that a release is made of.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    pub product: &'a ProductRow,
    pub organization_slug: &'a str,
    pub endpoints: &'a [EndpointRow],
    pub plans: &'a [PlanRow],
    /// The release's number.
    pub number: i32,
}

/// A release that gateways can serve.
#[derive(Debug)]
pub struct Compiled {
    pub bytes: Vec<u8>,
    pub summary: Summary,
}

/// Compiles the draft. Errors: every fault, with pointers such as `/endpoints/<id>/target_url`.
pub fn compile(draft: &Draft<'_>, addresses: &AddressPolicy) -> Result<Compiled, Vec<Fault>> {
    let mut faults = Vec::new();
    if draft.endpoints.is_empty() {
        let flaw = Flaw::new("a release needs at least one endpoint").mend("add an endpoint, then publish again");
        faults.push(flaw.at("/endpoints"));
    }
    let product = wire_product(draft, &mut faults);
    faults.extend(check(&product, addresses));
    for plan in draft.plans {
        faults.extend(check_plan(plan));
    }
    let bytes = product.encode_to_vec();
    if bytes.len() > RELEASE_BYTES_MAX {
        let flaw = Flaw::new(format!("the release has {} bytes, of at most {RELEASE_BYTES_MAX}", bytes.len()));
        faults.push(flaw.mend("offer the endpoints as several products").at("/endpoints"));
    }
    if faults.is_empty() { Ok(Compiled { bytes, summary: Summary::of(draft) }) } else { Err(faults) }
}

/// Judges a stored release anew, as this version and today's operator rules would. For a rollback.
pub fn recheck(compiled: &[u8], addresses: &AddressPolicy) -> Result<(), Vec<Fault>> {
    let unreadable = |_| vec![Flaw::new("the stored release cannot be read").at("/release")];
    let product = wire::Product::decode(compiled).map_err(unreadable)?;
    let faults = check(&product, addresses);
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn check(product: &wire::Product, addresses: &AddressPolicy) -> Vec<Fault> {
    let ids = endpoint_ids(product);
    let mut faults = match record::Product::compile(product) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(|fault| at_endpoint(fault, &ids)).collect(),
    };
    faults.extend(product.endpoints.iter().filter_map(|endpoint| forbidden_address(endpoint, addresses)));
    faults
}

/// Endpoints by the name that a fault gives them; the database keeps (method, pattern) unique within a draft.
fn endpoint_ids(product: &wire::Product) -> HashMap<String, String> {
    product.endpoints.iter().map(|endpoint| (name_of(endpoint), id_of(endpoint))).collect()
}

fn name_of(endpoint: &wire::Endpoint) -> String {
    format!("{} {}", endpoint.method, endpoint.pattern)
}

fn id_of(endpoint: &wire::Endpoint) -> String {
    uuid::Uuid::from_slice(&endpoint.id).map(|id| id.to_string()).unwrap_or_default()
}

fn at_endpoint(fault: &RecordFault, ids: &HashMap<String, String>) -> Fault {
    let pointer = |name: &str, field: &str| match ids.get(name) {
        Some(id) => format!("/endpoints/{id}/{field}"),
        None => "/endpoints".to_owned(),
    };
    let (pointer, detail, mend) = match fault {
        RecordFault::Pattern { endpoint, fault } => {
            (pointer(endpoint, "path_pattern"), fault.to_string(), "correct the path pattern")
        }
        RecordFault::Target { endpoint, fault } => {
            (pointer(endpoint, "target_url"), fault.to_string(), "correct the target URL")
        }
        RecordFault::Limit { endpoint, field, limit } => {
            (pointer(endpoint, field), format!("the value is beyond its limit of {limit}"), "lower it")
        }
        RecordFault::Routes(RoutesFault::Ambiguous { second, .. }) => {
            (pointer(second, "path_pattern"), fault.to_string(), "retire one of the two, or change its method or path")
        }
        RecordFault::Routes(RoutesFault::Method(_)) => {
            ("/endpoints".to_owned(), fault.to_string(), "correct the method")
        }
        RecordFault::TooManyEndpoints => ("/endpoints".to_owned(), fault.to_string(), "split the product"),
        RecordFault::Field { field } => (format!("/{}", field.replace('.', "/")), fault.to_string(), "correct it"),
    };
    Flaw::new(detail).mend(mend).at(pointer)
}

fn forbidden_address(endpoint: &wire::Endpoint, addresses: &AddressPolicy) -> Option<Fault> {
    let pattern = Pattern::parse(&endpoint.pattern).ok()?;
    let target = Target::parse(&endpoint.target, &pattern).ok()?;
    let flaw = check_address(&target, addresses).err()?;
    Some(flaw.at(format!("/endpoints/{}/target_url", id_of(endpoint))))
}

/// That every plan has a policy is the database's own constraint; that gateways can enforce it is seen here.
fn check_plan(plan: &PlanRow) -> Option<Fault> {
    let rate = u32::try_from(plan.policy.requests_per_minute).unwrap_or(0);
    let policy = wire::Policy {
        algorithm: i32::from(match plan.policy.algorithm {
            Algorithm::TokenBucket => wire::Algorithm::TokenBucket,
            Algorithm::SlidingWindow => wire::Algorithm::SlidingWindow,
            Algorithm::FixedWindow => wire::Algorithm::FixedWindow,
        }),
        requests_per_minute: rate,
        burst_limit: u32::try_from(plan.policy.burst_limit).unwrap_or(0),
        on_redis_down: i32::from(match plan.policy.on_redis_down {
            OnRedisDown::FairShare => wire::OnRedisDown::FairShare,
            OnRedisDown::Open => wire::OnRedisDown::Open,
            OnRedisDown::Closed => wire::OnRedisDown::Closed,
        }),
        strict: plan.policy.strict,
    };
    let fault = record::Policy::try_from(&policy).err()?;
    Some(Flaw::new(fault.to_string()).mend("correct the plan's policy").at(format!("/plans/{}/policy", plan.id)))
}

fn wire_product(draft: &Draft<'_>, faults: &mut Vec<Fault>) -> wire::Product {
    let product = draft.product;
    let mut number = |value: i64, pointer: &str| {
        u64::try_from(value).unwrap_or_else(|_| {
            faults.push(Flaw::new("the stored number is negative").at(pointer));
            0
        })
    };
    let mut requires =
        vec![features::ROUTES_V1.to_owned(), features::KEYS_V1.to_owned(), features::LIMITS_V1.to_owned()];
    if product.cors.is_some() {
        requires.push(features::CORS_V1.to_owned());
    }
    wire::Product {
        id: product.id.as_bytes().to_vec(),
        meter_id: number(product.meter_id, "/meter_id"),
        organization_id: product.organization_id.as_bytes().to_vec(),
        organization_slug: draft.organization_slug.to_owned(),
        slug: product.slug.clone(),
        hosts: product.hosts.clone(),
        release: number(i64::from(draft.number), "/release"),
        requires,
        endpoints: draft.endpoints.iter().map(wire_endpoint).collect(),
        key_in_query: product.key_in_query,
        body_bytes_max: number(product.body_bytes_max, "/body_bytes_max"),
        cors: product.cors.as_ref().map(|cors| wire::Cors {
            origins: cors.origins.clone(),
            headers: cors.headers.clone(),
            exposed_headers: cors.exposed_headers.clone(),
            credentials: cors.credentials,
            max_age_s: cors.max_age_s,
        }),
        quarantined: false,
        // Not the publisher's to release: what an operator says is put over the release.
        requests_in_flight_max: 0,
        upstream_connections_max: 0,
    }
}

/// The database keeps these numbers positive; a negative one would become a limit of its own that no compile accepts.
fn wire_endpoint(row: &EndpointRow) -> wire::Endpoint {
    let milliseconds = |value: i32| u32::try_from(value).unwrap_or(u32::MAX);
    wire::Endpoint {
        id: row.id.as_bytes().to_vec(),
        meter_id: u64::try_from(row.meter_id).unwrap_or_default(),
        method: row.method.clone(),
        pattern: row.path_pattern.clone(),
        target: row.target_url.clone(),
        scope: row.scope.clone().unwrap_or_default(),
        connect_timeout_ms: milliseconds(row.connect_timeout_ms),
        read_timeout_ms: milliseconds(row.read_timeout_ms),
        write_timeout_ms: milliseconds(row.write_timeout_ms),
        total_timeout_ms: row.total_timeout_ms.map_or(0, milliseconds),
        retries: u32::try_from(row.retries).unwrap_or(u32::MAX),
        upstream_http: i32::from(match row.upstream_http {
            UpstreamHttp::Auto => wire::UpstreamHttp::Auto,
            UpstreamHttp::H1 => wire::UpstreamHttp::H1,
            UpstreamHttp::H2 => wire::UpstreamHttp::H2,
        }),
    }
}
