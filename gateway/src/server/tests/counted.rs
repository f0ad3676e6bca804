//! Who has the last byte of an answer was counted: the record is in the rings' file by then, whatever kind of answer it was.
//! Recorded a moment later, as when the framework logs, it would be missing in some of the rounds.

use std::os::unix::fs::FileExt as _;

use ::settings::Secret;
use bytes::Bytes;

use snapshot::wire::Verdict;

use super::harness::{TestGateway, TestUpstream, eventually};
use crate::usage::OnFull;
use crate::usage::tests::record;

/// Rounds of each kind.
const ROUNDS: usize = 30;
const RECORD_BYTES: usize = 96;

fn gateway(upstream: std::net::SocketAddr, over_http2: bool) -> TestGateway {
    TestGateway::with(
        upstream,
        |settings| settings.usage.redis_url = Some(Secret::new("unix:/nonexistent/redis.sock".to_owned())),
        |endpoint| {
            if over_http2 {
                endpoint.upstream_http = snapshot::wire::UpstreamHttp::H2.into();
            }
        },
    )
}

/// Records that are committed in the files of all rings, of the first `ROUNDS` places of each.
fn recorded(gateway: &TestGateway) -> usize {
    let epochs = std::fs::read_dir(gateway.data_dir.path().join("usage")).unwrap().flatten();
    let files = epochs.flat_map(|epoch| std::fs::read_dir(epoch.path()).unwrap().flatten());
    let rings = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "ring"));
    let count = |file: std::fs::DirEntry| {
        let mut bytes = vec![0; (ROUNDS + 1) * RECORD_BYTES];
        std::fs::File::open(file.path()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes.chunks_exact(RECORD_BYTES).filter(|record| record[..8] != [0; 8]).count()
    };
    rings.map(count).sum()
}

fn each_is_counted(what: &str, gateway: &TestGateway, method: &str, status: u16) {
    for round in 1..=ROUNDS {
        let mut client = gateway.connect();
        client.send(&gateway.head(method, "/acme/p1/x", ""));
        let is_complete = method == "HEAD" && client.read_until(|bytes| bytes.ends_with(b"\r\n\r\n"));
        let answer = if is_complete { None } else { Some(client.answer()) };
        assert_eq!(recorded(gateway), round, "{what}, round {round}");
        // After some faults the upstream is set aside: 502, then 503.
        assert!(answer.is_none_or(|answer| answer.status() / 100 == status / 100), "{what}");
    }
}

#[test]
fn an_answer_is_counted_before_its_last_byte_arrives() {
    for (what, answer, method, status) in [
        ("a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "GET", 200),
        ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "GET", 200),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n", "GET", 204),
        ("a length of zero", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST", 200),
        ("a head alone", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200),
        ("a fault of the upstream", "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "GET", 502),
    ] {
        let upstream = TestUpstream::answering(answer);
        let gateway = gateway(upstream.address, false);
        each_is_counted(what, &gateway, method, status);
    }
}

/// Answers over HTTP/2: by its head alone, with a length and a late end, with trailers.
fn http2_upstream(kind: &'static str) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, respond))) = connection.accept().await {
                        tokio::spawn(answer_http2(respond, kind));
                    }
                });
            }
        });
    });
    address
}

async fn answer_http2(mut respond: h2::server::SendResponse<Bytes>, kind: &str) {
    let response = http::Response::builder().status(200);
    if kind == "head" {
        respond.send_response(response.body(()).unwrap(), true).unwrap();
        return;
    }
    let response = if kind == "length" { response.header("content-length", "5") } else { response };
    let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    if kind == "length" {
        // The client has all of it long before the upstream says that this was all.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        body.send_data(Bytes::new(), true).unwrap();
    } else {
        body.send_trailers(http::HeaderMap::new()).unwrap();
    }
}

#[test]
fn an_answer_over_http2_is_counted_before_its_last_byte_arrives() {
    for kind in ["head", "length", "trailers"] {
        let gateway = gateway(http2_upstream(kind), true);
        each_is_counted(kind, &gateway, "GET", 200);
    }
}

#[test]
fn a_client_that_leaves_is_counted_once() {
    let upstream = TestUpstream::speaking(|stream| {
        use std::io::{Read as _, Write as _};
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        // Until the gateway gives up.
        let _ = stream.read(&mut [0]);
        false
    });
    let gateway = gateway(upstream.address, false);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/x", ""));
    assert!(client.read_until(|bytes| bytes.ends_with(b"hello\r\n")));
    assert_eq!(recorded(&gateway), 0, "its end is not known yet");
    drop(client);
    eventually("it is counted", || recorded(&gateway) == 1);
    eventually("it is over", || gateway.metrics.http_requests_in_flight.get() == 0);
    assert_eq!(recorded(&gateway), 1);
}

#[test]
fn what_is_refused_because_usage_cannot_be_kept_has_what_every_authenticated_answer_has() {
    /// Of the ring that a thread of ours has.
    const RING_RECORDS: u64 = 65_536;
    let upstream = TestUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let full = |settings: &mut crate::settings::Settings| {
        settings.usage.redis_url = Some(Secret::new("unix:/nonexistent/redis.sock".to_owned()));
        (settings.usage.spool_bytes_max, settings.usage.on_usage_full) = (10, OnFull::Refuse);
    };
    let gateway = TestGateway::with(upstream.address, full, |_| {});
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
    (0..RING_RECORDS).for_each(|key| gateway.usage.record(&record(key, Verdict::Proxied)));
    eventually("it refuses", || gateway.usage.must_refuse());
    let refused = gateway.get("/acme/p1/x");
    assert_eq!((refused.status(), refused.header("x-gateway-error")), (503, Some("usage_storage_full")));
    for header in ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "ratelimit"] {
        assert!(refused.header(header).is_some(), "no {header} in {}", refused.head);
    }
    assert!(gateway.metric("gateway_auth_results_total{result=\"accepted\"} 2"), "{}", gateway.shown());
}
