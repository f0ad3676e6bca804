//! What one product may hold at once, seen from outside: exact at its cap, given back however a request ends, and counted for
//! connections that idle as well as for those in use.

use std::io::{Read as _, Write as _};
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::harness::{Client, TestGateway, TestUpstream, UPGRADE, eventually, silent_upstream};
use crate::settings::Settings;

fn cap(requests: u32) -> impl FnOnce(&mut Settings) {
    move |settings| settings.limits.requests_per_product_max = NonZeroU32::new(requests).unwrap()
}

impl TestGateway {
    fn begin(&self, method: &str, more: &str) -> Client {
        let mut client = self.connect();
        client.send(&self.head(method, "/acme/p1/x", more));
        client
    }

    fn seats(&self) -> u32 {
        let snapshot = self.live.load();
        let product = snapshot.product(&uuid::Uuid::from_u128(1)).unwrap().served().unwrap();
        product.bulkhead.get().map_or(0, |bulkhead| bulkhead.requests_in_flight())
    }

    fn connections(&self) -> i64 {
        self.metrics.upstream_connections_open.get()
    }

    /// Asks until there is room again.
    fn has_room(&self) {
        eventually("its place is free", || self.seats() == 0);
    }
}

#[test]
fn the_request_beyond_the_cap_is_refused_with_a_code_and_a_time_and_the_others_are_served() {
    let (upstream, answers) = silent_upstream();
    let gateway = TestGateway::with(upstream.address, cap(3), |_| {});
    let mut waiting: Vec<_> = (0..3).map(|_| gateway.begin("GET", "")).collect();
    eventually("three are in flight", || gateway.seats() == 3);
    let refused = gateway.get("/acme/p1/x");
    assert_eq!((refused.status(), refused.header("x-gateway-error")), (503, Some("product_busy")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.header("x-ratelimit-limit").is_some(), "{}", refused.head);
    assert!(gateway.metric("gateway_product_refusals_total{cap=\"requests\",class=\"default\"} 1"));
    assert_eq!(gateway.seats(), 3);
    answers.store(true, Ordering::Relaxed);
    assert!(waiting.iter_mut().all(|client| client.answer().status() == 200));
    gateway.has_room();
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
}

#[test]
fn refusals_for_other_reasons_take_no_place() {
    let (upstream, _) = silent_upstream();
    let gateway = TestGateway::with(upstream.address, cap(1), |_| {});
    let _held = gateway.begin("GET", "");
    eventually("one is in flight", || gateway.seats() == 1);
    let mut client = gateway.connect();
    for _ in 0..10 {
        client.send("GET /acme/p1/x HTTP/1.1\r\nHost: gw.test\r\n\r\n");
        assert_eq!(client.answer().status(), 401);
    }
    assert_eq!(gateway.seats(), 1);
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    let (upstream, _) = silent_upstream();
    let gateway = TestGateway::with(upstream.address, cap(1), |_| {});
    for _ in 0..3 {
        let client = gateway.begin("GET", "");
        eventually("it is in flight", || gateway.seats() == 1);
        drop(client);
        gateway.has_room();
    }
}

#[test]
fn a_body_that_stops_half_way_gives_its_place_back_when_its_client_leaves() {
    let (upstream, _) = silent_upstream();
    let gateway = TestGateway::with(upstream.address, cap(1), |_| {});
    let mut client = gateway.begin("POST", "Content-Length: 1000000\r\n");
    client.send("only this");
    eventually("it is in flight", || gateway.seats() == 1);
    assert_eq!(gateway.begin("GET", "").answer().status(), 503);
    drop(client);
    gateway.has_room();
}

#[test]
fn a_time_out_and_a_broken_upstream_give_their_places_back() {
    let (upstream, _) = silent_upstream();
    let gateway = TestGateway::with(upstream.address, cap(1), |endpoint| endpoint.read_timeout_ms = 200);
    assert_eq!(gateway.get("/acme/p1/x").status(), 504);
    gateway.has_room();
    let gone = TestUpstream::speaking(|_| false);
    let gateway = TestGateway::with(gone.address, cap(1), |_| {});
    assert_eq!(gateway.get("/acme/p1/x").status(), 502);
    gateway.has_room();
    let gateway = TestGateway::with(super::harness::free_address(), cap(1), |_| {});
    assert_eq!(gateway.get("/acme/p1/x").status(), 502);
    gateway.has_room();
    eventually("no connection is left", || gateway.connections() == 0);
}

#[test]
fn a_tunnel_holds_one_place_for_as_long_as_it_lasts() {
    let upstream = TestUpstream::speaking(|stream| {
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switched);
        let _ = stream.read(&mut [0]);
        false
    });
    let gateway = TestGateway::with(upstream.address, cap(1), |_| {});
    let mut client = gateway.begin("GET", UPGRADE);
    assert_eq!(client.answer().status(), 101);
    assert_eq!(gateway.get("/acme/p1/x").header("x-gateway-error"), Some("product_busy"));
    drop(client);
    gateway.has_room();
    eventually("its connection is closed", || gateway.connections() == 0);
}

