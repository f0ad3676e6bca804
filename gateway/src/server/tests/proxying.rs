//! What upstream and client see of an exchange that goes well, and of one that the gateway refuses.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::harness::{TestGateway, TestUpstream, UPGRADE, eventually};

const HELLO: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-RateLimit-Limit: 7\r\nX-Gateway-Error: fake\r\n\r\nhello";

#[test]
fn the_upstream_learns_who_calls_and_never_the_key() {
    let upstream = TestUpstream::answering(HELLO);
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head(
        "GET",
        "/acme/p1/a/%62?q=1",
        "X-Consumer-ID: forged\r\nX_Consumer_Username: forged\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    ));
    let answer = client.answer();
    assert_eq!((answer.status(), answer.body.as_str()), (200, "hello"));
    let head = upstream.last_head();
    assert!(head.starts_with("GET /up/a/b?q=1 HTTP/1.1\r\n"), "{head}");
    for absent in [gateway.key.as_str(), "forged", "6.6.6.6", "0af7651916cd43dd8448eb211c80319c", "gw.test\r\nHost"] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }
    let lower = head.to_lowercase();
    for present in [
        &format!("host: {}\r\n", upstream.address),
        "x-consumer-id: ",
        "x-consumer-username: ",
        "x-credential-identifier: ",
        "x-subscription-id: ",
        "x-plan: ",
        "x-request-id: ",
        "traceparent: 00-",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: gw.test\r\n",
        "via: 1.1 apihub\r\n",
    ] {
        assert!(lower.contains(present), "{present} not in {lower}");
    }
}

#[test]
fn the_answer_tells_limits_times_and_its_id_and_nothing_that_the_upstream_claimed_about_them() {
    let upstream = TestUpstream::answering(HELLO);
    let gateway = TestGateway::to(upstream.address);
    let answer = gateway.get("/acme/p1/x");
    assert_eq!(answer.header("x-ratelimit-limit"), Some("60000"));
    assert!(answer.header("ratelimit-policy").unwrap().starts_with("\"minute\";q=60000;w=60"));
    assert!(answer.header("server-timing").unwrap().starts_with("gateway;dur="));
    assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
    assert_eq!(answer.header("x-gateway-error"), None);
    assert_eq!(answer.header("via"), Some("1.1 apihub"));
}

#[test]
fn a_refusal_says_why_in_its_body_and_keeps_the_connection() {
    let upstream = TestUpstream::answering(HELLO);
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send("GET /acme/p1/x?secret=1 HTTP/1.1\r\nHost: gw.test\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.header("x-gateway-error")), (401, Some("missing_key")));
    assert!(answer.header("www-authenticate").is_some());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(
        answer.body.contains("\"instance\":\"/acme/p1/x\"")
            && answer.body.contains(answer.header("x-request-id").unwrap())
    );
    client.send("HEAD /nobody HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n");
    let all = client.everything();
    assert!(all.starts_with("HTTP/1.1 404 Not Found\r\n") && all.ends_with("\r\n\r\n"), "{all}");
    eventually("the gateway's own answers were counted", || gateway.shown().contains("verdict=\"missing_key\""));
    assert!(upstream.heads.lock().unwrap().len() <= 1);
}

#[test]
fn nothing_is_in_flight_once_everything_is_answered() {
    let upstream = TestUpstream::answering(HELLO);
    let gateway = TestGateway::to(upstream.address);
    let clients: Vec<_> = (0..20).map(|_| gateway.get("/acme/p1/x").status()).collect();
    assert!(clients.iter().all(|status| *status == 200));
    eventually("nothing is in flight", || gateway.metrics.http_requests_in_flight.get() == 0);
}

#[test]
fn a_body_beyond_its_limit_is_413_whether_its_length_was_told_or_not() {
    let upstream = TestUpstream::speaking(|_| true);
    let gateway = TestGateway::with(upstream.address, |settings| settings.limits.body_bytes_max = 10, |_| {});
    let mut client = gateway.connect();
    client.send(&gateway.head("POST", "/acme/p1/x", "Content-Length: 11\r\n"));
    assert_eq!(client.answer().status(), 413);
    let mut client = gateway.connect();
    client.send(&gateway.head("POST", "/acme/p1/x", "Transfer-Encoding: chunked\r\n"));
    client.send("b\r\n01234567890\r\n0\r\n\r\n");
    assert_eq!(client.answer().status(), 413);
}

/// An upstream that switches protocols and then repeats what it hears.
fn tunnel() -> TestUpstream {
    TestUpstream::speaking(|stream| {
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        // Pingora #946: an answer that is quicker than the empty body of the request breaks the tunnel.
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(switch.as_bytes()).unwrap();
        let mut buffer = [0u8; 256];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        false
    })
}

#[test]
fn a_tunnel_passes_both_ways_outlives_the_total_time_and_ends_when_its_key_is_revoked() {
    let upstream = tunnel();
    let gateway = TestGateway::with(upstream.address, |_| {}, |endpoint| endpoint.total_timeout_ms = 1_000);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/ws", UPGRADE));
    assert_eq!(client.answer().status(), 101);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3_500) {
        client.send("ping");
        assert!(client.read_until(|bytes| bytes.ends_with(b"ping")), "the tunnel broke after {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    gateway.revoke();
    let revoked = Instant::now();
    client.everything();
    assert!(revoked.elapsed() < Duration::from_secs(5), "open for {:?} after the revocation", revoked.elapsed());
}

#[test]
fn a_tunnel_that_lasts_keeps_no_old_snapshot_in_memory() {
    let upstream = tunnel();
    let gateway = TestGateway::to(upstream.address);
    let old = Arc::downgrade(&gateway.live.load());
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/ws", UPGRADE));
    assert_eq!(client.answer().status(), 101);
    assert!(old.upgrade().is_some());
    gateway.serve_anew();
    eventually("the old snapshot is freed", || old.upgrade().is_none());
    client.send("ping");
    assert!(client.read_until(|bytes| bytes.ends_with(b"ping")), "the tunnel goes on by what it began with");
}

#[test]
fn a_body_without_an_end_and_without_an_answer_ends_when_its_key_is_revoked() {
    let upstream = TestUpstream::speaking(|_| true);
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head("POST", "/acme/p1/x", "Transfer-Encoding: chunked\r\n"));
    client.send("5\r\nhello\r\n");
    eventually("the upstream has the request", || !upstream.heads.lock().unwrap().is_empty());
    gateway.revoke();
    let revoked = Instant::now();
    let rest = client.everything();
    assert!(revoked.elapsed() < Duration::from_secs(5), "open for {:?} after the revocation", revoked.elapsed());
    assert_eq!(rest, "", "nothing that looks like an answer");
}

#[test]
fn a_stream_ends_when_its_key_is_revoked_and_an_ordinary_answer_does_not() {
    let upstream = TestUpstream::speaking(|stream| {
        if stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
            .is_err()
        {
            return false;
        }
        while stream.write_all(b"6\r\ndata\n\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/events", ""));
    assert!(client.read_until(|bytes| bytes.windows(4).filter(|window| window == b"data").count() > 3));
    gateway.revoke();
    let revoked = Instant::now();
    let rest = client.everything();
    assert!(revoked.elapsed() < Duration::from_secs(5));
    assert!(!rest.ends_with("0\r\n\r\n"), "a stream that was cut must not look complete");
    assert_eq!(gateway.get("/acme/p1/events").status(), 401);
}
