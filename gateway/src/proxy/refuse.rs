//! Writes the answers that the gateway itself gives: rejections and preflights. The words and the body are the rejection's;
//! here they meet the headers that every answer has.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE, VARY};
use http::{HeaderName, Method};
use pingora::http::ResponseHeader;
use pingora_core::Result;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_proxy::Session;

use super::context::Context;
use super::response_head::{VIA, VIA_VALUE, X_REQUEST_ID};
use super::{Gateway, request_id};
use crate::filters::cors::Preflight;
use crate::filters::limit_headers::limit_headers;
use crate::rejection::Rejection;

/// Room for all headers that we write, so that the map never grows.
const HEADERS_USUAL: usize = 16;

impl Gateway {
    /// Answers with a rejection. The connection stays open where the request's body was read or there was none.
    pub(super) async fn refuse(&self, session: &mut Session, ctx: &mut Context, rejection: &Rejection) -> Result<()> {
        ctx.rejection = Some(rejection.clone());
        let id = request_id::value(ctx.request_id);
        let instance = session.req_header().uri.path();
        let body = rejection.body(instance, id.to_str().unwrap_or_default());
        let mut head = ResponseHeader::build(rejection.status(), Some(HEADERS_USUAL))?;
        for (name, value) in rejection.headers() {
            head.insert_header(name, value)?;
        }
        if let Some(limits) = &ctx.limits {
            for (name, value) in limit_headers(limits, self.rate_limit_headers) {
                head.insert_header(name, value)?;
            }
        }
        if let Some(cors) = &ctx.cors {
            add_cors(&mut head, cors.headers())?;
        }
        head.insert_header(X_REQUEST_ID, id)?;
        head.insert_header(CONTENT_LENGTH, body.len())?;
        head.insert_header(VIA, VIA_VALUE)?;
        if is_malformed(rejection) {
            session.set_keepalive(None);
        }
        self.write(session, ctx, head, body).await
    }

    pub(super) async fn answer(&self, session: &mut Session, ctx: &mut Context, preflight: Preflight) -> Result<()> {
        let mut head = ResponseHeader::build(Preflight::STATUS, Some(HEADERS_USUAL))?;
        for (name, value) in preflight.headers {
            head.insert_header(name, value)?;
        }
        head.insert_header(X_REQUEST_ID, request_id::value(ctx.request_id))?;
        self.write(session, ctx, head, Bytes::new()).await
    }

    async fn write(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut head: ResponseHeader,
        body: Bytes,
    ) -> Result<()> {
        if self.is_leaving.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
        head.insert_header(DATE, get_cached_date())?;
        ctx.status = head.status.as_u16();
        let is_bodiless = ctx.method == Method::HEAD || body.is_empty();
        if !is_bodiless {
            ctx.response_came(body.len(), true);
        }
        self.book.record_answer(ctx);
        session.write_response_header(Box::new(head), is_bodiless).await?;
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
pub(super) fn add_cors(
    head: &mut ResponseHeader,
    headers: impl IntoIterator<Item = (HeaderName, http::HeaderValue)>,
) -> Result<()> {
    for (name, value) in headers {
        if name == VARY {
            head.append_header(name, value)?;
        } else {
            head.insert_header(name, value)?;
        }
    }
    Ok(())
}
