//! The harness: `TestGateway` serves one product, `TestUpstream` answers it, `Client` speaks raw HTTP/1 to the gateway.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::configuration::Opt;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use snapshot::key::{Environment, MintedKey};
use snapshot::wire;
use tokio::sync::watch;

use crate::live::fixtures::{IntoRecord, endpoint, key, minted, plan, product, subscription, token};
use crate::live::{Live, Snapshot};
use crate::metrics::Metrics;
use crate::server::background::Tasks;
use crate::server::{Parts, place, read_certificate, server_conf};
use crate::settings::Settings;
use crate::usage::UsageRecorder;

/// Nothing in a test takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a request says, besides, that asks for a tunnel.
pub(super) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(super) struct TestGateway {
    pub(super) address: SocketAddr,
    pub(super) key: String,
    pub(super) live: Live,
    pub(super) metrics: Arc<Metrics>,
    /// A second hand on the gateway's own rings.
    pub(super) usage: UsageRecorder,
    records: Vec<wire::Record>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub(super) data_dir: tempfile::TempDir,
}

struct StopWhenTold(tokio::sync::Mutex<Option<tokio::sync::oneshot::Receiver<()>>>);

#[async_trait]
impl ShutdownSignalWatch for StopWhenTold {
    async fn recv(&self) -> ShutdownSignal {
        if let Some(told) = self.0.lock().await.take() {
            let _ = told.await;
        }
        ShutdownSignal::FastShutdown
    }
}

/// A port that was free a moment ago.
pub(super) fn free_address() -> SocketAddr {
    let [address] = free_addresses();
    address
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    // All held at once, so that they differ.
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

impl TestGateway {
    /// Serves `/acme/p1/…`, every method and path of it, from `upstream`.
    pub(super) fn to(upstream: SocketAddr) -> TestGateway {
        TestGateway::with(upstream, |_| {}, |_| {})
    }

    pub(super) fn with(
        upstream: SocketAddr,
        change_settings: impl FnOnce(&mut Settings),
        change_endpoint: impl FnOnce(&mut wire::Endpoint),
    ) -> TestGateway {
        let data_dir = tempfile::tempdir().unwrap();
        let [http, admin] = free_addresses();
        let text = format!(
            "threads = 2\n[node]\ndata_dir = \"{}\"\n[listen]\nhttp = \"{http}\"\n[admin]\nlisten = \"{admin}\"\n[upstream]\nallow = [\"127.0.0.0/8\"]\n",
            data_dir.path().display(),
        );
        let reader = ::settings::Reader::parse("test.toml", &text).unwrap();
        let mut settings = crate::settings::reading::read(reader).unwrap();
        settings.usage.redis_url = None;
        change_settings(&mut settings);
        let key_of_test: MintedKey = minted(Environment::Live);
        let mut served = product(1);
        let mut all = endpoint("*", "/{*rest}", &format!("http://{upstream}/up/{{*rest}}"));
        change_endpoint(&mut all);
        served.endpoints = vec![all];
        let records = vec![
            served.record(),
            plan(10, 60_000).record(),
            subscription(11, 1, 10).record(),
            key(20, 11, &key_of_test).record(),
        ];
        let parts = Parts::new(&settings, data_dir.path()).unwrap();
        let (live, metrics) = (parts.live.clone(), parts.metrics.clone());
        let (snapshot, refusals) = Snapshot::build(token(1), records.clone());
        assert_eq!(refusals, []);
        live.store(snapshot);
        let (stop, usage) = start(&settings, parts, data_dir.path());
        let gateway = TestGateway {
            address: settings.listen.http,
            key: key_of_test.reveal().to_owned(),
            live,
            metrics,
            usage,
            records,
            stop: Some(stop),
            data_dir,
        };
        eventually("the gateway listens", || TcpStream::connect(gateway.address).is_ok());
        gateway
    }

    pub(super) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, rest: Vec::new() }
    }

    /// A request with the key, without a body.
    pub(super) fn get(&self, path: &str) -> Answer {
        let mut client = self.connect();
        client.send(&self.head("GET", path, ""));
        client.answer()
    }

    pub(super) fn head(&self, method: &str, path: &str, more: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\nHost: gw.test\r\nX-API-Key: {}\r\n{more}\r\n", self.key)
    }

    /// The metrics as a scraper reads them.
    pub(super) fn shown(&self) -> String {
        String::from_utf8(self.metrics.render().unwrap()).unwrap()
    }

    /// Whether exactly this line is among the metrics.
    pub(super) fn metric(&self, line: &str) -> bool {
        self.shown().lines().any(|found| found == line)
    }

    /// Serves the same from another snapshot, as after any change.
    pub(super) fn serve_anew(&self) {
        self.live.store(Snapshot::build(token(2), self.records.clone()).0);
    }

    /// Serves on without the key, as after a revocation.
    pub(super) fn revoke(&self) {
        let is_key = |record: &wire::Record| matches!(record.record, Some(wire::record::Record::Key(_)));
        let kept = self.records.iter().filter(|record| !is_key(record)).cloned().collect::<Vec<_>>();
        self.live.store(Snapshot::build(token(2), kept).0);
    }
}

