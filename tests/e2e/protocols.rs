//! What passes through: WebSocket, server-sent events, gRPC's framing over HTTP/2, a large streamed upload.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::harness::{World, eventually};

const UPLOAD_BYTES: u64 = 1 << 30;
/// How much the gateway's memory may grow while 1 GiB passes.
const UPLOAD_GROWTH_BYTES_MAX: u64 = 48 << 20;

#[tokio::test]
async fn a_websocket_passes_is_counted_once_and_ends_when_its_key_is_revoked() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let target = format!("{}/ws", world.upstream.url());
    let catalog = ann.product("api").endpoint("GET", "/ws", &target).publish().await;
    let url = format!("{}{}/ws", world.gateway().url.replace("http", "ws"), catalog.path);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", catalog.key.parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(answer.status(), 101);
    for round in 0..20 {
        socket.send(Message::text(format!("{round}"))).await.unwrap();
        let heard = socket.next().await.unwrap().unwrap();
        assert_eq!(heard.into_text().unwrap().as_str(), format!("echo {round}"));
    }
    let logged = "SELECT count(*) FROM usage_logs WHERE status = 101";
    eventually("the tunnel is counted at its 101", || async { (world.count(logged).await == 1).then_some(()) }).await;
    ann.post_served(&format!("/v1/keys/{}/revoke", catalog.key_id), json!({})).await;
    loop {
        match tokio::time::timeout(Duration::from_secs(6), socket.next()).await.expect("the tunnel closes within 5 s") {
            None | Some(Err(_) | Ok(Message::Close(_))) => break,
            Some(Ok(_)) => {}
        }
    }
    eventually("the gateway let go of it", || async {
        (world.gateway().metric("gateway_http_requests_in_flight").await < 1.0).then_some(())
    })
    .await;
    // What its end might have recorded is in the database no later than a call that came after it.
    let (_, second) = ann.key(&catalog.subscription, json!({ "name": "second", "environment": "live" })).await;
    let plain = world.client.get(format!("{}{}/ws", world.gateway().url, catalog.path)).bearer_auth(second);
    assert_eq!(plain.send().await.unwrap().status(), 400, "no upgrade was asked for");
    let later = "SELECT count(*) FROM usage_logs WHERE status = 400";
    eventually("the later call is counted", || async { (world.count(later).await == 1).then_some(()) }).await;
    let all = "SELECT count(*) FROM usage_logs";
    assert_eq!((world.count(logged).await, world.count(all).await), (1, 2), "a tunnel counts once");
}

#[tokio::test]
async fn server_sent_events_flow_as_they_come_and_end_when_the_key_is_revoked() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let target = format!("{}/sse", world.upstream.url());
    let catalog = ann.product("api").endpoint("GET", "/sse", &target).publish().await;
    let url = format!("{}{}/sse", world.gateway().url, catalog.path);
    let answer = world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.bytes_stream();
    let started = Instant::now();
    let mut chunks = 0;
    while chunks < 5 {
        body.next().await.unwrap().unwrap();
        chunks += 1;
    }
    assert!(started.elapsed() < Duration::from_secs(3), "events are not held back");
    ann.post_served(&format!("/v1/keys/{}/revoke", catalog.key_id), json!({})).await;
    let ends = async { while let Some(Ok(_)) = body.next().await {} };
    tokio::time::timeout(Duration::from_secs(6), ends).await.expect("the stream closes within 5 s");
}

#[tokio::test]
async fn grpc_framing_passes_over_http2_with_its_trailers() {
    let world = World::with().tls().start().await;
    let ann = world.publisher("ann").await;
    let target = format!("http://{}/pkg.Service/Method", world.upstream.h2_address);
    let endpoint = json!({
        "method": "POST", "path_pattern": "/pkg.Service/Method", "target_url": target, "upstream_http": "h2",
    });
    let catalog = ann.product("api").endpoint_with(endpoint).publish().await;
    let https = world.gateway().https_url.clone().unwrap();
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).http2_prior_knowledge().build().unwrap();
    let url = format!("{https}{}/pkg.Service/Method", catalog.path);
    let body = Bytes::from_static(b"\x00\x00\x00\x00\x05hello");
    let request = client.post(&url).bearer_auth(&catalog.key).header("content-type", "application/grpc");
    let answer = request.header("te", "trailers").body(body.clone()).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.status(), 200);
    let answer = http::Response::from(answer);
    let collected = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    let trailers = collected.trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), body);
}