#[test]
fn a_stream_holds_one_place_until_its_client_leaves() {
    let upstream = TestUpstream::speaking(|stream| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n";
        let _ = stream.write_all(head);
        while stream.write_all(b"6\r\ndata\n\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let gateway = TestGateway::with(upstream.address, cap(1), |_| {});
    let mut client = gateway.begin("GET", "");
    assert!(client.read_until(|bytes| bytes.windows(4).any(|window| window == b"data")));
    assert_eq!(gateway.get("/acme/p1/x").status(), 503);
    drop(client);
    gateway.has_room();
}

#[test]
fn connections_are_refused_beyond_their_cap_and_an_idle_one_is_used_again() {
    let (upstream, answers) = silent_upstream();
    let cap = |settings: &mut Settings| settings.upstream.connections_per_product_max = NonZeroU32::new(2).unwrap();
    let gateway = TestGateway::with(upstream.address, cap, |_| {});
    let mut waiting: Vec<_> = (0..2).map(|_| gateway.begin("GET", "")).collect();
    eventually("both are connected", || gateway.connections() == 2 && upstream.heads.lock().unwrap().len() == 2);
    let refused = gateway.get("/acme/p1/x");
    assert_eq!((refused.status(), refused.header("x-gateway-error")), (503, Some("too_many_connections")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(gateway.metric("gateway_product_refusals_total{cap=\"connections\",class=\"default\"} 1"));
    answers.store(true, Ordering::Relaxed);
    assert!(waiting.iter_mut().all(|client| client.answer().status() == 200));
    gateway.has_room();
    for _ in 0..5 {
        assert_eq!(gateway.get("/acme/p1/x").status(), 200, "an idle connection is there");
        gateway.has_room();
    }
    assert_eq!(upstream.heads.lock().unwrap().len(), 7, "the refused one never left the gateway");
    assert!(gateway.connections() <= 2);
}

#[test]
fn no_more_idle_connections_are_kept_than_the_settings_say_whatever_the_threads() {
    let (upstream, answers) = silent_upstream();
    let kept = |settings: &mut Settings| (settings.threads, settings.upstream.connections_kept) = (2, 4);
    let gateway = TestGateway::with(upstream.address, kept, |_| {});
    let mut waiting: Vec<_> = (0..8).map(|_| gateway.begin("GET", "")).collect();
    eventually("all are connected", || upstream.heads.lock().unwrap().len() == 8);
    answers.store(true, Ordering::Relaxed);
    assert!(waiting.iter_mut().all(|client| client.answer().status() == 200));
    eventually("the others are closed", || gateway.connections() <= 4);
}

#[test]
fn a_product_near_its_cap_lets_idle_connections_go_soon() {
    let upstream = TestUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let cap = |settings: &mut Settings| settings.upstream.connections_per_product_max = NonZeroU32::new(1).unwrap();
    let gateway = TestGateway::with(upstream.address, cap, |_| {});
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
    // The second one knows that the first connection is all there is.
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
    let answered = Instant::now();
    eventually("it is closed", || gateway.connections() == 0);
    assert!(answered.elapsed() < Duration::from_secs(10), "the settings say a minute");
}