fn start(
    settings: &Settings,
    parts: Parts,
    data_dir: &std::path::Path,
) -> (tokio::sync::oneshot::Sender<()>, UsageRecorder) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let conf = server_conf(settings, data_dir, place::upgrade_socket(data_dir).unwrap());
    let mut server = Server::new_with_opt_and_conf(Opt::default(), conf);
    server.bootstrap();
    let (stop_tasks, stopped) = watch::channel(false);
    let (done, _all_done) = mpsc::channel();
    let certificate = read_certificate(settings).unwrap();
    let usage = parts.start(settings, certificate, Tasks { server: &mut server, stop: stopped, done }).unwrap();
    let (stop, told) = tokio::sync::oneshot::channel();
    let signal = StopWhenTold(tokio::sync::Mutex::new(Some(told)));
    std::thread::spawn(move || {
        server.run(RunArgs { shutdown_signal: Box::new(signal) });
        drop(stop_tasks);
    });
    (stop, usage)
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

/// Waits for a condition; panics with its name when it never comes.
pub(super) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    rest: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }
}

impl Client {
    pub(super) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `is_enough`, the end or an error of the connection.
    pub(super) fn read_until(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> bool {
        let mut buffer = [0u8; 4096];
        while !is_enough(&self.rest) {
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
            }
        }
        true
    }

    /// Everything up to the end of the connection.
    pub(super) fn everything(&mut self) -> String {
        self.read_until(|_| false);
        String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()
    }

    /// One answer with its length or its chunks.
    pub(super) fn answer(&mut self) -> Answer {
        let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
        if !self.read_until(|bytes| find(bytes, b"\r\n\r\n").is_some()) {
            return Answer { head: String::from_utf8_lossy(&self.rest).into_owned(), body: String::new() };
        }
        let end = find(&self.rest, b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest.drain(..end);
        let mut answer = Answer { head, body: String::new() };
        let taken =
            if let Some(length) = answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
                self.read_until(|bytes| bytes.len() >= length);
                length.min(self.rest.len())
            } else if answer.header("transfer-encoding").is_some() {
                self.read_until(|bytes| find(bytes, b"0\r\n\r\n").is_some());
                find(&self.rest, b"0\r\n\r\n").map_or(self.rest.len(), |at| at + 5)
            } else {
                0
            };
        answer.body = String::from_utf8_lossy(&self.rest.drain(..taken).collect::<Vec<u8>>()).into_owned();
        answer
    }
}

/// Accepts for ever and hands each connection to a thread of its own.
pub(super) struct TestUpstream {
    pub(super) address: SocketAddr,
    /// Heads of the requests that came.
    pub(super) heads: Arc<Mutex<Vec<String>>>,
}

impl TestUpstream {
    /// Answers every request of every connection with the same bytes.
    pub(super) fn answering(answer: &'static str) -> TestUpstream {
        TestUpstream::speaking(move |stream| stream.write_all(answer.as_bytes()).is_ok())
    }

    /// Calls `speak` after each request's head; `false` closes the connection.
    pub(super) fn speaking(speak: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> TestUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, speak) = (heads.clone(), Arc::new(speak));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, speak) = (seen.clone(), speak.clone());
                std::thread::spawn(move || serve(stream, &seen, &*speak));
            }
        });
        TestUpstream { address, heads }
    }

    pub(super) fn last_head(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

/// Answers nothing until it is told to.
pub(super) fn silent_upstream() -> (TestUpstream, Arc<AtomicBool>) {
    let answers = Arc::new(AtomicBool::new(false));
    let told = answers.clone();
    let upstream = TestUpstream::speaking(move |stream| {
        while !told.load(Ordering::Relaxed) {
            if is_closed(stream) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok()
    });
    (upstream, answers)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(read, Ok(0))
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, speak: &dyn Fn(&mut TcpStream) -> bool) {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
            if !speak(&mut stream) {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}
