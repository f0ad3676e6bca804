//! API-HUB patch: idle HTTP/1 connections to upstreams, kept at hand.
//!
//! The framework's own pool watches each idle connection with a task of its own: a request pays for spawning it, for two turns
//! of it, its timer, two channels and three look-ups in hashed maps. Here a connection is put into a list and taken from it.
//! One task looks at all of them each second, and closes those that the upstream closed or that are idle for too long.
//!
//! It refuses what it has no room for, HTTP/2 and forward proxies: the framework's pool has those.

use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::Stream;
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Parts with a lock each, held for the moment of a push or a pop.
const SHARDS: usize = 16;
/// How often idle connections are looked at. No connection is idle for longer than its time-out.
const SWEEP: Duration = Duration::from_secs(1);
/// Shorter time-outs are left to the framework's pool, which is exact.
const TIMEOUT_MIN: Duration = Duration::from_secs(2);

pub(crate) struct HotPool {
    inner: Arc<Inner>,
}

struct Inner {
    shards: [Mutex<Shard>; SHARDS],
    /// Connections that are here, and places that are promised.
    kept: AtomicUsize,
    kept_max: usize,
    /// Sweeps so far: the clock of this room.
    sweeps: AtomicU64,
    is_swept: AtomicBool,
}

type Shard = HashMap<u64, Vec<Idle>, BuildHasherDefault<AlreadyHashed>>;

struct Idle {
    stream: Stream,
    /// Where it leads to: two peers with one hash must not share a connection.
    address: SocketAddr,
    /// The number of the sweep that closes it.
    closed_by: u64,
}

/// A place in the pool; given back unless a connection takes it.
pub(crate) struct Place<'a> {
    inner: &'a Arc<Inner>,
    closed_by: u64,
}

impl HotPool {
    pub(crate) fn new(kept_max: usize) -> HotPool {
        let inner = Inner {
            shards: Default::default(),
            kept: AtomicUsize::new(0),
            kept_max,
            sweeps: AtomicU64::new(0),
            is_swept: AtomicBool::new(false),
        };
        HotPool {
            inner: Arc::new(inner),
        }
    }

    /// The connection that was used last: the others may grow old and go.
    pub(crate) fn take(&self, key: u64, address: &SocketAddr) -> Option<Stream> {
        // Outlives the lock: closing is for when nobody waits.
        let mut unusable = Vec::new();
        let mut shard = self.inner.shard(key);
        let idle = shard.get_mut(&key)?;
        while let Some(mut last) = idle.pop() {
            self.inner.kept.fetch_sub(1, Ordering::Relaxed);
            if last.address == *address && is_quiet(&mut last.stream) {
                return Some(last.stream);
            }
            unusable.push(last);
        }
        None
    }

    /// A place for one more connection, where there is one.
    pub(crate) fn place(&self, timeout: Option<Duration>) -> Option<Place<'_>> {
        if timeout.is_some_and(|timeout| timeout < TIMEOUT_MIN) {
            return None;
        }
        if self.inner.kept.fetch_add(1, Ordering::Relaxed) >= self.inner.kept_max {
            self.inner.kept.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let now = self.inner.sweeps.load(Ordering::Relaxed);
        let closed_by = timeout.map_or(u64::MAX, |timeout| now.saturating_add(timeout.as_secs()));
        Some(Place {
            inner: &self.inner,
            closed_by,
        })
    }
}

impl Place<'_> {
    pub(crate) fn keep(self, key: u64, address: SocketAddr, stream: Stream) {
        let idle = Idle {
            stream,
            address,
            closed_by: self.closed_by,
        };
        self.inner.shard(key).entry(key).or_default().push(idle);
        if !self.inner.is_swept.load(Ordering::Relaxed) {
            sweep_from_now_on(self.inner);
        }
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.inner.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(key >> 32) as usize % SHARDS])
    }

    /// Closes what is over, with no lock held and a turn for other tasks between the shards.
    async fn sweep(&self) {
        let now = self.sweeps.fetch_add(1, Ordering::Relaxed) + 1;
        for shard in &self.shards {
            drop(self.take_out(shard, now));
            tokio::task::yield_now().await;
        }
    }

    /// What is too old in sweep `now`, or was closed by its upstream.
    fn take_out(&self, shard: &Mutex<Shard>, now: u64) -> Vec<Idle> {
        let mut over = Vec::new();
        lock(shard).retain(|_, idle| {
            over.extend(idle.extract_if(.., |idle| {
                idle.closed_by <= now || !is_quiet(&mut idle.stream)
            }));
            !idle.is_empty()
        });
        self.kept.fetch_sub(over.len(), Ordering::Relaxed);
        over
    }
}

/// One task for as long as the pool and its runtime live.
fn sweep_from_now_on(inner: &Arc<Inner>) {
    struct Sweeping(Weak<Inner>);
    impl Drop for Sweeping {
        fn drop(&mut self) {
            if let Some(inner) = self.0.upgrade() {
                inner.is_swept.store(false, Ordering::Relaxed);
            }
        }
    }
    if inner.is_swept.swap(true, Ordering::Relaxed) {
        return;
    }
    let sweeping = Sweeping(Arc::downgrade(inner));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(inner) = sweeping.0.upgrade() else {
                return;
            };
            inner.sweep().await;
        }
    });
}

/// Neither closed nor speaking: an upstream that says something without being asked cannot be trusted with a request.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let read = pin!(tokio::task::unconstrained(stream.read(&mut byte)));
    read.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Lists of connections: a panic leaves none half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key is a hash already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