#[tokio::test]
async fn a_call_that_streams_up_without_an_answer_ends_when_its_key_is_revoked() {
    let world = World::with().tls().start().await;
    let ann = world.publisher("ann").await;
    let target = format!("http://{}/pkg.Service/Upload", world.upstream.h2_address);
    let endpoint = json!({
        "method": "POST", "path_pattern": "/pkg.Service/Upload", "target_url": target, "upstream_http": "h2",
    });
    let catalog = ann.product("api").endpoint_with(endpoint).publish().await;
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).http2_prior_knowledge().build().unwrap();
    let url = format!("{}{}/pkg.Service/Upload", world.gateway().https_url.clone().unwrap(), catalog.path);
    // The upstream answers at the end of the body alone, and this one has none.
    let pieces = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"\x00\x00\x00\x00\x05hello")), ()))
    });
    let request = client.post(&url).bearer_auth(&catalog.key).header("content-type", "application/grpc");
    let call = tokio::spawn(request.header("te", "trailers").body(reqwest::Body::wrap_stream(pieces)).send());
    let in_flight = || async { world.gateway().metric("gateway_http_requests_in_flight").await };
    eventually("the call is in flight", || async { (in_flight().await >= 1.0).then_some(()) }).await;
    ann.post_served(&format!("/v1/keys/{}/revoke", catalog.key_id), json!({})).await;
    let ended = tokio::time::timeout(Duration::from_secs(6), call).await.expect("the call ends within 5 s").unwrap();
    assert!(ended.is_err(), "a stream that was cut must not look answered: {ended:?}");
    eventually("the gateway let go of it", || async { (in_flight().await < 1.0).then_some(()) }).await;
    let logged = "SELECT count(*) FROM usage_logs WHERE status = 401 AND NOT billable";
    eventually("it is counted, once", || async { (world.count(logged).await == 1).then_some(()) }).await;
}

#[tokio::test]
async fn plain_requests_pass_over_tls_with_http1_and_http2() {
    let world = World::with().tls().start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("POST", "/x", &world.upstream.url()).publish().await;
    let url = format!("{}{}/x", world.gateway().https_url.clone().unwrap(), catalog.path);
    let builder = || reqwest::Client::builder().danger_accept_invalid_certs(true);
    let h1 = builder().http1_only().build().unwrap();
    let h2 = builder().http2_prior_knowledge().build().unwrap();
    for client in [h1, h2] {
        // Several requests on one pooled upstream connection: a body's end is written once.
        for _ in 0..9 {
            let answer = client.post(&url).bearer_auth(&catalog.key).body("hello").send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let seen: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(seen["body"], "hello");
            assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
        }
    }
}

#[tokio::test]
async fn a_gigabyte_is_uploaded_with_flat_memory() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let target = format!("{}/upload", world.upstream.url());
    let settings = json!({ "body_bytes_max": 2 * UPLOAD_BYTES });
    let catalog = ann.product("api").settings(settings).endpoint("POST", "/up", &target).publish().await;
    let pid = world.gateway().role.pid();
    let before = resident_bytes(pid);
    let chunk = Bytes::from(vec![7u8; 1 << 20]);
    let chunks = futures::stream::iter((0..UPLOAD_BYTES >> 20).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let peak = tokio::spawn(async move {
        let mut peak = 0;
        loop {
            peak = peak.max(resident_bytes(pid));
            tokio::time::sleep(Duration::from_millis(100)).await;
            if PEAK_ASKED.load(std::sync::atomic::Ordering::Relaxed) {
                return peak;
            }
        }
    });
    let request = world.client.post(format!("{}{}/up", world.gateway().url, catalog.path)).bearer_auth(&catalog.key);
    let request = request.timeout(Duration::from_secs(300)).body(reqwest::Body::wrap_stream(chunks));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), UPLOAD_BYTES.to_string());
    PEAK_ASKED.store(true, std::sync::atomic::Ordering::Relaxed);
    let growth = peak.await.unwrap().saturating_sub(before);
    assert!(growth < UPLOAD_GROWTH_BYTES_MAX, "the gateway grew by {growth} bytes");
    let logged = "SELECT request_bytes::text FROM usage_logs";
    eventually("its bytes are counted", || async {
        let rows = world.query(logged).await;
        (rows.first()?[0].as_deref()? == UPLOAD_BYTES.to_string()).then_some(())
    })
    .await;
}

static PEAK_ASKED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}
