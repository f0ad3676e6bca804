//! The publisher's server, played by the test: well-behaved paths, slow ones, broken ones, WebSocket, SSE, gRPC's framing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::ports;

/// Counts what really arrived; the tests compare it with what the gateway says.
#[derive(Default)]
pub struct Counts {
    pub requests: AtomicU64,
    pub uploaded_bytes: AtomicU64,
}

pub struct Upstream {
    pub address: SocketAddr,
    /// HTTP/2 without TLS, as gRPC servers speak it.
    pub h2_address: SocketAddr,
    /// Writes raw bytes that break HTTP.
    pub raw_address: SocketAddr,
    /// Nobody listens here.
    pub closed_port: u16,
    pub counts: Arc<Counts>,
}

impl Upstream {
    pub async fn start() -> Upstream {
        let counts = Arc::new(Counts::default());
        let router = Router::new()
            .route("/ws", get(websocket))
            .route("/sse", get(server_sent_events))
            .route("/slow", any(slow))
            .route("/status/{code}", any(status))
            .route("/upload", any(upload))
            .fallback(echo)
            .layer(DefaultBodyLimit::disable())
            .with_state(counts.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let h2 = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let h2_address = h2.local_addr().unwrap();
        tokio::spawn(serve_h2(h2));
        let raw = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let raw_address = raw.local_addr().unwrap();
        tokio::spawn(serve_raw(raw));
        let closed_port = ports::free().port();
        Upstream { address, h2_address, raw_address, closed_port, counts }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    pub fn uploaded_bytes(&self) -> u64 {
        self.counts.uploaded_bytes.load(Ordering::Relaxed)
    }
}

/// What the upstream saw, as JSON; header values by lower-case name.
async fn echo(
    State(counts): State<Arc<Counts>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Json<Value> {
    counts.requests.fetch_add(1, Ordering::Relaxed);
    let headers: BTreeMap<String, String> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let target = uri.path_and_query().map(ToString::to_string);
    Json(
        json!({ "method": method.as_str(), "target": target, "headers": headers, "body": String::from_utf8_lossy(&body) }),
    )
}

async fn slow(uri: Uri) -> String {
    let ms = uri.query().and_then(|query| query.strip_prefix("ms=")).and_then(|ms| ms.parse().ok()).unwrap_or(1_000);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "late".to_owned()
}

async fn status(axum::extract::Path(code): axum::extract::Path<u16>) -> Response {
    (axum::http::StatusCode::from_u16(code).unwrap(), "as asked").into_response()
}

async fn upload(State(counts): State<Arc<Counts>>, body: Body) -> String {
    let mut stream = body.into_data_stream();
    let mut total = 0u64;
    while let Some(Ok(chunk)) = stream.next().await {
        total += chunk.len() as u64;
        counts.uploaded_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    total.to_string()
}

/// An event each 100 ms, for ever.
async fn server_sent_events() -> impl axum::response::IntoResponse {
    let ticks = futures::stream::unfold(0u64, |count| async move {
        if count > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some((Ok::<_, Infallible>(Event::default().data(count.to_string())), count + 1))
    });
    Sse::new(ticks)
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.next().await {
            let answer = match message {
                Message::Text(text) => Message::Text(format!("echo {text}").into()),
                Message::Binary(bytes) => Message::Binary(bytes),
                _ => continue,
            };
            if socket.send(answer).await.is_err() {
                break;
            }
        }
    })
}

/// Answers each HTTP/2 request as a gRPC server would: a body, then trailers; `te: trailers` is demanded.
async fn serve_h2(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let te = request.headers().get("te").cloned();
                    let mut body = request.into_body();
                    let mut received = Vec::new();
                    while let Some(Ok(chunk)) = body.data().await {
                        let _ = body.flow_control().release_capacity(chunk.len());
                        received.extend_from_slice(&chunk);
                    }
                    let response =
                        http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut send = respond.send_response(response, false).unwrap();
                    let _ = send.send_data(Bytes::from(received), false);
                    let mut trailers = http::HeaderMap::new();
                    let code = if te.is_some_and(|te| te == "trailers") { "0" } else { "13" };
                    trailers.insert("grpc-status", code.parse().unwrap());
                    let _ = send.send_trailers(trailers);
                });
            }
        });
    }
}

/// The path chooses how the answer is broken.
async fn serve_raw(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let head = read_head(&mut stream).await;
            let answer: &[u8] = if head.contains("/two-lengths") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc"
            } else if head.contains("/cut-short") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
            } else if head.contains("/unasked-101") {
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            } else if head.contains("/garbage") {
                b"this is not HTTP\r\n\r\n"
            } else {
                b""
            };
            let _ = stream.write_all(answer).await;
            // Closed without an answer where there is none: a reset upstream.
        });
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut buffer = [0u8; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}
