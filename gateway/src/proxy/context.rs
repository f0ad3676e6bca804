//! What is known of one request while it is served. It owns what later phases need, counts as in flight until it is dropped,
//! and closes the request's account even when the connection is torn away. It decides nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use pingora_core::Error;
use pingora_proxy::Session;
use uuid::Uuid;

use super::account::{Book, Ending};
use super::lifeline::Lifeline;
use super::request_id;
use crate::bulkhead::Seat;
use crate::clock::{Now, mono_us};
use crate::decide::Admitted;
use crate::filters::cors::CorsGrant;
use crate::filters::entitlement::KnownSubscription;
use crate::limiter::LimitAnswers;
use crate::rejection::Rejection;

pub(crate) struct Context {
    pub(super) book: Arc<Book>,
    pub(super) lifeline: Arc<Lifeline>,
    pub(super) began: Now,
    pub(super) request_id: Uuid,
    pub(super) method: Method,
    pub(super) is_http2: bool,
    pub(super) is_upgrade: bool,
    pub(super) admitted: Option<Box<Admitted>>,
    /// Why the gateway itself answered, or would have answered.
    pub(super) rejection: Option<Rejection>,
    /// Whose refusal goes into the usage log.
    pub(super) refused: Option<KnownSubscription>,
    pub(super) limits: Option<LimitAnswers>,
    /// Its place among the requests of its product, given back when the context ends.
    pub(super) seat: Option<Seat>,
    pub(super) cors: Option<CorsGrant>,
    pub(super) upstream: Exchange,
    /// What the client got; 0 as long as it got nothing.
    pub(super) status: u16,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// As the answer's head announces it: its last byte is then known before the upstream says that it was the last.
    pub(super) response_length: Option<u64>,
    pub(super) is_usage_recorded: bool,
    pub(super) is_closed: bool,
}

/// The conversation with the upstream, retries included.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) address: Option<SocketAddr>,
    pub(super) tried: Vec<SocketAddr>,
    /// A connection was made: from then on something may have been sent.
    pub(super) is_contacted: bool,
    pub(super) retries: u32,
    pub(super) is_reuse_retried: bool,
    /// On the monotonic clock, in microseconds.
    pub(super) began_us: Option<u64>,
    pub(super) answered_us: Option<u64>,
    pub(super) ended_us: Option<u64>,
}

impl Context {
    pub(super) fn begin(book: Arc<Book>) -> Context {
        let began = Now::read();
        let lifeline = Lifeline::of_this_task();
        lifeline.header_seen();
        lifeline.connection.request();
        book.metrics.http_requests_in_flight.inc();
        Context {
            book,
            lifeline,
            began,
            request_id: request_id::new(began.unix_ms),
            method: Method::GET,
            is_http2: false,
            is_upgrade: false,
            admitted: None,
            rejection: None,
            refused: None,
            limits: None,
            seat: None,
            cors: None,
            upstream: Exchange::default(),
            status: 0,
            request_bytes: 0,
            response_bytes: 0,
            response_length: None,
            is_usage_recorded: false,
            is_closed: false,
        }
    }

    /// Of the endpoint's total time; `None` where there is no such bound. A tunnel's handshake has its own.
    pub(super) fn time_left(&self, now: Now) -> Option<Duration> {
        let total_ms = self.admitted.as_ref().map_or(0, |admitted| admitted.known.endpoint.timeouts.total_ms);
        let spent = Duration::from_micros(now.mono_us.saturating_sub(self.began.mono_us));
        (total_ms > 0 && !self.is_upgrade).then(|| Duration::from_millis(u64::from(total_ms)).saturating_sub(spent))
    }

    pub(super) fn response_came(&mut self, bytes: usize, is_end: bool) {
        self.response_bytes = self.response_bytes.saturating_add(u64::try_from(bytes).unwrap_or(0));
        if is_end {
            self.upstream.ended_us = Some(mono_us());
        }
    }

    /// Nothing comes behind the answer's head.
    pub(super) fn has_no_body(&self, status: StatusCode) -> bool {
        self.method == Method::HEAD
            || self.response_length == Some(0)
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// The end as the framework tells it.
    pub(super) fn finish(&mut self, session: &Session, error: Option<&Error>) {
        if self.status == 0 {
            self.status = session.response_written().map_or(0, |response| response.status.as_u16());
        }
        let ending = Ending::of(self, error);
        self.close(session.req_header().uri.path(), &ending);
    }

    fn close(&mut self, path: &str, ending: &Ending) {
        if !std::mem::replace(&mut self.is_closed, true) {
            let book = self.book.clone();
            book.close(self, path, ending);
        }
    }
}

impl Drop for Context {
    /// Reached without `finish` when the watch cut the request or its connection was torn down with it.
    fn drop(&mut self) {
        let ending = Ending::torn(self.lifeline.cut());
        self.close("", &ending);
        self.book.metrics.http_requests_in_flight.dec();
    }
}
