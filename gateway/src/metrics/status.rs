//! How the parts of this gateway are: what the health pages show and what readiness is judged by. Decides nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};

use snapshot::token::Token;
use tokio::sync::watch;

use crate::lock::lock;

/// The state of a connection to a part that the gateway can do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartState {
    /// Nothing has been tried yet.
    #[default]
    Unknown,
    Up,
    Down,
    /// There is none to be reached.
    Off,
}

impl PartState {
    pub fn as_str(self) -> &'static str {
        match self {
            PartState::Unknown => "unknown",
            PartState::Up => "up",
            PartState::Down => "down",
            PartState::Off => "off",
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

/// How the feed is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Following {
    pub state: PartState,
    /// Whether this process has ever served what a control plane called the newest.
    pub has_caught_up: bool,
}

#[derive(Debug, Default)]
pub struct Status {
    served: Mutex<Option<Served>>,
    /// Unix ms at which the served snapshot was last known to be the newest; 0: never.
    confirmed_at_ms: AtomicI64,
    /// The newest that was heard of.
    newest: Mutex<Option<Token>>,
    /// The last good snapshot on disk.
    saved: Mutex<Option<Token>>,
    feed: watch::Sender<Following>,
    redis: AtomicU8,
    limits_redis: AtomicU8,
    /// Whether clients are let in.
    open: AtomicBool,
    draining: AtomicBool,
}

impl Status {
    /// From now on `served` decides; it was known to be the newest at that time.
    pub fn set_served(&self, served: Served, confirmed_at_ms: i64) {
        *lock(&self.served) = Some(served);
        self.confirmed_at_ms.store(confirmed_at_ms, Ordering::Relaxed);
        let mut newest = lock(&self.newest);
        let is_known = newest.is_some_and(|it| it.epoch == served.token.epoch && it.revision >= served.token.revision);
        if !is_known {
            *newest = Some(served.token);
        }
    }

    pub fn served(&self) -> Option<Served> {
        *lock(&self.served)
    }

    /// The control plane says that `newest` is all there is.
    pub fn set_newest(&self, newest: Token, now_ms: i64) {
        *lock(&self.newest) = Some(newest);
        if self.served().is_some_and(|served| served.token == newest) {
            self.confirmed_at_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// 0: none was heard of.
    pub fn newest_revision(&self) -> u64 {
        lock(&self.newest).map_or(0, |newest| newest.revision)
    }

    /// How many revisions of what was heard of are not served yet; None: nothing is served, or something of another epoch.
    pub fn revisions_behind(&self) -> Option<u64> {
        let served = self.served()?.token;
        let newest = (*lock(&self.newest)).filter(|newest| newest.epoch == served.epoch)?;
        Some(newest.revision.saturating_sub(served.revision))
    }

    /// Seconds since the served snapshot was last known to be the newest. None: nothing is served.
    pub fn snapshot_age_s(&self, now_ms: i64) -> Option<u64> {
        self.served()?;
        let age_ms = now_ms.saturating_sub(self.confirmed_at_ms.load(Ordering::Relaxed)).max(0);
        Some(u64::try_from(age_ms).unwrap_or(0) / 1_000)
    }

    /// This is on disk, whole.
    pub fn set_saved(&self, token: Token) {
        *lock(&self.saved) = Some(token);
    }

    /// The revision of the last good snapshot on disk. None: there is none, or it is of another epoch than what is served, so
    /// that the two revisions cannot be compared.
    pub fn saved_revision(&self) -> Option<u64> {
        let epoch = self.served()?.token.epoch;
        lock(&self.saved).filter(|saved| saved.epoch == epoch).map(|saved| saved.revision)
    }

    pub fn set_feed(&self, state: PartState) {
        self.feed.send_modify(|feed| feed.state = state);
    }

    pub fn feed(&self) -> PartState {
        self.feed.borrow().state
    }

    /// What is served is the newest there is, by a control plane's word.
    pub fn set_caught_up(&self) {
        self.feed.send_if_modified(|feed| !std::mem::replace(&mut feed.has_caught_up, true));
    }

    pub fn watch_feed(&self) -> watch::Receiver<Following> {
        self.feed.subscribe()
    }

    pub fn set_redis(&self, state: PartState) {
        self.redis.store(code(state), Ordering::Relaxed);
    }

    pub fn redis(&self) -> PartState {
        state(self.redis.load(Ordering::Relaxed))
    }

    pub fn set_limits_redis(&self, state: PartState) {
        self.limits_redis.store(code(state), Ordering::Relaxed);
    }

    /// The connection to the Redis in which the fleet counts its limits.
    pub fn limits_redis(&self) -> PartState {
        state(self.limits_redis.load(Ordering::Relaxed))
    }

    /// From now on load balancers are asked to look elsewhere.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on clients are let in.
    pub fn set_open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Ready: lets clients in, has a snapshot, even a stale one, and is not on its way out.
    pub fn is_ready(&self) -> bool {
        self.is_open() && self.served().is_some() && !self.is_draining()
    }
}

fn code(state: PartState) -> u8 {
    match state {
        PartState::Unknown => 0,
        PartState::Up => 1,
        PartState::Down => 2,
        PartState::Off => 3,
    }
}

fn state(code: u8) -> PartState {
    match code {
        1 => PartState::Up,
        2 => PartState::Down,
        3 => PartState::Off,
        _ => PartState::Unknown,
    }
}
