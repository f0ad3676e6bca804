//! The operator's port: metrics and health. Reads what the parts say about themselves; changes nothing, and never speaks to
//! the public.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::services::listening::Service;
use serde::Serialize;

use crate::clock::unix_ms;
use crate::feed::Identity;
use crate::metrics::Metrics;
use crate::metrics::status::{PartState, Source, Status};

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Answers `/metrics`, `/livez`, `/readyz` and `/healthz`.
pub struct Admin {
    metrics: Arc<Metrics>,
    identity: Identity,
}

/// The service to add to the server, listening at `address`.
pub fn service(address: &str, metrics: Arc<Metrics>, identity: Identity) -> Service<Admin> {
    let mut service = Service::new("admin".to_owned(), Admin::new(metrics, identity));
    service.add_tcp(address);
    service
}

/// One page: status, content type, body.
struct Page(StatusCode, &'static str, Vec<u8>);

#[derive(Serialize)]
struct Health<'a> {
    /// `ok`; `degraded` when a part is away and requests are served nevertheless; `unready` when none are.
    status: &'static str,
    version: &'static str,
    node: Node<'a>,
    snapshot: Option<SnapshotHealth>,
    parts: Parts,
}

#[derive(Serialize)]
struct Node<'a> {
    id: String,
    name: &'a str,
    boot_id: String,
}

#[derive(Serialize)]
struct SnapshotHealth {
    epoch: String,
    revision: u64,
    newest_revision: u64,
    /// Of the last good snapshot on disk; null where there is none of this epoch.
    saved_revision: Option<u64>,
    age_s: u64,
    source: &'static str,
}

#[derive(Serialize)]
struct Parts {
    feed: &'static str,
    /// Where usage is sent.
    redis: &'static str,
    /// Where the fleet counts its limits; `off`: this gateway counts alone.
    limits_redis: &'static str,
}

impl Admin {
    pub fn new(metrics: Arc<Metrics>, identity: Identity) -> Admin {
        Admin { metrics, identity }
    }

    fn page(&self, method: &Method, path: &str) -> Page {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Page(StatusCode::METHOD_NOT_ALLOWED, TEXT, b"only GET\n".to_vec());
        }
        match path {
            "/livez" => Page(StatusCode::OK, TEXT, b"alive\n".to_vec()),
            "/readyz" => ready(&self.metrics.status),
            "/healthz" => self.health(),
            "/metrics" => self.metrics(),
            _ => Page(StatusCode::NOT_FOUND, TEXT, b"/metrics /livez /readyz /healthz\n".to_vec()),
        }
    }

    fn metrics(&self) -> Page {
        match self.metrics.render() {
            Ok(text) => Page(StatusCode::OK, METRICS, text),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be shown");
                Page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, b"the metrics cannot be shown\n".to_vec())
            }
        }
    }

    fn health(&self) -> Page {
        let status = &self.metrics.status;
        let limits_redis = self.metrics.limits_redis();
        let away = [status.redis(), limits_redis].contains(&PartState::Down);
        let parts_up = status.feed() == PartState::Up && !away;
        let word = match (status.is_ready(), parts_up) {
            (false, _) => "unready",
            (true, false) => "degraded",
            (true, true) => "ok",
        };
        let snapshot = status.served().map(|served| SnapshotHealth {
            epoch: served.token.epoch.to_string(),
            revision: served.token.revision,
            newest_revision: status.newest_revision(),
            saved_revision: status.saved_revision(),
            age_s: status.snapshot_age_s(unix_ms()).unwrap_or(0),
            source: match served.source {
                Source::Disk => "disk",
                Source::Feed => "feed",
            },
        });
        let health = Health {
            status: word,
            version: env!("CARGO_PKG_VERSION"),
            node: Node {
                id: self.identity.node_id.to_string(),
                name: &self.identity.node_name,
                boot_id: self.identity.boot_id.to_string(),
            },
            snapshot,
            parts: Parts {
                feed: status.feed().as_str(),
                redis: status.redis().as_str(),
                limits_redis: limits_redis.as_str(),
            },
        };
        match serde_json::to_vec(&health) {
            Ok(body) => Page(StatusCode::OK, JSON, body),
            Err(_) => Page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, b"the health cannot be shown\n".to_vec()),
        }
    }
}

/// Says what is missing. Parts that the gateway can do without do not make it unready.
fn ready(status: &Status) -> Page {
    if status.is_draining() {
        return Page(StatusCode::SERVICE_UNAVAILABLE, TEXT, b"not ready: draining\n".to_vec());
    }
    if status.served().is_none() {
        return Page(StatusCode::SERVICE_UNAVAILABLE, TEXT, b"not ready: no snapshot yet\n".to_vec());
    }
    if !status.is_open() {
        return Page(StatusCode::SERVICE_UNAVAILABLE, TEXT, b"not ready: not yet up to date\n".to_vec());
    }
    Page(StatusCode::OK, TEXT, b"ready\n".to_vec())
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let Page(status, content_type, body) = self.page(&request.method, request.uri.path());
        let length = body.len();
        let body = if request.method == Method::HEAD { Vec::new() } else { body };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
