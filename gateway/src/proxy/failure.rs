//! When the exchange with the upstream fails: whether it may be tried again, and what the client is told otherwise. Nothing is
//! sent twice that could be done twice, and nothing is tried again when its time is over.

use std::time::Duration;

use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::{FailToProxy, Session};

use super::Gateway;
use super::context::Context;
use crate::bulkhead::CONNECTIONS_FULL;
use crate::clock::Now;
use crate::metrics::labels::ProductCap;
use crate::rejection::Rejection;

/// Addresses that one request may try to connect to.
const CONNECTS_MAX: usize = 3;
/// With less of the total time left another attempt could only fail, and an innocent address would be blamed for it.
const RETRY_TIME_MIN: Duration = Duration::from_millis(10);
/// Attempts in all, whatever the reasons; the framework's own bound is set to the same.
pub(crate) const ATTEMPTS_MAX: usize = 8;

impl Gateway {
    /// Nothing was sent yet, so another address may be tried whatever the method.
    pub(super) fn connect_failed(&self, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
        if *error.etype() == CONNECTIONS_FULL {
            self.connections_full(ctx);
            error.set_retry(false);
            return error;
        }
        let Some(address) = ctx.upstream.address else { return error };
        self.blame(ctx);
        ctx.upstream.tried.push(address);
        let Some(admitted) = &ctx.admitted else { return error };
        let (organization, target) = (admitted.known.product.organization_id, &admitted.known.endpoint.target);
        let (tried, now) = (&ctx.upstream.tried, Now::read());
        let may_retry = tried.len() < CONNECTS_MAX
            && has_time_left(ctx, now)
            && self.upstreams.has_another(organization, target, tried, now);
        if may_retry {
            self.metrics.upstream_retries_total.inc();
        }
        error.set_retry(may_retry);
        error
    }

    /// No fault of the upstream's, so nothing is held against it.
    fn connections_full(&self, ctx: &mut Context) {
        if let Some(admitted) = &ctx.admitted {
            self.metrics.product_refused(ProductCap::Connections, self.bulkhead_of(&admitted.known.product).class());
        }
        ctx.rejection = Some(Rejection::TooManyConnections);
    }

    /// Something may have been sent: only what is idempotent and had no body may go out again, as often as its endpoint
    /// allows; once more where a kept connection had been closed under our feet.
    pub(super) fn exchange_failed(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut error: Box<Error>,
        is_reused: bool,
    ) -> Box<Error> {
        let is_upstreams = *error.esource() == ErrorSource::Upstream;
        let is_stale = is_reused && is_broken(error.etype());
        // An upstream that still waits for the client's body is not late.
        let is_its_turn = session.is_body_done();
        if is_upstreams && is_its_turn && !is_stale && ctx.status == 0 && ctx.rejection.is_none() {
            self.blame_exchange(ctx, error.etype());
        }
        let is_safe = is_upstreams
            && ctx.method.is_idempotent()
            && session.is_body_empty()
            && session.response_written().is_none()
            && ctx.rejection.is_none()
            && has_time_left(ctx, Now::read());
        let allowed = ctx.admitted.as_ref().map_or(0, |admitted| admitted.known.endpoint.retries);
        let may_retry = is_safe && {
            if is_stale && !ctx.upstream.is_reuse_retried {
                ctx.upstream.is_reuse_retried = true;
                true
            } else {
                ctx.upstream.retries += 1;
                ctx.upstream.retries <= allowed
            }
        };
        if may_retry {
            self.metrics.upstream_retries_total.inc();
        }
        error.set_retry(may_retry);
        error
    }

    /// Answers for a failed exchange where the client can still be answered.
    pub(super) async fn fail(&self, session: &mut Session, ctx: &mut Context, error: &Error) -> FailToProxy {
        let rejection = ctx.rejection.clone().or_else(|| classify(error));
        let Some(rejection) = rejection else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let status = rejection.status();
        if rejection.is_server_fault() {
            tracing::debug!(request_id = %ctx.request_id, code = rejection.code(), %error, "an exchange failed");
        }
        // An interim answer ("continue") is not the answer yet.
        let is_answered = session.response_written().is_some_and(|head| !head.status.is_informational());
        if is_answered {
            // Too late for words: how it ended is seen from the error.
            ctx.rejection = None;
        } else {
            // The connection is given up below; a client that is not told would send its next request into it.
            session.set_keepalive(None);
            if let Err(write_error) = self.refuse(session, ctx, &rejection).await {
                tracing::debug!(request_id = %ctx.request_id, %write_error, "the client left before it was answered");
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    /// Any consumer can ask for what takes long: a time-out counts only where another address can take over.
    fn blame_exchange(&self, ctx: &Context, etype: &ErrorType) {
        let (Some(address), Some(admitted)) = (ctx.upstream.address, &ctx.admitted) else { return };
        let (organization, target) = (admitted.known.product.organization_id, &admitted.known.endpoint.target);
        let is_late = matches!(etype, ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        if !is_late || self.upstreams.has_another(organization, target, &[address], Now::read()) {
            self.blame(ctx);
        }
    }

    /// Counts a failure against the address of this exchange.
    fn blame(&self, ctx: &Context) {
        if let (Some(address), Some(admitted)) = (ctx.upstream.address, &ctx.admitted) {
            self.upstreams.failed(admitted.known.product.organization_id, address, Now::read());
        }
    }
}

fn has_time_left(ctx: &Context, now: Now) -> bool {
    ctx.time_left(now).is_none_or(|left| left >= RETRY_TIME_MIN)
}

/// What the client is told; `None` where it is gone.
fn classify(error: &Error) -> Option<Rejection> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, etype) => Some(classify_upstream(etype)),
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Rejection::RequestTimeout),
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => Some(Rejection::BadRequest),
        (ErrorSource::Downstream, _) => None,
        _ => Some(Rejection::Internal),
    }
}

fn classify_upstream(etype: &ErrorType) -> Rejection {
    match etype {
        ErrorType::ConnectTimedout
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::ReadTimedout
        | ErrorType::WriteTimedout => Rejection::UpstreamTimeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed => Rejection::UpstreamReset,
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSWantX509Lookup
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::BindError
        | ErrorType::SocketError => Rejection::UpstreamUnreachable,
        _ => Rejection::UpstreamBadResponse,
    }
}

/// How a kept connection looks that the upstream had closed meanwhile.
fn is_broken(etype: &ErrorType) -> bool {
    matches!(etype, ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_status() {
        for (error, expected) in [
            (Error::new_up(ErrorType::ConnectTimedout), Some((504, "upstream_timeout"))),
            (Error::new_up(ErrorType::ReadTimedout), Some((504, "upstream_timeout"))),
            (Error::new_up(ErrorType::ConnectRefused), Some((502, "upstream_unreachable"))),
            (Error::new_up(ErrorType::TLSHandshakeFailure), Some((502, "upstream_unreachable"))),
            (Error::new_up(ErrorType::ConnectionClosed), Some((502, "upstream_reset"))),
            (Error::new_up(ErrorType::InvalidHTTPHeader), Some((502, "upstream_bad_response"))),
            (Error::new_down(ErrorType::ReadTimedout), Some((408, "request_timeout"))),
            (Error::new_down(ErrorType::WriteError), None),
            (Error::new_down(ErrorType::ConnectionClosed), None),
            (Error::new_in(ErrorType::InternalError), Some((500, "internal_error"))),
        ] {
            let told = classify(&error).map(|rejection| (rejection.status(), rejection.code()));
            assert_eq!(told, expected, "{error}");
        }
    }
}
