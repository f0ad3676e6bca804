//! Towards the client: is the upstream's head one that may be passed on, and what does the gateway add to it. It refuses
//! tunnels that nobody asked for and lengths that two readers could take differently.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{ALT_SVC, CONTENT_LENGTH, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::Gateway;
use super::context::Context;
use super::heads::edit_response;
use super::refuse::add_cors;
use crate::clock::mono_us;
use crate::filters::cors::REPLACED_HEADERS;
use crate::filters::limit_headers::{LIMIT_HEADERS, limit_headers};
use crate::header_texts::{HeaderTexts, Piece};
use crate::rejection::{Rejection, X_GATEWAY_ERROR};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const VIA_VALUE: HeaderValue = HeaderValue::from_static("1.1 apihub");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// What the values usually take together, in bytes, and how many headers they are.
pub(super) const TEXT_BYTES_USUAL: usize = 256;
const ADDED_MAX: usize = 9;
/// What only the gateway may say to its clients beside its limits: its errors, its other addresses; and what ends at this hop.
const STRIPPED: [HeaderName; 4] =
    [X_GATEWAY_ERROR, ALT_SVC, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// HTTP has five classes; nothing behind this, usage least of all, knows a sixth.
const STATUS_MAX: u16 = 599;

impl Gateway {
    /// Before anything is passed on. Errors lead to 502, and the connection to the upstream is dropped.
    pub(super) fn check_response_head(&self, head: &ResponseHeader, ctx: &mut Context) -> Result<()> {
        let fault = if head.status == StatusCode::SWITCHING_PROTOCOLS && !ctx.is_upgrade {
            "the upstream switches protocols though nobody asked"
        } else if head.status.as_u16() > STATUS_MAX {
            "the upstream's status is not one that HTTP has"
        } else if !has_plain_length(head) {
            "the upstream's Content-Length is not one plain number"
        } else {
            return Ok(());
        };
        ctx.rejection = Some(Rejection::UpstreamBadResponse);
        Err(Error::explain(ErrorType::InvalidHTTPHeader, fault).into_up())
    }

    pub(super) fn write_response_head(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        // "Continue" and "early hints" come before the answer.
        if head.status.is_informational() && !is_tunnel {
            return Ok(());
        }
        self.answer_began(ctx, head);
        if is_tunnel {
            self.tunnel_began(session, ctx);
        } else if ctx.is_upgrade {
            self.tunnel_refused(ctx);
        }
        if !is_tunnel && self.is_leaving.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
        let mut texts = HeaderTexts::with_capacity(TEXT_BYTES_USUAL);
        let limits = ctx.limits.as_ref().map(|limits| limit_headers(limits, self.rate_limit_headers, &mut texts));
        let id = texts.uuid(ctx.request_id);
        let timing = server_timing(ctx, &mut texts);
        let texts = texts.ready();
        edit_response(head, |headers| {
            strip(headers);
            headers.reserve(ADDED_MAX);
            for (name, piece) in limits.into_iter().flatten() {
                headers.insert(name, texts.value(&piece));
            }
            if let Some(cors) = &ctx.cors {
                for name in &REPLACED_HEADERS {
                    headers.remove(name);
                }
                add_cors(headers, cors.headers());
            }
            headers.insert(X_REQUEST_ID, texts.value(&id));
            headers.append(SERVER_TIMING, texts.value(&timing));
            headers.append(VIA, VIA_VALUE);
        });
        if ctx.has_no_body(head.status) {
            self.book.record_answer(ctx);
        }
        Ok(())
    }

    fn answer_began(&self, ctx: &mut Context, head: &ResponseHeader) {
        ctx.status = head.status.as_u16();
        ctx.upstream.answered_us = Some(mono_us());
        let Some(admitted) = &ctx.admitted else { return };
        if let Some(address) = ctx.upstream.address {
            self.upstreams.succeeded(admitted.known.product.organization_id, address);
        }
        // Without a length an answer may last for ever; it is watched for as long as it does.
        let length = head.headers.get(CONTENT_LENGTH);
        ctx.response_length = length.and_then(|length| length.to_str().ok()).and_then(|length| length.parse().ok());
        if length.is_none() {
            ctx.lifeline.is_now_a_stream(&admitted.known);
        }
    }

    /// A tunnel counts once, now; from here on only its silence ends it, and its key.
    fn tunnel_began(&self, session: &mut Session, ctx: &mut Context) {
        session.set_read_timeout(Some(self.client.tunnel_idle_timeout));
        session.set_write_timeout(Some(self.client.write_timeout));
        ctx.lifeline.set_total(ctx.began, Duration::ZERO);
        let book = self.book.clone();
        book.record_tunnel(ctx);
    }
}

impl Gateway {
    /// An ordinary answer to a handshake has the ordinary time.
    fn tunnel_refused(&self, ctx: &Context) {
        let total_ms = ctx.admitted.as_ref().map_or(0, |admitted| admitted.known.endpoint.timeouts.total_ms);
        ctx.lifeline.set_total(ctx.began, Duration::from_millis(u64::from(total_ms)));
    }

    /// Counts what goes to the client, and gives a large piece the time that the slowest reader we serve needs for it. (The
    /// framework's own least rate would give a small piece one second, and cut a client that pauses.)
    pub(super) fn pass_response_body(
        &self,
        session: &mut Session,
        body: Option<&bytes::Bytes>,
        is_end: bool,
        ctx: &mut Context,
    ) {
        let bytes = body.map_or(0, bytes::Bytes::len);
        ctx.response_came(bytes, is_end);
        if is_end || ctx.response_length.is_some_and(|length| ctx.response_bytes >= length) {
            self.book.record_answer(ctx);
        }
        let Some(seconds) = bytes.checked_div(self.client.send_rate_bytes_min) else { return };
        let needed = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX));
        if session.get_write_timeout().is_some_and(|timeout| timeout < needed) {
            session.set_write_timeout(Some(needed));
        }
    }
}

/// One value at most, digits only: `2, 2` is what a smuggler writes.
fn has_plain_length(head: &ResponseHeader) -> bool {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return true };
    lengths.next().is_none() && !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit)
}

/// An upstream has few headers and rarely one of these: its names are looked through once.
fn strip(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| LIMIT_HEADERS.contains(name) || STRIPPED.contains(name);
    let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Milliseconds of ours and of the upstream's, up to the answer's first byte.
fn server_timing(ctx: &Context, texts: &mut HeaderTexts) -> Piece {
    let answered = ctx.upstream.answered_us.unwrap_or(ctx.began.mono_us);
    let upstream = answered.saturating_sub(ctx.upstream.began_us.unwrap_or(answered));
    let own = answered.saturating_sub(ctx.began.mono_us).saturating_sub(upstream);
    let start = texts.here();
    for (name, micros) in [("gateway;dur=", own), (", upstream;dur=", upstream)] {
        texts.push(name);
        texts.push_number(micros / 1_000);
        texts.push(".");
        texts.push_digits(micros % 1_000, 3);
    }
    texts.since(start)
}
