//! How the parts of this gateway are: what the health pages show and what readiness is judged by. Decides nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use snapshot::token::Token;

/// The state of a connection to a part that the gateway can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartState {
    /// Nothing has been tried yet.
    Unknown,
    Up,
    Down,
}

impl PartState {
    pub fn as_str(self) -> &'static str {
        match self {
            PartState::Unknown => "unknown",
            PartState::Up => "up",
            PartState::Down => "down",
        }
    }
}

/// Whence the snapshot that is served came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Disk,
    Feed,
}

#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub token: Token,
    pub source: Source,
}

#[derive(Debug, Default)]
pub struct Status {
    served: Mutex<Option<Served>>,
    /// Unix ms at which the served snapshot was last known to be the newest; 0: never.
    confirmed_at_ms: AtomicI64,
    newest_revision: AtomicU64,
    feed: AtomicU8,
    redis: AtomicU8,
    draining: AtomicBool,
}

impl Status {
    pub fn set_served(&self, served: Served, confirmed_at_ms: i64) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some(served);
        self.confirmed_at_ms.store(confirmed_at_ms, Ordering::Relaxed);
    }

    pub fn served(&self) -> Option<Served> {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control plane says that `newest` is all there is.
    pub fn set_newest(&self, newest: Token, now_ms: i64) {
        self.newest_revision.store(newest.revision, Ordering::Relaxed);
        if self.served().is_some_and(|served| served.token == newest) {
            self.confirmed_at_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub fn newest_revision(&self) -> u64 {
        self.newest_revision.load(Ordering::Relaxed)
    }

    /// Seconds since the served snapshot was last known to be the newest. None: nothing is served.
    pub fn snapshot_age_s(&self, now_ms: i64) -> Option<u64> {
        self.served()?;
        let age_ms = now_ms.saturating_sub(self.confirmed_at_ms.load(Ordering::Relaxed)).max(0);
        Some(u64::try_from(age_ms).unwrap_or(0) / 1_000)
    }

    pub fn set_feed(&self, state: PartState) {
        self.feed.store(code(state), Ordering::Relaxed);
    }

    pub fn feed(&self) -> PartState {
        state(self.feed.load(Ordering::Relaxed))
    }

    pub fn set_redis(&self, state: PartState) {
        self.redis.store(code(state), Ordering::Relaxed);
    }

    pub fn redis(&self) -> PartState {
        state(self.redis.load(Ordering::Relaxed))
    }

    /// From now on load balancers are asked to look elsewhere.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Ready: has a snapshot, even a stale one, and is not on its way out.
    pub fn is_ready(&self) -> bool {
        self.served().is_some() && !self.is_draining()
    }
}

fn code(state: PartState) -> u8 {
    match state {
        PartState::Unknown => 0,
        PartState::Up => 1,
        PartState::Down => 2,
    }
}

fn state(code: u8) -> PartState {
    match code {
        1 => PartState::Up,
        2 => PartState::Down,
        _ => PartState::Unknown,
    }
}
