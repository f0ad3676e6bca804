//! Requests that come before the answer to the one before them: each is answered, in their order, and none costs another.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::harness::{TestGateway, TestUpstream, UPGRADE, eventually, silent_upstream};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn paths(upstream: &TestUpstream) -> Vec<String> {
    let heads = upstream.heads.lock().unwrap();
    heads.iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn a_request_that_comes_while_the_upstream_works_costs_nobody_an_answer() {
    let (upstream, answers) = silent_upstream();
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/one", ""));
    eventually("the upstream works", || paths(&upstream).len() == 1);
    client.send(&gateway.head("GET", "/acme/p1/two", ""));
    // The gateway must have seen it before the first answer comes.
    std::thread::sleep(Duration::from_millis(50));
    answers.store(true, Ordering::Relaxed);
    assert_eq!((client.answer().status(), client.answer().status()), (200, 200));
    assert_eq!(paths(&upstream), ["/up/one", "/up/two"]);
}

#[test]
fn requests_of_one_write_are_answered_in_their_order_with_a_refusal_among_them() {
    let upstream = TestUpstream::answering(OK);
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    let (first, last) = (gateway.head("GET", "/acme/p1/one", ""), gateway.head("GET", "/acme/p1/two", ""));
    client.send(&format!("{first}GET /acme/p1/keyless HTTP/1.1\r\nHost: gw.test\r\n\r\n{last}"));
    let answers: Vec<_> = (0..3).map(|_| client.answer()).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status()).collect();
    assert_eq!(statuses, [200, 401, 200], "{answers:?}");
    assert_eq!(paths(&upstream), ["/up/one", "/up/two"]);
}

#[test]
fn what_a_client_says_before_its_tunnel_stands_is_its_beginning() {
    let switches = Arc::new(AtomicBool::new(false));
    let told = switches.clone();
    let upstream = TestUpstream::speaking(move |stream| {
        while !told.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let mut said = [0; 5];
        let _ = stream.write_all(switched).and_then(|()| stream.read_exact(&mut said));
        let _ = stream.write_all(&said);
        false
    });
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/x", UPGRADE));
    eventually("the upstream works", || paths(&upstream).len() == 1);
    client.send("early");
    std::thread::sleep(Duration::from_millis(50));
    switches.store(true, Ordering::Relaxed);
    assert_eq!(client.answer().status(), 101);
    assert_eq!(client.everything(), "early");
}

#[test]
fn nothing_behind_a_malformed_request_is_served() {
    let upstream = TestUpstream::answering(OK);
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let smuggled = gateway.head("GET", "/acme/p1/x", "");
    client.send(&format!("{}0\r\n\r\n{smuggled}", gateway.head("POST", "/acme/p1/x", both)));
    let all = client.everything();
    assert!(all.starts_with("HTTP/1.1 400") && all.matches("HTTP/1.1").count() == 1, "{all}");
    assert!(paths(&upstream).is_empty());
}

/// A known edge: its end of file cannot be told from that of a client that left.
#[test]
fn a_client_that_finishes_sending_while_the_upstream_works_is_taken_for_one_that_left() {
    let (upstream, answers) = silent_upstream();
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    client.send(&gateway.head("GET", "/acme/p1/x", ""));
    eventually("the upstream works", || paths(&upstream).len() == 1);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.everything(), "");
    answers.store(true, Ordering::Relaxed);
}
