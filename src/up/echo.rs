//! The upstream of the demo product: answers every request with what it saw of it. For trying things out, never for load.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use axum::{Json, Router};
use serde::Serialize;

/// Largest body that is echoed.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Serialize)]
struct Seen {
    method: String,
    path: String,
    query: Option<String>,
    headers: BTreeMap<String, String>,
    body: String,
}

/// Serves until the task is dropped.
pub async fn serve(address: SocketAddr) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let router = Router::new().fallback(echo).layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX));
    axum::serve(listener, router).await
}

async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Seen> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
    Json(Seen {
        method: method.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        headers,
        body: text(&body),
    })
}
