//! The table of resolved names. Readers see one immutable map; the resolver alone writes. It keeps what was known when a
//! name cannot be resolved again, and refuses a whole name for one forbidden address.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use snapshot::guard::{AddressPolicy, ForbiddenAddress};

use super::{ADDRESSES_MAX, NoAddress};

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

    /// The pools whose time has come and that nobody is resolving.
    pub(super) fn due(&self, now_us: u64) -> Vec<Arc<Pool>> {
        let names = self.names.load();
        let pools = names.values().flatten();
        let is_due = |pool: &&Arc<Pool>| pool.due_us.load(Ordering::Relaxed) <= now_us;
        pools.filter(is_due).filter(|pool| !pool.is_busy.swap(true, Ordering::Relaxed)).cloned().collect()
    }
}

impl Pool {
    fn new(name: Box<str>, port: u16) -> Pool {
        Pool {
            name,
            port,
            state: ArcSwap::from_pointee(State::Unresolved),
            turn: AtomicUsize::new(0),
            due_us: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
        }
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
