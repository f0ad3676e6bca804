//! Clients that attack: smuggled framing, odd targets, slow headers, too many connections.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::harness::{Client, PATIENCE, TestGateway, TestUpstream, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn requests_that_two_readers_could_take_differently_are_refused() {
    let upstream = TestUpstream::answering(OK);
    let gateway = TestGateway::to(upstream.address);
    let key = format!("X-API-Key: {}\r\n", gateway.key);
    for (request, expected) in [
        (
            format!(
                "POST /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (format!("POST /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}Content-Length: 5, 5\r\n\r\nhello"), 400),
        (
            format!("POST /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
            400,
        ),
        (format!("POST /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}Content-Length: 9223372036854775808\r\n\r\n"), 400),
        (format!("POST /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501),
        (format!("GET /acme/p1/x HTTP/1.1\r\n{key}\r\n"), 400),
        (format!("GET /acme/p1/x HTTP/1.1\r\nHost: a b\r\n{key}\r\n"), 400),
        (format!("GET /acme/p1/x HTTP/1.1\r\nHost: h\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET http://other/acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET http://h/acme/p1/x HTTP/1.1\r\n{key}\r\n"), 400),
        (format!("GET http://u@h/acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET http:/h/acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET ftp://h/acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET  /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET /acme/p1/a%2fb HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("GET /acme/p1//x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 400),
        (format!("TRACE /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 405),
        (format!("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n{key}\r\n"), 405),
        (format!("GET /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}X-API-Key: other\r\n\r\n"), 400),
        (format!("GET /acme/p1/{} HTTP/1.1\r\nHost: h\r\n{key}\r\n", "a".repeat(9_000)), 414),
        (format!("GET /acme/p1/x HTTP/1.1\r\nHost: h\r\n{key}{}\r\n", "a: b\r\n".repeat(110)), 431),
    ] {
        let mut client = gateway.connect();
        client.send(&request);
        let answer = client.answer();
        assert_eq!(answer.status(), expected, "{} gave {answer:?}", request.lines().next().unwrap_or_default());
    }
    assert_eq!(upstream.heads.lock().unwrap().len(), 0, "the upstream saw {}", upstream.last_head());
}

#[test]
fn a_target_in_absolute_form_reaches_the_upstream_as_its_path_alone() {
    let upstream = TestUpstream::answering(OK);
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "http://gw.test/acme/p1/./x/%7Ey?q=1", ""));
    assert_eq!(client.answer().status(), 200);
    let head = upstream.last_head();
    assert!(head.starts_with("GET /up/x/~y?q=1 HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("\r\nhost: gw.test\r\n"), "{head}");
}

#[test]
fn a_header_that_drips_is_cut_at_its_deadline_and_nobody_else_notices() {
    let upstream = TestUpstream::answering(OK);
    let gateway = TestGateway::with(
        upstream.address,
        |settings| settings.client.header_timeout = Duration::from_millis(500),
        |_| {},
    );
    let mut slow: Vec<Client> = (0..50).map(|_| gateway.connect()).collect();
    let began = Instant::now();
    for client in &mut slow {
        client.send("GET /acme/p1/x HTTP/1.1\r\nHost: h\r\n");
    }
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
    let mut open = slow;
    while !open.is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} connections are still open", open.len());
        std::thread::sleep(Duration::from_millis(50));
        open.retain_mut(|client| client.stream.write_all(b"a").is_ok());
    }
    // The settings' own deadline would be 10 s.
    assert!(began.elapsed() < Duration::from_secs(9), "the last one was open for {:?}", began.elapsed());
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted_and_make_room_again() {
    let upstream = TestUpstream::answering(OK);
    let gateway = TestGateway::with(upstream.address, |settings| settings.limits.connections_max = 5, |_| {});
    // The harness's own look at the port must be over.
    eventually("five connections fit", || gateway.get("/acme/p1/x").status() == 200);
    let mut held: Vec<Client> = Vec::new();
    eventually_held(&gateway, &mut held);
    let refused = (0..10).filter(|_| gateway.get("/acme/p1/x").status() == 0).count();
    assert_eq!(refused, 10);
    let shown = gateway.shown();
    assert!(shown.contains("gateway_connections_refused_total{reason=\"total\"}"), "{shown}");
    held.clear();
    eventually("there is room again", || gateway.get("/acme/p1/x").status() == 200);
}

/// Five connections that have been served once and stay open.
fn eventually_held(gateway: &TestGateway, held: &mut Vec<Client>) {
    let deadline = Instant::now() + PATIENCE;
    while held.len() < 5 {
        assert!(Instant::now() < deadline, "only {} connections were let in", held.len());
        let mut client = gateway.connect();
        if client.stream.write_all(gateway.head("GET", "/acme/p1/x", "").as_bytes()).is_ok()
            && client.answer().status() == 200
        {
            held.push(client);
        }
    }
}
