//! A TCP proxy that breaks on demand: goes silent, closes, or leads somewhere else. What goes through it is not looked at.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes moved at once.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// Connections stand, new ones are accepted, and nothing comes through; what is under way comes late.
    Silent,
    /// Open until so many bytes have passed in all, both ways; then silent.
    UpTo(u64),
    /// Every connection is closed, as soon as it is made.
    Closed,
}

#[derive(Clone, Debug)]
struct State {
    flow: Flow,
    target: Target,
    /// Connections to an earlier target are closed.
    moves: u64,
    passed: Arc<AtomicU64>,
}

impl State {
    fn lets_through(&self) -> bool {
        match self.flow {
            Flow::Open => true,
            Flow::UpTo(bytes) => self.passed.load(Ordering::Relaxed) < bytes,
            Flow::Silent | Flow::Closed => false,
        }
    }
}

pub struct FaultProxy {
    pub address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    _stop: DropGuard,
}

impl FaultProxy {
    pub async fn start(target: Target) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State { flow: Flow::Open, target, moves: 0, passed: Arc::default() }));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&state), stop.clone())));
        FaultProxy { address, state, _stop: stop.drop_guard() }
    }

    pub fn redis_url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Bytes, both ways.
    pub fn passed(&self) -> u64 {
        self.state.borrow().passed.load(Ordering::Relaxed)
    }

    pub fn set(&self, flow: Flow) {
        self.state.send_modify(|state| state.flow = flow);
    }

    /// As an address that moves to another server: whoever was connected to the former one has to come anew.
    pub fn lead_to(&self, target: Target) {
        self.state.send_modify(|state| {
            state.target = target;
            state.moves += 1;
        });
    }
}

async fn accept(listener: TcpListener, state: Arc<watch::Sender<State>>, stop: CancellationToken) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let serving = serve(client, state.subscribe());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
    }
}

async fn serve(client: TcpStream, mut state: watch::Receiver<State>) {
    let born = state.borrow_and_update().clone();
    if born.flow == Flow::Closed {
        return;
    }
    let _ = client.set_nodelay(true);
    match born.target {
        Target::Unix(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                let (from, to) = client.into_split();
                let (back, forth) = server.into_split();
                join((from, forth), (back, to), state, born.moves).await;
            }
        }
        Target::Tcp(address) => {
            if let Ok(server) = TcpStream::connect(address).await {
                let _ = server.set_nodelay(true);
                let (from, to) = client.into_split();
                let (back, forth) = server.into_split();
                join((from, forth), (back, to), state, born.moves).await;
            }
        }
    }
}

async fn join(
    there: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    back: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    mut state: watch::Receiver<State>,
    moves: u64,
) {
    let (first, second) = (state.clone(), state.clone());
    tokio::select! {
        () = pump(there.0, there.1, first) => {}
        () = pump(back.0, back.1, second) => {}
        _ = state.wait_for(|state| state.flow == Flow::Closed || state.moves != moves) => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        match state.wait_for(State::lets_through).await {
            Ok(state) => drop(state.passed.fetch_add(count as u64, Ordering::Relaxed)),
            Err(_) => return,
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
