//! Upstreams that fail, lie or attack: what the client is told, and that nothing of it reaches anybody else.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::harness::{TestGateway, TestUpstream, eventually, free_address};

#[test]
fn what_is_no_answer_is_502_and_says_what_kind() {
    for (answer, code) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "upstream_bad_response"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "upstream_bad_response"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "upstream_bad_response"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "upstream_bad_response"),
        ("HTTP/1.1 600 What\r\nContent-Length: 2\r\n\r\nok", "upstream_bad_response"),
        ("HTTP/1.1 999 No\r\nContent-Length: 2\r\n\r\nok", "upstream_bad_response"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "upstream_bad_response",
        ),
        ("ceci n'est pas HTTP\r\n\r\n", "upstream_bad_response"),
    ] {
        let upstream = TestUpstream::answering(answer);
        let gateway = TestGateway::to(upstream.address);
        let got = gateway.get("/acme/p1/x");
        assert_eq!((got.status(), got.header("x-gateway-error")), (502, Some(code)), "{answer:?} gave {got:?}");
    }
}

#[test]
fn an_upstream_that_hangs_up_is_502_and_one_that_is_not_there_too() {
    let upstream = TestUpstream::speaking(|_| false);
    let got = TestGateway::to(upstream.address).get("/acme/p1/x");
    assert_eq!((got.status(), got.header("x-gateway-error")), (502, Some("upstream_reset")), "{got:?}");
    let got = TestGateway::to(free_address()).get("/acme/p1/x");
    assert_eq!((got.status(), got.header("x-gateway-error")), (502, Some("upstream_unreachable")), "{got:?}");
}

#[test]
fn a_silent_upstream_is_504_by_its_read_time_and_by_its_total_time() {
    let silent = TestUpstream::speaking(|_| true);
    for change in [(|endpoint| endpoint.read_timeout_ms = 200) as fn(&mut snapshot::wire::Endpoint), |endpoint| {
        endpoint.total_timeout_ms = 200
    }] {
        let got = TestGateway::with(silent.address, |_| {}, change).get("/acme/p1/x");
        assert_eq!((got.status(), got.header("x-gateway-error")), (504, Some("upstream_timeout")), "{got:?}");
    }
}

#[test]
fn a_forbidden_upstream_is_never_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let gateway = TestGateway::with(listener.local_addr().unwrap(), |settings| settings.upstream.allow.clear(), |_| {});
    let got = gateway.get("/acme/p1/x");
    assert_eq!((got.status(), got.header("x-gateway-error")), (503, Some("no_healthy_upstream")), "{got:?}");
    assert_eq!(got.header("retry-after"), Some("1"));
    assert!(listener.accept().is_err(), "the guard let a connection through");
    eventually("it is over", || gateway.metrics.http_requests_in_flight.get() == 0);
    assert!(gateway.metric("gateway_http_upstream_duration_seconds_count 0"), "time of an upstream that never was");
}

#[test]
fn our_own_listener_is_forbidden_even_in_an_allowed_range() {
    let own = free_address();
    let gateway = TestGateway::with(own, |settings| settings.listen.http = own, |_| {});
    assert_eq!(gateway.get("/acme/p1/x").status(), 503);
}

#[test]
fn only_what_is_idempotent_is_sent_again_and_only_as_often_as_allowed() {
    for (method, retries, expected) in [("GET", 2, 3), ("GET", 0, 1), ("POST", 2, 1), ("DELETE", 1, 2)] {
        let upstream = TestUpstream::speaking(|_| false);
        let gateway = TestGateway::with(upstream.address, |_| {}, |endpoint| endpoint.retries = retries);
        let mut client = gateway.connect();
        client.send(&gateway.head(method, "/acme/p1/x", ""));
        assert_eq!(client.answer().status(), 502);
        assert_eq!(upstream.heads.lock().unwrap().len(), expected, "{method} with {retries} retries");
    }
}

