//! The phases of one request, in their order: each hook calls the room that does the work. No logic stands here, no error
//! body is written here, and nothing is decided here.

mod account;
mod context;
mod failure;
mod heads;
mod judge;
pub(crate) mod lifeline;
mod refuse;
mod request_head;
mod request_id;
mod response_head;
mod trace;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::bulkhead::Bulkheads;
use crate::decide::EdgeRules;
use crate::limiter::Limiter;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::settings::{Client, RateLimitHeaders};
use crate::upstream::Upstreams;
pub(crate) use account::Book;
use context::Context;
pub(crate) use failure::ATTEMPTS_MAX;
pub(crate) use judge::KEPT_ALIVE;
use judge::Verdict;

/// What all requests share. Everything in it is either immutable or made for many hands.
pub(crate) struct Gateway {
    pub(crate) live: Live,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) bulkheads: Bulkheads,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) rules: EdgeRules,
    pub(crate) client: Client,
    pub(crate) rate_limit_headers: RateLimitHeaders,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) book: Arc<Book>,
    /// The process is about to end: every answer asks its client to come back on another connection.
    pub(crate) is_leaving: Arc<AtomicBool>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::begin(self.book.clone())
    }

    /// Header names are written as HTTP/2 has them anyway: `heads`.
    fn keeps_header_case(&self) -> bool {
        false
    }

    /// None: the framework's default puts a compression module into every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, _ctx: &mut Context) -> Result<()> {
        self.bound_client(session);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        match self.judge(session, ctx).await {
            Verdict::Proceed => Ok(false),
            Verdict::Answer(preflight) => self.answer(session, ctx, preflight).await.map(|()| true),
            Verdict::Refuse(rejection) => self.refuse(session, ctx, &rejection).await.map(|()| true),
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.choose_peer(ctx)
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, ctx: &mut Context, error: Box<Error>) -> Box<Error> {
        self.connect_failed(ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.upstream.is_contacted = true;
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.write_request_head(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        self.pass_request_body(session, body, is_end, ctx)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.check_response_head(response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.write_response_head(session, response, ctx)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        self.pass_response_body(session, body.as_ref(), is_end, ctx);
        Ok(None)
    }

    /// The last that goes out where an answer has trailers.
    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Context,
    ) -> Result<Option<Bytes>> {
        self.book.record_answer(ctx);
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        is_reused: bool,
    ) -> Box<Error> {
        self.exchange_failed(session, ctx, error, is_reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        self.fail(session, ctx, error).await
    }

    /// The framework's own line would name addresses and be written by every client that hangs up.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        ctx.finish(session, error);
    }
}
