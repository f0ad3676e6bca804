//! What happens around every handler: the log line, the metrics, the security headers, the answer to a panic. Refuses to
//! log a query, a header or a body: secrets travel in them.

use std::any::Any;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Response as HttpResponse, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::ResponseForPanic;

use crate::api::problem::ApiError;
use crate::api::source::RequestId;
use crate::api::state::AppState;
use crate::metrics::Metrics;

/// On every answer; a page of our own replaces the policy by one that lets its style in.
const SECURITY_HEADERS: &[(HeaderName, &str)] = &[
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];
/// Methods that get a label of their own; a client may send any word.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The pattern of the route that was found, on its way out to `trace`.
#[derive(Clone)]
struct Route(MatchedPath);

/// Innermost: the only place that knows which route was found.
pub async fn observe_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(Route(route));
    }
    response
}

/// One line and one sample for each request. The path of an unknown address is not repeated.
pub async fn trace(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request.extensions().get::<RequestId>().copied().unwrap_or_default();
    let method = METHODS.iter().copied().find(|known| *known == request.method().as_str()).unwrap_or("other");
    let response = next.run(request).await;
    let route = response.extensions().get::<Route>().map_or("unmatched", |Route(path)| path.as_str());
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    state.metrics.observe_http(method, route, status, elapsed);
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%request_id, method, route, status, elapsed_ms, "request");
    response
}

pub async fn set_security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A handler that panicked answers 500 like any other error; what it said is for the log alone.
#[derive(Clone)]
pub struct AnswerPanic {
    metrics: Metrics,
}

impl AnswerPanic {
    pub fn new(metrics: Metrics) -> AnswerPanic {
        AnswerPanic { metrics }
    }
}

impl ResponseForPanic for AnswerPanic {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send + 'static>) -> HttpResponse<Body> {
        self.metrics.count_panic();
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        ApiError::internal(format!("a handler panicked: {}", text.unwrap_or("without a text"))).into_response()
    }
}
