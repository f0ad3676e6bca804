//! A tunnel lives however early its 101 comes. This is what proves `third_party/pingora-proxy`; it knows no WebSocket
//! frames: to the gateway a tunnel is bytes.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::harness::World;

const HANDSHAKES: usize = 400;
const HANDSHAKES_AT_ONCE: usize = 8;
/// Far above what a handshake takes; a tunnel that hangs is a failure as one that is torn down.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(20);
/// To the sample key of RFC 6455, which every client of this test sends.
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// When the upstream answers.
#[derive(Clone, Copy)]
enum Switch {
    AtTheFirstByte,
    /// No server does this; it makes the gateway find the 101 already there when it begins to read.
    BeforeAnyByte,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tunnel_whose_101_comes_before_the_request_is_read_is_not_torn_down() {
    every_tunnel_echoes_and_ends_with_its_client(Switch::AtTheFirstByte).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tunnel_whose_101_comes_before_the_request_is_sent_is_not_torn_down() {
    every_tunnel_echoes_and_ends_with_its_client(Switch::BeforeAnyByte).await;
}

async fn every_tunnel_echoes_and_ends_with_its_client(switch: Switch) {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    // The gateway of a world may call this port, and the world itself leaves it alone.
    let upstream = TcpListener::bind(("127.0.0.1", world.upstream.closed_port)).await.unwrap();
    let target = format!("http://{}/ws", upstream.local_addr().unwrap());
    let tunnels = TaskTracker::new();
    tokio::spawn(switch_early(upstream, switch, tunnels.clone()));
    let catalog = ann.product("api").endpoint("GET", "/ws", &target).publish().await;
    let gateway: SocketAddr = world.gateway().url.strip_prefix("http://").unwrap().parse().unwrap();
    let request = format!(
        "GET {}/ws HTTP/1.1\r\nHost: {gateway}\r\nX-API-Key: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        catalog.path, catalog.key
    );
    let handshakes = (0..HANDSHAKES).map(|number| {
        let request = request.clone();
        tokio::spawn(async move {
            let tried = timeout(HANDSHAKE_TIME_MAX, shake_hands_and_echo(gateway, &request, number)).await;
            tried.unwrap_or_else(|_late| Err("it hangs".to_owned()))
        })
    });
    let outcomes: Vec<_> =
        futures::stream::iter(handshakes).buffer_unordered(HANDSHAKES_AT_ONCE).map(Result::unwrap).collect().await;
    let failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} of {HANDSHAKES} tunnels failed, the first: {}", failures.len(), failures[0]);
    tunnels.close();
    timeout(HANDSHAKE_TIME_MAX, tunnels.wait()).await.expect("a tunnel ends when its client is gone");
}

/// Answers 101 to whatever comes, reads the rest of the head, then echoes.
async fn switch_early(listener: TcpListener, switch: Switch, tunnels: TaskTracker) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tunnels.spawn(async move {
            stream.set_nodelay(true)?;
            let mut head = Vec::new();
            if matches!(switch, Switch::AtTheFirstByte) {
                head.push(stream.read_u8().await?);
            }
            stream.write_all(SWITCH).await?;
            while !head.ends_with(HEAD_END) {
                head.push(stream.read_u8().await?);
            }
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await
        });
    }
}

async fn shake_hands_and_echo(gateway: SocketAddr, request: &str, number: usize) -> Result<(), String> {
    let failed = |at: &str, error: std::io::Error| format!("handshake {number}, {at}: {error}");
    let mut stream = TcpStream::connect(gateway).await.map_err(|error| failed("connecting", error))?;
    stream.write_all(request.as_bytes()).await.map_err(|error| failed("asking", error))?;
    let mut head = Vec::new();
    while !head.ends_with(HEAD_END) {
        head.push(stream.read_u8().await.map_err(|error| failed("reading the head", error))?);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("handshake {number} is answered {}", String::from_utf8_lossy(&head)));
    }
    let message = format!("message {number}");
    stream.write_all(message.as_bytes()).await.map_err(|error| failed("sending the message", error))?;
    let mut heard = vec![0; message.len()];
    stream.read_exact(&mut heard).await.map_err(|error| failed("hearing the message", error))?;
    if heard == message.as_bytes() { Ok(()) } else { Err(format!("handshake {number} hears something else")) }
}
