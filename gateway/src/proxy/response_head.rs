//! Towards the client: is the upstream's head one that may be passed on, and what does the gateway add to it. It refuses
//! tunnels that nobody asked for and lengths that two readers could take differently.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{ALT_SVC, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::context::Context;
use super::refuse::add_cors;
use super::{Gateway, request_id};
use crate::clock::Now;
use crate::filters::cors::REPLACED_HEADERS;
use crate::filters::limit_headers::limit_headers;
use crate::rejection::{Rejection, X_GATEWAY_ERROR};
use crate::stack_text::StackText;

pub(super) const X_REQUEST_ID: &str = "X-Request-ID";
/// As it is written; the framework copies a name that is not static text.
pub(super) const VIA: &str = "Via";
pub(super) const VIA_VALUE: HeaderValue = HeaderValue::from_static("1.1 apihub");
const SERVER_TIMING: &str = "Server-Timing";
/// Room for both parts of it with their largest figures.
const TIMING_BYTES: usize = 96;
/// What only the gateway may say to its clients: its limits, its errors, its other addresses; and what ends at this hop.
const STRIPPED: [HeaderName; 12] = [
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
    X_GATEWAY_ERROR,
    ALT_SVC,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

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
        for name in &STRIPPED {
            head.remove_header(name);
        }
        if let Some(limits) = &ctx.limits {
            for (name, value) in limit_headers(limits, self.rate_limit_headers) {
                head.insert_header(name, value)?;
            }
        }
        if let Some(cors) = &ctx.cors {
            for name in &REPLACED_HEADERS {
                head.remove_header(name);
            }
            add_cors(head, cors.headers())?;
        }
        head.insert_header(X_REQUEST_ID, request_id::value(ctx.request_id))?;
        head.append_header(SERVER_TIMING, server_timing(ctx))?;
        head.append_header(VIA, VIA_VALUE)?;
        if ctx.has_no_body(head.status) {
            self.book.record_answer(ctx);
        }
        Ok(())
    }

    fn answer_began(&self, ctx: &mut Context, head: &ResponseHeader) {
        ctx.status = head.status.as_u16();
        ctx.upstream.answered_us = Some(Now::read().mono_us);
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

/// Milliseconds of ours and of the upstream's, up to the answer's first byte.
fn server_timing(ctx: &Context) -> HeaderValue {
    let answered = ctx.upstream.answered_us.unwrap_or(ctx.began.mono_us);
    let upstream = answered.saturating_sub(ctx.upstream.began_us.unwrap_or(answered));
    let own = answered.saturating_sub(ctx.began.mono_us).saturating_sub(upstream);
    let mut text = StackText::<TIMING_BYTES>::new();
    // Two numbers of 64 bits fit.
    let _ = write!(
        text,
        "gateway;dur={}.{:03}, upstream;dur={}.{:03}",
        own / 1_000,
        own % 1_000,
        upstream / 1_000,
        upstream % 1_000
    );
    text.to_value()
}
