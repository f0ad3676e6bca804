//! An endpoint: method and path pattern on our side, target URL on the publisher's. Parsed with the very functions that
//! the gateway compiles with. A literal address is judged by the operator's rules; a name is judged when it is resolved.
//! Whether two endpoints collide is found when publishing.

use std::net::{IpAddr, SocketAddr};

use snapshot::guard::AddressPolicy;
use snapshot::pattern::Pattern;
use snapshot::record::{RETRIES_MAX, TIMEOUT_MS_MAX};
use snapshot::routes::MethodMatch;
use snapshot::target::{Host, Target};

use super::fault::{Faults, Flaw};
use super::text::Scope;

/// What an endpoint gets that names no timeouts, in milliseconds.
pub const CONNECT_TIMEOUT_MS_DEFAULT: u32 = 2_000;
pub const READ_TIMEOUT_MS_DEFAULT: u32 = 30_000;
pub const WRITE_TIMEOUT_MS_DEFAULT: u32 = 30_000;
/// Longest connect timeout: a caller waits for no dead upstream longer than this.
pub const CONNECT_TIMEOUT_MS_MAX: u32 = 60_000;

text_enum! {
    /// What is spoken with the upstream: `auto` is HTTP/1.1 or whatever TLS negotiates.
    UpstreamHttp { Auto = "auto", H1 = "h1", H2 = "h2" }
}

/// An endpoint as a person gave it.
#[derive(Clone, Debug)]
pub struct EndpointDraft {
    pub method: String,
    pub path_pattern: String,
    pub target_url: String,
    pub scope: Option<String>,
    pub connect_timeout_ms: u32,
    pub read_timeout_ms: u32,
    pub write_timeout_ms: u32,
    pub total_timeout_ms: Option<u32>,
    pub retries: u32,
    pub upstream_http: UpstreamHttp,
}

/// An endpoint that can be stored.
#[derive(Clone, Debug)]
pub struct EndpointTerms {
    pub method: String,
    pub path_pattern: String,
    pub target_url: String,
    pub scope: Option<Scope>,
    pub connect_timeout_ms: i32,
    pub read_timeout_ms: i32,
    pub write_timeout_ms: i32,
    pub total_timeout_ms: Option<i32>,
    pub retries: i16,
    pub upstream_http: UpstreamHttp,
}

impl EndpointTerms {
    /// Errors: every fault, each with the field's pointer.
    pub fn parse(draft: &EndpointDraft, addresses: &AddressPolicy) -> Result<EndpointTerms, Faults> {
        let mut faults = Faults::default();
        let method = faults.take("/method", method(&draft.method));
        let pattern = faults.take("/path_pattern", pattern(&draft.path_pattern));
        let target = pattern
            .as_ref()
            .and_then(|pattern| faults.take("/target_url", target(&draft.target_url, pattern, addresses)));
        let scope = faults.take("/scope", draft.scope.as_deref().map(Scope::parse).transpose());
        let connect = faults.take("/connect_timeout_ms", timeout(draft.connect_timeout_ms, CONNECT_TIMEOUT_MS_MAX));
        let read = faults.take("/read_timeout_ms", timeout(draft.read_timeout_ms, TIMEOUT_MS_MAX));
        let write = faults.take("/write_timeout_ms", timeout(draft.write_timeout_ms, TIMEOUT_MS_MAX));
        let total = draft.total_timeout_ms.map(|total| timeout(total, TIMEOUT_MS_MAX)).transpose();
        let total = faults.take("/total_timeout_ms", total);
        let retries = faults.take("/retries", retries(draft.retries));
        let whole = (|| {
            Some(EndpointTerms {
                method: method?,
                path_pattern: pattern?.as_str().to_owned(),
                target_url: target?,
                scope: scope?,
                connect_timeout_ms: connect?,
                read_timeout_ms: read?,
                write_timeout_ms: write?,
                total_timeout_ms: total?,
                retries: retries?,
                upstream_http: draft.upstream_http,
            })
        })();
        faults.finish(whole)
    }
}

fn method(text: &str) -> Result<String, Flaw> {
    let flaw = |fault: snapshot::routes::RoutesFault| {
        Flaw::new(fault.to_string()).mend("write it in upper case, or '*' for every method")
    };
    MethodMatch::parse(text).map(|_| text.to_owned()).map_err(flaw)
}

fn pattern(text: &str) -> Result<Pattern, Flaw> {
    Pattern::parse(text).map_err(|fault| Flaw::new(fault.to_string()).mend("for example /users/{id} or /files/{*rest}"))
}

fn target(text: &str, pattern: &Pattern, addresses: &AddressPolicy) -> Result<String, Flaw> {
    let flaw = |fault: snapshot::target::TargetFault| {
        Flaw::new(fault.to_string()).mend("for example https://api.example.com/v2/users/{id}")
    };
    let target = Target::parse(text, pattern).map_err(flaw)?;
    check_address(&target, addresses)?;
    Ok(text.to_owned())
}

/// Judges a target that names an address. Every spelling of one counts: the parser has turned it into the address.
pub fn check_address(target: &Target, addresses: &AddressPolicy) -> Result<(), Flaw> {
    let ip = match target.host {
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
        Host::Domain(_) => return Ok(()),
    };
    let mend = "use an address on the public internet, or ask the operator of this installation to allow the range";
    addresses.check(SocketAddr::new(ip, target.port)).map_err(|fault| Flaw::new(fault.to_string()).mend(mend))
}

fn timeout(value_ms: u32, max_ms: u32) -> Result<i32, Flaw> {
    let flaw = || Flaw::new(format!("a timeout is 1 to {max_ms} milliseconds"));
    if !(1..=max_ms).contains(&value_ms) {
        return Err(flaw());
    }
    i32::try_from(value_ms).map_err(|_| flaw())
}

fn retries(value: u32) -> Result<i16, Flaw> {
    let flaw = || Flaw::new(format!("an endpoint has at most {RETRIES_MAX} retries"));
    if value > RETRIES_MAX {
        return Err(flaw());
    }
    i16::try_from(value).map_err(|_| flaw())
}
