//! Writes the answers that the gateway itself gives: rejections and preflights. The words and the body are the rejection's;
//! here they meet the headers that every answer has.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE, VARY, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_core::Result;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_proxy::Session;

use super::Gateway;
use super::context::Context;
use super::heads::own_response;
use super::response_head::{TEXT_BYTES_USUAL, VIA_VALUE, X_REQUEST_ID};
use crate::filters::cors::Preflight;
use crate::filters::limit_headers::limit_headers;
use crate::header_texts::HeaderTexts;
use crate::rejection::Rejection;

/// Room for all headers that we write, so that the map never grows.
const HEADERS_USUAL: usize = 16;

impl Gateway {
    /// Answers with a rejection. The connection stays open where the request's body was read or there was none.
    pub(super) async fn refuse(&self, session: &mut Session, ctx: &mut Context, rejection: &Rejection) -> Result<()> {
        ctx.rejection = Some(rejection.clone());
        let mut texts = HeaderTexts::with_capacity(TEXT_BYTES_USUAL);
        let limits = ctx.limits.as_ref().map(|limits| limit_headers(limits, self.rate_limit_headers, &mut texts));
        let id = texts.uuid(ctx.request_id);
        let texts = texts.ready();
        let id = texts.value(&id);
        let instance = session.req_header().uri.path();
        let body = rejection.body(instance, id.to_str().unwrap_or_default());
        let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
        for (name, value) in rejection.headers() {
            headers.insert(name, value);
        }
        for (name, piece) in limits.into_iter().flatten() {
            headers.insert(name, texts.value(&piece));
        }
        if let Some(cors) = &ctx.cors {
            add_cors(&mut headers, cors.headers());
        }
        headers.insert(X_REQUEST_ID, id);
        headers.insert(CONTENT_LENGTH, body.len().into());
        headers.insert(VIA, VIA_VALUE);
        if is_malformed(rejection) {
            session.set_keepalive(None);
        }
        self.write(session, ctx, rejection.status(), headers, body).await
    }

    pub(super) async fn answer(&self, session: &mut Session, ctx: &mut Context, preflight: Preflight) -> Result<()> {
        let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
        headers.extend(preflight.headers);
        let mut texts = HeaderTexts::with_capacity(TEXT_BYTES_USUAL);
        let id = texts.uuid(ctx.request_id);
        headers.insert(X_REQUEST_ID, texts.ready().value(&id));
        self.write(session, ctx, Preflight::STATUS, headers, Bytes::new()).await
    }

    async fn write(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        status: u16,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<()> {
        if self.is_leaving.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
        headers.insert(DATE, get_cached_date());
        ctx.status = status;
        let is_bodiless = ctx.method == Method::HEAD || body.is_empty();
        if !is_bodiless {
            ctx.response_came(body.len(), true);
        }
        self.book.record_answer(ctx);
        session.write_response_header(Box::new(own_response(status, headers)?), is_bodiless).await?;
        if !is_bodiless {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}

/// Whoever frames or spells one request wrongly is not asked for another one on the same connection.
fn is_malformed(rejection: &Rejection) -> bool {
    matches!(rejection.status(), 400 | 408 | 413 | 414 | 431 | 501)
}

/// `Vary` is added to what is there, everything else replaces it.
pub(super) fn add_cors(to: &mut HeaderMap, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) {
    for (name, value) in headers {
        if name == VARY {
            to.append(name, value);
        } else {
            to.insert(name, value);
        }
    }
}
