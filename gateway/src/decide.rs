//! The decision about a request, from its head, the pinned snapshot, the limiter and the time alone: no I/O, no clock, no
//! randomness, so that tests and simulations call the very code that serves.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Version};
use ipnet::IpNet;

use crate::clock::Now;
use crate::filters::authenticate::{authenticate, is_expired};
use crate::filters::body_limit::body_limit;
use crate::filters::client_address::client_address;
use crate::filters::cors::{self, CorsGrant, Preflight};
use crate::filters::credential::{self, KeyPlaces};
use crate::filters::entitlement::{KnownSubscription, check_entitlement, check_status, find_subscription};
use crate::filters::limits::Taken;
use crate::filters::route::{InProduct, Route, find_endpoint, find_product};
use crate::filters::{edge, limits};
use crate::limiter::{LimitAnswers, LimitRefusal, Limiter, Pending};
use crate::live::Snapshot;
use crate::rejection::Rejection;
use crate::settings::Settings;

/// What is decided on. [`RequestHead::read`] makes it from a parsed head.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    pub version: Version,
    /// The target's authority (HTTP/2, or the absolute form), or the `Host` header; `check_edge` makes them one.
    pub host: Option<&'a str>,
    /// As sent, without the query.
    pub raw_path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The other end of the connection.
    pub peer: IpAddr,
}

/// The operator's bounds for every request.
#[derive(Clone, Debug)]
pub struct EdgeRules {
    pub trusted_proxies: Vec<IpNet>,
    pub target_bytes_max: usize,
    pub header_bytes_max: usize,
    pub header_lines_max: usize,
    pub body_bytes_max: u64,
}

pub enum Decision {
    Admitted(Box<Admitted>),
    /// Everything holds but the limits: only Redis knows, and its answer is under way.
    Undecided(Box<Undecided>),
    /// The gateway answers by itself.
    Answer(Preflight),
}

/// A request whose limits have yet to be asked.
pub struct Undecided {
    admitted: Admitted,
    pub pending: Box<Pending>,
}

/// Everything that the later phases need; the limits have been taken.
pub struct Admitted {
    /// Product, endpoint, key, subscription and plan.
    pub known: KnownSubscription,
    /// The path and query to send upstream, without the key.
    pub path_and_query: String,
    pub key_places: KeyPlaces,
    pub limits: LimitAnswers,
    pub client: IpAddr,
    /// For what arrives of the body, declared or not.
    pub body_bytes_max: u64,
    pub cors: Option<CorsGrant>,
}

/// A request that goes no further.
pub struct Rejected {
    pub rejection: Rejection,
    /// Where a subscription of this product is known: its 402, 403 and 429 are in the usage log.
    pub context: Option<KnownSubscription>,
    /// Where `context` is.
    pub limits: Option<LimitAnswers>,
    /// So that a page of an allowed origin can read the error.
    pub cors: Option<CorsGrant>,
}

impl Undecided {
    /// The decision, once the limits have answered.
    pub fn settled(self, answer: Result<LimitAnswers, LimitRefusal>) -> Result<Box<Admitted>, Box<Rejected>> {
        match answer {
            Ok(limits) => Ok(Box::new(Admitted { limits, ..self.admitted })),
            Err(refusal) => Err(Box::new(Rejected {
                rejection: limits::rejection(&refusal),
                context: Some(self.admitted.known),
                limits: Some(refusal.answers),
                cors: self.admitted.cors,
            })),
        }
    }
}

/// Decides, and takes from the limits when every other question is answered. Errors: the first reason to refuse.
pub fn decide(
    head: &RequestHead<'_>,
    snapshot: &Arc<Snapshot>,
    limiter: &Limiter,
    now: Now,
    rules: &EdgeRules,
) -> Result<Decision, Box<Rejected>> {
    let declared = check_edge(head, rules)?;
    let client = client_address(head.peer, head.headers, &rules.trusted_proxies);
    let path = snapshot::path::normalize(head.raw_path).map_err(Rejection::BadPath)?;
    let found = find_product(snapshot, head.host, &path)?;
    if let Some(preflight) = cors::answer_preflight(head.method, head.headers, found)? {
        return Ok(Decision::Answer(preflight));
    }
    let cors = cors::grant(head.headers, found.product);
    let request = InFlight { head, snapshot, limiter, now, rules, declared, client };
    match request.admit(found) {
        Ok((admitted, None)) => Ok(Decision::Admitted(Box::new(Admitted { cors, ..admitted }))),
        Ok((admitted, Some(pending))) => {
            Ok(Decision::Undecided(Box::new(Undecided { admitted: Admitted { cors, ..admitted }, pending })))
        }
        Err(rejected) => Err(Box::new(Rejected { cors, ..*rejected })),
    }
}

