//! The TLS listener's door: connections are counted, bounded in time and refused before their handshakes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::harness::{PATIENCE, TestGateway, TestUpstream, eventually, free_address};
use crate::settings::{Https, Settings};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct TlsGateway {
    gateway: TestGateway,
    https: SocketAddr,
    authority: CertificateDer<'static>,
    _upstream: TestUpstream,
    _files: tempfile::TempDir,
}

fn with_tls(change: impl FnOnce(&mut Settings)) -> TlsGateway {
    let files = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["gw.test".to_owned()]).unwrap();
    let (certificate_file, key_file) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&certificate_file, pair.cert.pem()).unwrap();
    std::fs::write(&key_file, pair.signing_key.serialize_pem()).unwrap();
    let (upstream, https) = (TestUpstream::answering(OK), free_address());
    let change = |settings: &mut Settings| {
        settings.listen.https = Some(Https { address: https, certificate_file, key_file });
        change(settings);
    };
    let gateway = TestGateway::with(upstream.address, change, |_| {});
    let gateway = TlsGateway { gateway, https, authority: pair.cert.der().clone(), _upstream: upstream, _files: files };
    eventually("the TLS listener serves", || gateway.get() == 200);
    gateway
}

impl TlsGateway {
    /// Connected, and not a byte sent.
    fn silent(&self) -> TcpStream {
        let stream = TcpStream::connect(self.https).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The status of one request over TLS; 0 where there is none.
    fn get(&self) -> u16 {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = "gw.test".try_into().unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let Ok(socket) = TcpStream::connect(self.https) else { return 0 };
        let mut stream = StreamOwned::new(client, socket);
        let mut answer = [0; 12];
        let request = self.gateway.head("GET", "/acme/p1/x", "");
        let answered = stream.write_all(request.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
        answered.map_or(0, |()| std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap())
    }

    fn refused(&self, reason: &str) -> bool {
        self.gateway.shown().contains(&format!("gateway_connections_refused_total{{reason=\"{reason}\"}}"))
    }
}

/// Whether the gateway has closed it; waits for that.
fn is_closed(mut stream: &TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

#[test]
fn silent_tls_clients_are_counted_and_the_one_too_many_is_closed_before_its_handshake() {
    let world = with_tls(|settings| {
        settings.limits.connections_max = 5;
        settings.client.header_timeout = Duration::from_secs(60);
    });
    let (began, mut held) = (Instant::now(), Vec::new());
    // Connections of the harness that have ended are counted for a moment more.
    while world.gateway.get("/acme/p1/x").status() != 0 || held.len() < 5 {
        assert!(began.elapsed() < PATIENCE, "{} silent clients take no place", held.len());
        let silent = world.silent();
        silent.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        if !is_closed(&silent) {
            held.push(silent);
        }
    }
    assert!(is_closed(&world.silent()), "one more was let in");
    assert!(world.refused("total"));
    drop(held);
    eventually("there is room again", || world.get() == 200);
}

#[test]
fn a_tls_client_that_says_nothing_is_closed_at_the_header_deadline() {
    let world = with_tls(|settings| settings.client.header_timeout = Duration::from_millis(300));
    let (began, silent) = (Instant::now(), world.silent());
    assert!(is_closed(&silent), "it is still open");
    assert!(began.elapsed() < Duration::from_secs(10), "closed after {:?}", began.elapsed());
    eventually("it is counted", || world.refused("header_deadline"));
    assert_eq!(world.get(), 200);
}

#[test]
fn a_tls_connection_that_was_served_gives_its_place_back() {
    let world = with_tls(|settings| settings.limits.connections_max = 2);
    for _ in 0..10 {
        eventually("its place is free", || world.get() == 200);
    }
}