#[test]
fn nothing_is_sent_again_when_its_total_time_is_over() {
    let silent = TestUpstream::speaking(|_| true);
    let change = |endpoint: &mut snapshot::wire::Endpoint| (endpoint.retries, endpoint.total_timeout_ms) = (3, 200);
    let gateway = TestGateway::with(silent.address, |_| {}, change);
    assert_eq!(gateway.get("/acme/p1/x").status(), 504);
    assert!(gateway.metric("gateway_upstream_retries_total 0"), "{}", gateway.shown());
    assert_eq!(silent.heads.lock().unwrap().len(), 1);
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_does_not_fail_a_request() {
    static ANSWERED: AtomicUsize = AtomicUsize::new(0);
    // Each connection answers once and closes at its second request.
    let upstream = TestUpstream::speaking(|stream| {
        let is_second = stream.ttl().unwrap_or(0) == 77;
        if is_second {
            return false;
        }
        stream.set_ttl(77).unwrap();
        ANSWERED.fetch_add(1, Ordering::Relaxed);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let gateway = TestGateway::to(upstream.address);
    // One after the other on one connection: an answer comes before its upstream's connection is kept, and with two that are
    // dead the second try would find the other one.
    let mut client = gateway.connect();
    for _ in 0..5 {
        client.send(&gateway.head("GET", "/acme/p1/x", ""));
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(ANSWERED.load(Ordering::Relaxed), 5);
}

#[test]
fn a_body_cut_short_is_never_shown_as_complete() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n");
        let answer: &'static str = Box::leak(answer.into_boxed_str());
        let upstream = TestUpstream::speaking(move |stream| {
            let _ = stream.write_all(answer.as_bytes());
            std::thread::sleep(Duration::from_millis(50));
            false
        });
        let gateway = TestGateway::to(upstream.address);
        let mut client = gateway.connect();
        client.send(&gateway.head("GET", "/acme/p1/x", ""));
        let all = client.everything();
        assert!(all.contains("hello") && !all.ends_with("0\r\n\r\n"), "{all}");
    }
}

#[test]
fn an_answer_that_drips_beyond_its_total_time_is_cut_and_keeps_the_status_that_its_client_saw() {
    let upstream = TestUpstream::speaking(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        while stream.write_all(b"drop").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let gateway = TestGateway::with(upstream.address, |_| {}, |endpoint| endpoint.total_timeout_ms = 100);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/x", ""));
    assert!(client.everything().starts_with("HTTP/1.1 200 "));
    let told = "gateway_http_requests_total{code=\"200\",method=\"GET\",verdict=\"proxied\"} 1";
    eventually("it is one event of status 200", || gateway.metric(told));
}

#[test]
fn no_consumer_can_have_an_upstream_ejected_by_being_slow_or_by_asking_for_what_is_slow() {
    for (method, more) in [("POST", "Content-Length: 10\r\n"), ("GET", "")] {
        let silent = AtomicUsize::new(5);
        let upstream = TestUpstream::speaking(move |stream| {
            let is_silent =
                silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            is_silent || stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
        });
        let gateway = TestGateway::with(upstream.address, |_| {}, |endpoint| endpoint.read_timeout_ms = 100);
        for _ in 0..5 {
            let mut client = gateway.connect();
            client.send(&gateway.head(method, "/acme/p1/x", more));
            assert_eq!(client.answer().status(), 504);
        }
        assert_eq!(gateway.get("/acme/p1/x").status(), 200, "after five times {method}");
    }
}

#[test]
fn an_upstream_that_breaks_off_five_times_in_a_row_is_left_alone() {
    let upstream = TestUpstream::speaking(|_| false);
    let gateway = TestGateway::to(upstream.address);
    for _ in 0..5 {
        assert_eq!(gateway.get("/acme/p1/x").status(), 502);
    }
    let got = gateway.get("/acme/p1/x");
    assert_eq!((got.status(), got.header("x-gateway-error")), (503, Some("no_healthy_upstream")), "{got:?}");
}

#[test]
fn a_request_that_goes_in_a_circle_is_508() {
    let upstream = TestUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = TestGateway::to(upstream.address);
    let via = |count: usize| "Via: 1.1 apihub\r\n".repeat(count);
    let answer_to = |more: &str| {
        let mut client = gateway.connect();
        client.send(&gateway.head("GET", "/acme/p1/x", more));
        client.answer()
    };
    assert_eq!(answer_to(&via(3)).status(), 200);
    assert_eq!(upstream.last_head().to_ascii_lowercase().matches("via: 1.1 apihub").count(), 4, "each pass is noted");
    let got = answer_to(&via(4));
    assert_eq!((got.status(), got.header("x-gateway-error")), (508, Some("loop_detected")), "{got:?}");
}
