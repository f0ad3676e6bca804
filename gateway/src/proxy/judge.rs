//! From the session to a verdict: bounds what the client may take of our time, hands the request's head to `decide`, and
//! keeps what it proved. It refuses to judge by itself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use pingora_proxy::Session;

use super::Gateway;
use super::context::Context;
use crate::bulkhead::Bulkhead;
use crate::decide::{Admitted, Decision, Rejected, RequestHead, Undecided, decide};
use crate::filters::cors::Preflight;
use crate::filters::edge::{both_framings, raw_head_has_content_length};
use crate::filters::entitlement::KnownSubscription;
use crate::limiter::LimitAnswers;
use crate::live::ServedProduct;
use crate::metrics::labels::{AuthResult, ProductCap};
use crate::rejection::Rejection;

/// Kept open without the framework's timer: the connection's watch ends one that is idle for too long.
pub(crate) const KEPT_ALIVE: u64 = 0;
/// How long the rest of an unwanted body is read before the connection is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) enum Verdict {
    Proceed,
    Answer(Preflight),
    Refuse(Rejection),
}

impl Gateway {
    /// Time-outs of the client's side. They hold for one request, so each sets them anew.
    pub(super) fn bound_client(&self, session: &mut Session) {
        session.set_read_timeout(Some(self.client.read_timeout));
        session.set_write_timeout(Some(self.client.write_timeout));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        // The framework forgets its own limit after the first request.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(KEPT_ALIVE));
        }
    }

    pub(super) async fn judge(&self, session: &mut Session, ctx: &mut Context) -> Verdict {
        ctx.method = session.req_header().method.clone();
        ctx.is_http2 = session.is_http2();
        ctx.is_upgrade = is_tunnel_request(session);
        let decision = match read_head(session) {
            // Pinned for the decision alone: what it proves owns what the request needs, and a tunnel that lasts for days
            // keeps one product in memory, not the whole of an old snapshot.
            Ok(head) => decide(&head, &self.live.load(), &self.limiter, ctx.began, &self.rules),
            Err(rejection) => Err(rejection.into()),
        };
        let decided = match decision {
            Ok(Decision::Answer(preflight)) => return Verdict::Answer(preflight),
            Ok(Decision::Admitted(admitted)) => Ok(admitted),
            Ok(Decision::Undecided(undecided)) => self.await_limits(*undecided).await,
            Err(rejected) => Err(rejected),
        };
        match decided {
            Ok(admitted) if self.book.usage.must_refuse() => {
                // Nobody is noted for the usage log: it has no room.
                self.turn_away(ctx, admitted);
                Verdict::Refuse(Rejection::UsageStorageFull)
            }
            Ok(admitted) => self.seat(session, ctx, admitted),
            Err(rejected) => {
                self.count_refusal(&rejected);
                let Rejected { rejection, context, limits, cors } = *rejected;
                (ctx.refused, ctx.limits, ctx.cors) = (context, limits, cors);
                Verdict::Refuse(rejection)
            }
        }
    }

    /// Only Redis knows, and its answer is under way: 5 ms at most.
    async fn await_limits(&self, undecided: Undecided) -> Result<Box<Admitted>, Box<Rejected>> {
        let Undecided { pending, .. } = &undecided;
        let answer = pending.settle(&self.metrics).await;
        undecided.settled(answer)
    }

    /// The last question: whether its product has room for one more request.
    fn seat(&self, session: &mut Session, ctx: &mut Context, admitted: Box<Admitted>) -> Verdict {
        let bulkhead = self.bulkhead_of(&admitted.known.product);
        ctx.seat = bulkhead.enter();
        if ctx.seat.is_some() {
            self.admit(session, ctx, admitted);
            return Verdict::Proceed;
        }
        self.metrics.product_refused(ProductCap::Requests, bulkhead.class());
        ctx.refused = Some(self.turn_away(ctx, admitted));
        Verdict::Refuse(Rejection::ProductBusy)
    }

    /// Admitted, and refused by us: its limits are taken, and its answer has what every authenticated one has.
    fn turn_away(&self, ctx: &mut Context, admitted: Box<Admitted>) -> KnownSubscription {
        self.metrics.auth_result(AuthResult::Accepted);
        self.count_limits(&admitted.limits);
        let Admitted { known, limits, cors, .. } = *admitted;
        (ctx.limits, ctx.cors) = (Some(limits), cors);
        known
    }

    pub(super) fn bulkhead_of<'a>(&self, product: &'a ServedProduct) -> &'a Arc<Bulkhead> {
        self.bulkheads.of(product.id, product.caps, &product.bulkhead)
    }

    fn admit(&self, session: &mut Session, ctx: &mut Context, admitted: Box<Admitted>) {
        self.metrics.auth_result(AuthResult::Accepted);
        self.count_limits(&admitted.limits);
        let total_ms = admitted.known.endpoint.timeouts.total_ms;
        ctx.lifeline.set_total(ctx.began, Duration::from_millis(u64::from(total_ms)));
        if ctx.is_upgrade {
            // Its upstream's read time-out is the tunnel's; the handshake has this bound instead.
            ctx.lifeline.set_total(ctx.began, self.upstreams.handshake_timeout(&admitted.known.endpoint));
        }
        let is_announced = session.req_header().headers.contains_key(CONTENT_LENGTH);
        let has_body = !ctx.is_upgrade && !session.is_body_empty();
        if has_body && !may_be_silent(ctx.is_http2, is_announced, total_ms) {
            ctx.lifeline.body_begins(self.upstreams.write_timeout(&admitted.known.endpoint));
        }
        // A client may stream for ever before its upstream says a word.
        if has_body && !is_announced {
            ctx.lifeline.is_now_a_stream(&admitted.known);
        }
        ctx.limits = Some(admitted.limits);
        ctx.cors.clone_from(&admitted.cors);
        ctx.admitted = Some(admitted);
    }

    fn count_limits(&self, limits: &LimitAnswers) {
        if let Some(outcome) = limits.outcome {
            self.metrics.limits.decided(limits.algorithm, outcome);
        }
    }

    fn count_refusal(&self, rejected: &Rejected) {
        if let Some(limits) = &rejected.limits {
            self.count_limits(limits);
        }
        let auth = match &rejected.rejection {
            Rejection::MissingKey => AuthResult::Missing,
            Rejection::InvalidKey => AuthResult::Unknown,
            Rejection::ExpiredKey => AuthResult::Expired,
            Rejection::ConflictingCredentials | Rejection::DuplicateCredential => AuthResult::Conflicting,
            Rejection::NoSubscription
            | Rejection::SubscriptionPending
            | Rejection::SubscriptionSuspended
            | Rejection::SubscriptionCancelled
            | Rejection::InsufficientScope => AuthResult::Forbidden,
            Rejection::RateLimited { .. } | Rejection::QuotaExceeded { .. } => AuthResult::Accepted,
            _ => return,
        };
        self.metrics.auth_result(auth);
    }
}

