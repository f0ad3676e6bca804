//! The idle connections of the patched framework, from its own source: to close one takes its time, and nobody waits for it
//! who only wants another.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{Tracer, Tracing};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use self::hot::HotPool;
use super::harness::PATIENCE;

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)] // Code of the framework's style.
#[path = "../../../../third_party/pingora-proxy/src/hot.rs"]
#[rustfmt::skip]
mod hot;

const KEY: u64 = 1;
/// Under the same lock.
const NEIGHBOUR: u64 = 2;
/// How long the closing of a connection waits for somebody to get at the pool.
const TAKE_MAX: Duration = Duration::from_secs(5);

/// When its connection is closed, somebody else asks for a neighbour's.
#[derive(Clone)]
struct Closing {
    pool: Arc<HotPool>,
    address: SocketAddr,
    was_free: UnboundedSender<bool>,
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closing")
    }
}

impl Tracing for Closing {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        let (pool, address) = (self.pool.clone(), self.address.clone());
        let (taken, is_taken) = std::sync::mpsc::channel();
        thread::spawn(move || taken.send(pool.take(NEIGHBOUR, &address).is_none()));
        self.was_free.send(is_taken.recv_timeout(TAKE_MAX).is_ok()).unwrap();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

/// A connection in the pool, its other end, and whether the pool was free while it was closed.
async fn kept_connection(pool: &Arc<HotPool>) -> (TcpStream, UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = Stream::from(TcpStream::connect(address).await.unwrap());
    let (upstream, _) = listener.accept().await.unwrap();
    let address = SocketAddr::Inet(address);
    let (was_free, told) = unbounded_channel();
    stream.tracer = Some(Tracer(Box::new(Closing { pool: pool.clone(), address: address.clone(), was_free })));
    pool.place(None).unwrap().keep(KEY, address, Box::new(stream));
    (upstream, told)
}

#[tokio::test]
async fn a_connection_that_its_upstream_closed_keeps_nobody_waiting_while_it_is_closed() {
    let pool = Arc::new(HotPool::new(2));
    let (upstream, mut told) = kept_connection(&pool).await;
    drop(upstream);
    assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap(), Some(true), "closed with the lock held");
}

#[tokio::test]
async fn a_connection_that_cannot_be_used_keeps_nobody_waiting_while_it_is_closed() {
    let pool = Arc::new(HotPool::new(2));
    let (_upstream, mut told) = kept_connection(&pool).await;
    assert!(pool.take(KEY, &SocketAddr::Inet("127.0.0.1:1".parse().unwrap())).is_none(), "it leads elsewhere");
    assert_eq!(told.recv().await, Some(true), "closed with the lock held");
}
