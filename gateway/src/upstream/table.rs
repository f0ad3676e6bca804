//! The table of resolved names. Readers see one immutable map; the resolver alone writes. It keeps what was known when a
//! name cannot be resolved again, and refuses a whole name for one forbidden address.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use snapshot::guard::{AddressPolicy, ForbiddenAddress};

use super::{ADDRESSES_MAX, NoAddress};
use crate::clock::Now;

/// Names and ports that the snapshot's targets mention.
#[derive(Default)]
pub(super) struct Table {
    names: ArcSwap<HashMap<Box<str>, Vec<Arc<Pool>>>>,
}

/// One name with one port.
pub(super) struct Pool {
    pub(super) name: Box<str>,
    pub(super) port: u16,
    state: ArcSwap<State>,
    turn: AtomicUsize,
    /// When to resolve next, in microseconds of the monotonic clock.
    pub(super) due_us: AtomicU64,
    /// A look-up is under way.
    pub(super) is_busy: AtomicBool,
    /// One look-up has ended, however.
    is_tried: AtomicBool,
    /// Look-ups in a row that found nothing.
    failures: AtomicU32,
}

enum State {
    Unresolved,
    Known(Arc<[SocketAddr]>),
    Refused(ForbiddenAddress),
}

impl Table {
    pub(super) fn find(&self, name: &str, port: u16) -> Option<Arc<Pool>> {
        self.names.load().get(name)?.iter().find(|pool| pool.port == port).cloned()
    }

    /// Makes the table hold exactly the wanted names; pools that stay keep what they know. Returns whether it changed.
    pub(super) fn set_names(&self, wanted: &HashSet<(Box<str>, u16)>) -> bool {
        let old = self.names.load_full();
        let is_same = old.values().map(Vec::len).sum::<usize>() == wanted.len()
            && wanted.iter().all(|(name, port)| self.find(name, *port).is_some());
        if is_same {
            return false;
        }
        let mut names: HashMap<Box<str>, Vec<Arc<Pool>>> = HashMap::with_capacity(wanted.len());
        for (name, port) in wanted {
            let kept = old.get(name).and_then(|pools| pools.iter().find(|pool| pool.port == *port)).cloned();
            let pool = kept.unwrap_or_else(|| Arc::new(Pool::new(name.clone(), *port)));
            names.entry(name.clone()).or_default().push(pool);
        }
        self.names.store(Arc::new(names));
        true
    }

    /// The pools whose time has come and that nobody is resolving: those never tried first, for requests may wait for them,
    /// then those that have waited longest.
    pub(super) fn due(&self, now_us: u64) -> Vec<Arc<Pool>> {
        let names = self.names.load();
        let is_due =
            |pool: &&Arc<Pool>| pool.due_us.load(Ordering::Relaxed) <= now_us && !pool.is_busy.load(Ordering::Relaxed);
        let mut due: Vec<Arc<Pool>> = names.values().flatten().filter(is_due).cloned().collect();
        due.sort_by_cached_key(|pool| (pool.is_tried(), pool.due_us.load(Ordering::Relaxed)));
        due
    }

    /// Whether the name is followed and was looked up once.
    pub(super) fn is_tried(&self, name: &str, port: u16) -> bool {
        self.find(name, port).is_some_and(|pool| pool.is_tried())
    }
}

impl Pool {
    fn new(name: Box<str>, port: u16) -> Pool {
        Pool {
            name,
            port,
            state: ArcSwap::from_pointee(State::Unresolved),
            turn: AtomicUsize::new(0),
            due_us: AtomicU64::new(Now::read().mono_us),
            is_busy: AtomicBool::new(false),
            is_tried: AtomicBool::new(false),
            failures: AtomicU32::new(0),
        }
    }

    pub(super) fn is_tried(&self) -> bool {
        self.is_tried.load(Ordering::Acquire)
    }

    /// Whether the last look-up found nothing.
    pub(super) fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0
    }

    pub(super) fn note_found(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Answers how many look-ups in a row had failed before this one.
    pub(super) fn note_failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed)
    }

    /// A look-up has ended; what it found can be read by whoever sees that.
    pub(super) fn end_lookup(&self, due_us: u64) {
        self.due_us.store(due_us, Ordering::Relaxed);
        self.is_tried.store(true, Ordering::Release);
        self.is_busy.store(false, Ordering::Relaxed);
    }

    pub(super) fn addresses(&self) -> Result<Arc<[SocketAddr]>, NoAddress> {
        match &**self.state.load() {
            State::Known(addresses) => Ok(addresses.clone()),
            State::Unresolved => Err(NoAddress::Unresolved),
            State::Refused(forbidden) => Err(NoAddress::Forbidden(forbidden.clone())),
        }
    }

    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes in what a look-up found. Errors: the address for which the name is refused.
    pub(super) fn set(&self, found: &[IpAddr], policy: &AddressPolicy) -> Result<(), ForbiddenAddress> {
        let mut addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect();
        if let Err(forbidden) = policy.check_all(&addresses) {
            self.state.store(Arc::new(State::Refused(forbidden.clone())));
            return Err(forbidden);
        }
        // Servers rotate their answers; a stable order keeps the turns fair.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        if !addresses.is_empty() {
            self.state.store(Arc::new(State::Known(addresses.into())));
        }
        Ok(())
    }
}