/// Whether a long connection that was admitted may go on: its key and subscription still hold in the newest snapshot.
pub fn still_admitted(known: &KnownSubscription, newest: &Snapshot, now: Now) -> Result<(), Rejection> {
    let key = newest.key_by_tag(&known.key.tag).filter(|key| key.id == known.key.id).ok_or(Rejection::InvalidKey)?;
    if is_expired(&key, now) {
        return Err(Rejection::ExpiredKey);
    }
    let subscription = newest.subscription_of(&key).ok_or(Rejection::NoSubscription)?;
    check_status(subscription, now)?;
    let product = newest.product(&subscription.product_id).ok_or(Rejection::NoRoute)?;
    product.served().map(|_| ()).ok_or(Rejection::ProductClosed)
}

/// What is known of a request once its product is.
struct InFlight<'a> {
    head: &'a RequestHead<'a>,
    snapshot: &'a Snapshot,
    limiter: &'a Limiter,
    now: Now,
    rules: &'a EdgeRules,
    declared: Option<u64>,
    client: IpAddr,
}

impl InFlight<'_> {
    /// With what has to be waited for, where the limits could not say.
    fn admit(&self, found: InProduct<'_, '_>) -> Result<(Admitted, Option<Box<Pending>>), Box<Rejected>> {
        let route = find_endpoint(found, self.head.method)?;
        let body_bytes_max = body_limit(self.declared, route.product, self.rules.body_bytes_max)?;
        let credential = credential::extract(self.head.headers, self.head.query, route.product.key_in_query)?;
        let authenticated = authenticate(self.snapshot, &credential, self.now)?;
        let known = find_subscription(self.snapshot, authenticated, &route)?;
        let (limits, pending) = match self.take_limits(&known) {
            Taken::Yes(limits) => (limits, None),
            Taken::Unknown(pending, limits) => (limits, Some(pending)),
            Taken::No(rejection, limits) => {
                return Err(Box::new(Rejected { rejection, context: Some(known), limits: Some(limits), cors: None }));
            }
        };
        let admitted = Admitted {
            path_and_query: render(&route, credential.query.as_deref()),
            known,
            key_places: credential.places,
            limits,
            client: self.client,
            body_bytes_max,
            cors: None,
        };
        Ok((admitted, pending))
    }

    fn take_limits(&self, known: &KnownSubscription) -> Taken {
        match check_entitlement(known, self.now) {
            Ok(()) => limits::take(self.limiter, self.snapshot, known, self.now),
            Err(rejection) => Taken::No(rejection, limits::peek(self.limiter, self.snapshot, known, self.now)),
        }
    }
}

/// The declared length of the body.
fn check_edge(head: &RequestHead<'_>, rules: &EdgeRules) -> Result<Option<u64>, Rejection> {
    edge::check_method(head.method)?;
    edge::check_target(head.raw_path, head.query, rules.target_bytes_max)?;
    edge::check_header_size(head.headers, rules.header_bytes_max, rules.header_lines_max)?;
    edge::check_host(head.version, head.host, head.headers)?;
    edge::check_loop(head.headers)?;
    edge::read_framing(head.version, head.headers)
}

fn render(route: &Route<'_, '_>, query: Option<&str>) -> String {
    route.endpoint.target.render(&route.captures, query)
}

impl<'a> RequestHead<'a> {
    /// `raw_target` are the target's bytes as sent; `authority` is that of HTTP/2, which comes apart from them.
    pub fn read(
        method: &'a Method,
        version: Version,
        raw_target: &'a [u8],
        authority: Option<&'a str>,
        headers: &'a HeaderMap,
        peer: IpAddr,
    ) -> Result<RequestHead<'a>, Rejection> {
        let target = edge::split_target(version, raw_target)?;
        let named = authority.or(target.authority);
        let host = named.or_else(|| headers.get(http::header::HOST).and_then(|host| host.to_str().ok()));
        let (raw_path, query) = (target.path, target.query);
        Ok(RequestHead { method, version, host, raw_path, query, headers, peer })
    }
}

impl Default for EdgeRules {
    /// The design's bounds; no proxy is trusted.
    fn default() -> EdgeRules {
        /// Streams have their own limit per product; this one only keeps a mistake from running for ever.
        const BODY_BYTES_MAX: u64 = 1 << 40;
        EdgeRules {
            trusted_proxies: Vec::new(),
            target_bytes_max: edge::TARGET_BYTES_MAX,
            header_bytes_max: edge::HEADER_BYTES_MAX,
            header_lines_max: edge::HEADER_LINES_MAX,
            body_bytes_max: BODY_BYTES_MAX,
        }
    }
}

impl From<&Settings> for EdgeRules {
    fn from(settings: &Settings) -> EdgeRules {
        EdgeRules {
            trusted_proxies: settings.client.trusted_proxies.clone(),
            target_bytes_max: settings.limits.target_bytes_max,
            header_bytes_max: settings.limits.header_bytes_max,
            header_lines_max: settings.limits.header_count_max,
            body_bytes_max: settings.limits.body_bytes_max,
        }
    }
}

impl From<Rejection> for Box<Rejected> {
    /// Of a caller who is not known, or whose subscription is not this product's.
    fn from(rejection: Rejection) -> Box<Rejected> {
        Box::new(Rejected { rejection, context: None, limits: None, cors: None })
    }
}
