//! Towards the upstream: which address, which head, how much body. What the client sent under names of ours never gets
//! through, and the path is the very one that was decided on.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, VIA};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use pingora::http::RequestHeader;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_proxy::Session;

use super::Gateway;
use super::context::Context;
use super::heads::edit_request;
use super::judge::peer;
use super::response_head::{VIA_VALUE, X_REQUEST_ID};
use super::trace;
use crate::clock::Now;
use crate::filters::identity::{headers_to_send, headers_to_strip};
use crate::header_texts::{HeaderTexts, Piece};
use crate::rejection::Rejection;
use crate::upstream::NoAddress;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// What the values usually take together, in bytes, and how many headers they are.
const TEXT_BYTES_USUAL: usize = 384;
const ADDED_MAX: usize = 13;
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
        ctx.upstream.began_us.get_or_insert(now.mono_us);
        ctx.upstream.address = Some(address);
        let left = ctx.time_left(now).map(|left| left.max(LEFT_MIN));
        let mut peer = self.upstreams.plan(known.product.id, &known.endpoint).peer(address, ctx.is_upgrade, left);
        self.bulkhead_of(&known.product).govern(&mut peer);
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
        let client = &session.req_header().headers;
        let believed = is_trusted.then_some(client);
        let mut texts = HeaderTexts::with_capacity(TEXT_BYTES_USUAL);
        let target = &admitted.known.endpoint.target;
        let host = texts.text(target.authority());
        let caller = headers_to_send(&admitted.known, &mut texts);
        let id = texts.uuid(ctx.request_id);
        let is_traced = believed.and_then(|headers| headers.get(trace::TRACEPARENT)).is_some_and(trace::is_valid);
        let trace = (!is_traced).then(|| trace::new(ctx.request_id, &mut texts));
        let chain = chain(believed, peer, &mut texts);
        let port = port(session).map(|port| texts.number(u64::from(port)));
        let texts = texts.ready();
        let strip = headers_to_strip(&head.headers, admitted.key_places);
        edit_request(head, |headers| {
            for name in strip {
                headers.remove(name);
            }
            headers.reserve(ADDED_MAX);
            headers.insert(HOST, texts.value(&host));
            for (name, piece) in &caller {
                headers.insert(name, texts.value(piece));
            }
            headers.insert(X_REQUEST_ID, texts.value(&id));
            if let Some(trace) = trace {
                headers.insert(trace::TRACEPARENT, texts.value(&trace));
                headers.remove(trace::TRACESTATE);
            }
            let chain = chain.map(|piece| texts.value(&piece));
            let port = port.map(|piece| texts.value(&piece));
            for (name, value) in forwarded(session, believed, chain, port) {
                headers.insert(name, value);
            }
            headers.append(VIA, VIA_VALUE);
        });
        // What was decided on is in normal form: a plain path, which an URI gives back byte by byte.
        let path = PathAndQuery::try_from(admitted.path_and_query.as_str());
        let path = path.or_err(ErrorType::InternalError, "a path in normal form is a path")?;
        head.set_uri(Uri::from(path));
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
    chain: Option<HeaderValue>,
    port: Option<HeaderValue>,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let header = session.req_header();
    let before = |name: &HeaderName| believed.and_then(|headers| headers.get(name)).cloned();
    let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    let host = || {
        let authority = header.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        authority.or_else(|| header.headers.get(HOST).cloned())
    };
    let proto = HeaderValue::from_static(if is_tls { "https" } else { "http" });
    [
        (X_FORWARDED_FOR, chain),
        (X_FORWARDED_PROTO, before(&X_FORWARDED_PROTO).or(Some(proto))),
        (X_FORWARDED_HOST, before(&X_FORWARDED_HOST).or_else(host)),
        (X_FORWARDED_PORT, before(&X_FORWARDED_PORT).or(port)),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
}

/// The usual kind without the machinery of formatting, which costs more than all else in this file.
fn push_address(address: IpAddr, texts: &mut HeaderTexts) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            texts.push_number(u64::from(first));
            for octet in rest {
                texts.push(".");
                texts.push_number(u64::from(octet));
            }
        }
        IpAddr::V6(address) => {
            // Writing to memory cannot fail.
            let _ = write!(texts, "{address}");
        }
    }
}

fn port(session: &Session) -> Option<u16> {
    session.server_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::port)
}

/// The chain of a trusted proxy with this peer added, else the peer alone. `None` where the chain is longer than any
/// honest one.
fn chain(believed: Option<&HeaderMap>, peer: IpAddr, texts: &mut HeaderTexts) -> Option<Piece> {
    let start = texts.here();
    for line in believed.into_iter().flat_map(|headers| headers.get_all(X_FORWARDED_FOR)) {
        let Ok(line) = line.to_str() else { continue };
        texts.push(line);
        texts.push(", ");
    }
    push_address(peer, texts);
    if texts.here() - start > FORWARDED_BYTES_MAX {
        texts.forget(start);
        return None;
    }
    Some(texts.since(start))
}
