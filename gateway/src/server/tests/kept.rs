//! Connections to upstreams between requests, and answers that come in pieces: what the patched framework does by itself.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::harness::{PATIENCE, TestGateway, TestUpstream};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reports how long after its first answer each connection was closed by the gateway.
fn upstream_that_waits_for_the_end(closes_itself: bool) -> (TestUpstream, Receiver<Duration>) {
    let (ended, all_ended) = channel();
    let upstream = TestUpstream::speaking(move |stream: &mut TcpStream| {
        stream.write_all(OK).unwrap();
        let answered = Instant::now();
        if closes_itself {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if matches!(stream.read(&mut [0; 1]), Ok(0)) {
            let _ = ended.send(answered.elapsed());
        }
        false
    });
    (upstream, all_ended)
}

#[test]
fn one_connection_serves_the_requests_that_come_one_after_the_other() {
    let used = Arc::new(Mutex::new(HashSet::new()));
    let seen = used.clone();
    let upstream = TestUpstream::speaking(move |stream| {
        seen.lock().unwrap().insert(stream.peer_addr().unwrap());
        stream.write_all(OK).is_ok()
    });
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.send(&gateway.head("GET", "/acme/p1/x", ""));
        assert_eq!(client.answer().body, "ok");
    }
    assert_eq!((used.lock().unwrap().len(), upstream.heads.lock().unwrap().len()), (1, 20));
}

#[test]
fn a_kept_connection_that_its_upstream_closes_is_closed_here_too() {
    let (upstream, ended) = upstream_that_waits_for_the_end(true);
    let gateway = TestGateway::to(upstream.address);
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
    assert!(ended.recv_timeout(PATIENCE).is_ok(), "half a connection was kept");
}

#[test]
fn a_kept_connection_goes_when_its_time_is_over_and_no_sooner_than_the_tick_before() {
    let (upstream, ended) = upstream_that_waits_for_the_end(false);
    let idle = Duration::from_secs(3);
    let gateway = TestGateway::with(upstream.address, |settings| settings.upstream.idle_timeout = idle, |_| {});
    assert_eq!(gateway.get("/acme/p1/x").status(), 200);
    let after = ended.recv_timeout(PATIENCE).expect("an idle connection was kept for ever");
    let early = Duration::from_millis(1_100);
    assert!(after > idle - early, "closed after {after:?}");
}

#[test]
fn what_comes_before_the_answer_is_passed_on_and_so_is_every_piece_of_it() {
    let upstream = TestUpstream::speaking(|stream| {
        let pieces = [
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: ",
            "chunked\r\n\r\n3\r\none\r\n",
            "3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n",
        ];
        pieces.iter().all(|piece| {
            // Apart from each other on the way.
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(piece.as_bytes()).is_ok()
        })
    });
    let gateway = TestGateway::to(upstream.address);
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send(&gateway.head("GET", "/acme/p1/x", ""));
        let hints = client.answer();
        assert_eq!((hints.status(), hints.header("link")), (103, Some("</a.css>")), "{hints:?}");
        let got = client.answer();
        let body: String = got.body.lines().filter(|line| line.parse::<u32>().is_err()).collect();
        assert_eq!((got.status(), body.as_str()), (200, "onetwothree"), "{got:?}");
    }
}
