//! Towards the upstream: which address, which head, how much body. What the client sent under names of ours never gets
//! through, and the path is the very one that was decided on.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use pingora::http::RequestHeader;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::Gateway;
use super::context::Context;
use super::judge::peer;
use super::response_head::{VIA, VIA_VALUE, X_REQUEST_ID};
use super::{request_id, trace};
use crate::clock::Now;
use crate::filters::identity::{headers_to_send, headers_to_strip};
use crate::rejection::Rejection;
use crate::stack_text::StackText;
use crate::upstream::NoAddress;

const X_FORWARDED_FOR: &str = "X-Forwarded-For";
const X_FORWARDED_PROTO: &str = "X-Forwarded-Proto";
const X_FORWARDED_HOST: &str = "X-Forwarded-Host";
const X_FORWARDED_PORT: &str = "X-Forwarded-Port";
/// Bytes of a trusted chain that are passed on; no honest chain is longer.
const FORWARDED_BYTES_MAX: usize = 1_024;
/// An exchange whose total time is nearly over still gets a moment to fail properly.
const LEFT_MIN: Duration = Duration::from_millis(1);

impl Gateway {
    pub(super) fn choose_peer(&self, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(admitted) = &ctx.admitted else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not admitted has no upstream");
        };
        let known = &admitted.known;
        let now = Now::read();
        ctx.upstream.began_us.get_or_insert(now.mono_us);
        let organization = known.product.organization_id;
        let address = match self.upstreams.choose(organization, &known.endpoint.target, &ctx.upstream.tried, now) {
            Ok(address) => address,
            Err(reason) => {
                if let NoAddress::Forbidden(forbidden) = &reason {
                    tracing::warn!(%forbidden, endpoint = %known.endpoint.id, "an upstream is refused");
                }
                ctx.rejection = Some(Rejection::NoHealthyUpstream);
                return Err(Error::explain(ErrorType::HTTPStatus(503), reason.to_string()).into_in());
            }
        };
        ctx.upstream.address = Some(address);
        let total_ms = u64::from(known.endpoint.timeouts.total_ms);
        let spent_us = now.mono_us.saturating_sub(ctx.began.mono_us);
        let left = Duration::from_micros((total_ms * 1_000).saturating_sub(spent_us)).max(LEFT_MIN);
        let left = (total_ms > 0 && !ctx.is_upgrade).then_some(left);
        let mut peer = self.upstreams.plan(organization, &known.endpoint).peer(address, ctx.is_upgrade, left);
        if ctx.is_upgrade {
            peer.options.read_timeout = Some(self.client.tunnel_idle_timeout);
        }
        Ok(Box::new(peer))
    }

    pub(super) fn write_request_head(&self, session: &Session, head: &mut RequestHeader, ctx: &Context) -> Result<()> {
        let Some(admitted) = &ctx.admitted else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not admitted has no head");
        };
        let peer = peer(session);
        let is_trusted = self.client.trusted_proxies.iter().any(|net| net.contains(&peer));
        let client_headers = &session.req_header().headers;
        for name in headers_to_strip(&head.headers, admitted.key_places) {
            head.remove_header(&name);
        }
        head.set_raw_path(admitted.path_and_query.as_bytes())?;
        head.insert_header(HOST, admitted.known.endpoint.target.authority())?;
        for (name, value) in headers_to_send(&admitted.known) {
            head.insert_header(name, value)?;
        }
        head.insert_header(X_REQUEST_ID, request_id::value(ctx.request_id))?;
        if !is_trusted || !client_headers.get(trace::TRACEPARENT).is_some_and(trace::is_valid) {
            head.insert_header(trace::TRACEPARENT, trace::new(ctx.request_id))?;
            head.remove_header(trace::TRACESTATE);
        }
        let believed = is_trusted.then_some(client_headers);
        for (name, value) in forwarded(session, believed, peer) {
            head.insert_header(name, value)?;
        }
        head.append_header(VIA, VIA_VALUE)?;
        Ok(())
    }

    pub(super) fn pass_request_body(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        let bytes = body.as_ref().map_or(0, Bytes::len);
        ctx.lifeline.body_came(bytes, is_end);
        // The session's own count: this filter runs again for what is replayed in a retry.
        let read = u64::try_from(session.body_bytes_read()).unwrap_or(u64::MAX);
        ctx.request_bytes = ctx.request_bytes.max(read);
        let limit_bytes = ctx.admitted.as_ref().map_or(0, |admitted| admitted.body_bytes_max);
        if !session.was_upgraded() && read > limit_bytes {
            ctx.rejection = Some(Rejection::BodyTooLarge { limit_bytes });
            return Err(Error::explain(ErrorType::HTTPStatus(413), "the body is beyond its limit").into_down());
        }
        // Pingora #935: an empty last frame of HTTP/2 would end an HTTP/1 upstream's body twice, and the second end would be
        // read as the beginning of the next request on that connection.
        if is_end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }
}

/// `X-Forwarded-*` as this hop sees it; what a trusted proxy said before is kept.
fn forwarded(
    session: &Session,
    believed: Option<&HeaderMap>,
    peer: IpAddr,
) -> impl Iterator<Item = (&'static str, HeaderValue)> {
    let header = session.req_header();
    let before = |name: &str| believed.and_then(|headers| headers.get(name)).cloned();
    let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    let host = || {
        let authority = header.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        authority.or_else(|| header.headers.get(HOST).cloned())
    };
    let port = || {
        let address = session.server_addr().and_then(|address| address.as_inet());
        address.map(|address| HeaderValue::from(address.port()))
    };
    let proto = HeaderValue::from_static(if is_tls { "https" } else { "http" });
    [
        (X_FORWARDED_FOR, chain(believed, peer)),
        (X_FORWARDED_PROTO, before(X_FORWARDED_PROTO).or(Some(proto))),
        (X_FORWARDED_HOST, before(X_FORWARDED_HOST).or_else(host)),
        (X_FORWARDED_PORT, before(X_FORWARDED_PORT).or_else(port)),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
}

/// The chain of a trusted proxy with this peer added, else the peer alone. `None` where the chain is longer than any
/// honest one.
fn chain(believed: Option<&HeaderMap>, peer: IpAddr) -> Option<HeaderValue> {
    let mut text = StackText::<FORWARDED_BYTES_MAX>::new();
    for line in believed.into_iter().flat_map(|headers| headers.get_all(X_FORWARDED_FOR)) {
        let Ok(line) = line.to_str() else { continue };
        write!(text, "{line}, ").ok()?;
    }
    write!(text, "{peer}").ok()?;
    Some(text.to_value())
}
