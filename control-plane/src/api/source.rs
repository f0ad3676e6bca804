//! Where a request comes from, and its id: the peer's address, or behind trusted proxies the rightmost address that is not
//! theirs. Refuses to believe a header that anybody could send.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;
use uuid::Uuid;

use crate::api::state::AppState;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Addresses of one `X-Forwarded-For` that are looked at, from the right.
const FORWARDED_MAX: usize = 32;

/// Given by us to every request, whatever the client sent, so that it is unique in the logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestId(pub Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The outermost layer: gives the id and returns it.
pub async fn give_request_id(mut request: Request, next: Next) -> Response {
    let id = RequestId(Uuid::now_v7());
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's address and the request's id, for throttles and the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub address: IpAddr,
    pub request_id: Uuid,
}

impl Source {
    pub fn of(parts: &Parts, state: &AppState) -> Source {
        // Without a connection (a test's request in process) the client is this machine.
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
        let request_id = parts.extensions.get::<RequestId>().copied().unwrap_or_default().0;
        Source { address: client_behind(peer, &parts.headers, &state.settings.rest.trusted_proxies), request_id }
    }
}

impl FromRequestParts<AppState> for Source {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Source, Infallible> {
        let State(state) = State::<AppState>::from_request_parts(parts, state).await?;
        Ok(Source::of(parts, &state))
    }
}

fn client_behind(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let listed: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','))
        .collect();
    let mut client = peer;
    for text in listed.iter().rev().take(FORWARDED_MAX) {
        let Ok(address) = text.trim().parse::<IpAddr>() else { return client };
        client = address.to_canonical();
        if !is_trusted(&client) {
            return client;
        }
    }
    client
}
