//! The server from start to stop, over a real socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connections::serve;
use crate::settings::Rest;
use crate::testing::App;

/// A stop that works is quick; this only bounds a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served control plane with settings changed by `set`.
async fn start(set: impl FnOnce(&mut Rest)) -> (App, SocketAddr, CancellationToken, JoinHandle<()>) {
    let mut app = App::start().await;
    let mut settings = (*app.state.settings).clone();
    set(&mut settings.rest);
    app.state.settings = std::sync::Arc::new(settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, app.state.clone(), shutdown.clone()));
    (app, address, shutdown, serving)
}

/// Sends the bytes and reads until the other side closes.
async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends an answer as well as a close does.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn it_answers_over_a_socket_and_stops_when_told() {
    let (_app, address, shutdown, serving) = start(|_| {}).await;
    let answer = ask(address, LIVEZ).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_connections_that_idle() {
    let (_app, address, shutdown, serving) = start(|rest| rest.header_timeout = 2 * PATIENCE).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_never_ends_its_request_does_not_hold_the_stop() {
    let (_app, address, shutdown, serving) = start(|rest| rest.stop_timeout = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    stream.write_all(head).await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_header_that_drips_is_cut_off_however_busy_it_looks() {
    let (_app, address, _shutdown, _serving) = start(|rest| rest.header_timeout = Duration::from_millis(200)).await;
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let started = Instant::now();
    let drip = tokio::spawn(async move {
        write.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.unwrap();
        // Each byte comes well within any deadline per read; the end of the connection ends the loop.
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, read.read_to_end(&mut answer)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    tokio::time::timeout(PATIENCE, drip).await.unwrap().unwrap();
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_their_turn() {
    let (_app, address, _shutdown, _serving) = start(|rest| {
        rest.connections_max = 1;
        rest.header_timeout = Duration::from_millis(300);
    })
    .await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    // The only place is taken by somebody who says nothing; it becomes free when his time is up.
    let answer = ask(address, LIVEZ).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!read_to_end(&mut silent).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_address_cannot_hold_all_connections() {
    let (_app, address, _shutdown, _serving) = start(|rest| rest.connections_per_address_max = 2).await;
    let held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    assert_eq!(ask(address, LIVEZ).await, "", "the third is closed unheard");
    // Another of this machine's addresses is somebody else.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(address).await.unwrap();
    other.write_all(LIVEZ).await.unwrap();
    assert!(read_to_end(&mut other).await.starts_with("HTTP/1.1 200"));
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while !ask(address, LIVEZ).await.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "places that were given back are never free");
    }
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let (_app, address, _shutdown, _serving) = start(|_| {}).await;
    let large = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1_000_000));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(large.as_bytes()).await;
    let answer = read_to_end(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(101));
    let answer = ask(address, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}