/// A stream of messages may be silent for as long as its endpoint allows. Those are HTTP/2's (gRPC); a body in chunks of HTTP/1
/// is an upload, and one that drips holds its connection and its upstream's.
fn may_be_silent(is_http2: bool, is_announced: bool, total_ms: u32) -> bool {
    is_http2 && !is_announced && total_ms == 0
}

fn read_head(session: &Session) -> Result<RequestHead<'_>, Rejection> {
    let header = session.req_header();
    // The framework drops Content-Length beside Transfer-Encoding; only the raw bytes still tell.
    if header.headers.contains_key(TRANSFER_ENCODING) && raw_head_has_content_length(&session.to_h1_raw()) {
        return Err(both_framings());
    }
    let authority = header.uri.authority().map(http::uri::Authority::as_str);
    RequestHead::read(&header.method, header.version, header.raw_path(), authority, &header.headers, peer(session))
}

/// A WebSocket handshake; other upgrades are not passed on, so theirs are ordinary requests.
fn is_tunnel_request(session: &Session) -> bool {
    let is_websocket = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    session.is_upgrade_req() && session.get_header(UPGRADE).is_some_and(is_websocket)
}

/// The other end of the connection.
pub(super) fn peer(session: &Session) -> IpAddr {
    let address = session.client_addr().and_then(|address| address.as_inet());
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_endless_stream_of_http_2_may_send_its_body_as_slowly_as_it_likes() {
        for (is_http2, is_announced, total_ms, expected) in [
            (true, false, 0, true),
            (true, false, 60_000, false),
            (true, true, 0, false),
            (false, false, 0, false),
            (false, true, 0, false),
            (false, false, 60_000, false),
        ] {
            assert_eq!(
                may_be_silent(is_http2, is_announced, total_ms),
                expected,
                "{is_http2} {is_announced} {total_ms}"
            );
        }
    }
}
