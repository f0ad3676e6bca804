//! Which address a request goes to: resolved in the background, allowed by the guard, not ejected, and not the one that just
//! failed. It refuses to resolve a name while a request waits, and to connect to an address that it has not checked.

mod health;
mod peer;
mod ready;
mod resolver;
mod table;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snapshot::guard::{AddressPolicy, ForbiddenAddress};
use snapshot::record::Endpoint;
use snapshot::target::Target;
use tokio::sync::{Notify, watch};
use url::Host;
use uuid::Uuid;

use crate::clock::Now;
use crate::metrics::Metrics;
use crate::settings;
use health::HealthBook;
pub use peer::PeerPlan;
use peer::or_default;
pub use ready::SWAP_WAIT_MAX;
pub use resolver::{Lookup, SystemLookup, keep_resolved};
use table::Table;

/// The first addresses of a name are used; the rest of a longer answer is left alone.
pub const ADDRESSES_MAX: usize = 16;

/// Why there is no address to go to. The client learns no more than that the upstream cannot be reached.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoAddress {
    #[error("the name is not resolved yet")]
    Unresolved,
    #[error(transparent)]
    Forbidden(#[from] ForbiddenAddress),
    #[error("every address failed lately")]
    AllEjected,
    #[error("every address was tried for this request")]
    AllTried,
}

/// All that is known about upstreams. Lives beside the snapshot, so that health survives a swap.
pub struct Upstreams {
    policy: AddressPolicy,
    table: Table,
    health: HealthBook,
    settings: settings::Upstream,
    metrics: Arc<Metrics>,
    /// Wakes the resolver: names are coming, or a request met one that nobody has resolved.
    wanted: Notify,
    /// Names of a snapshot that waits for them; followed beside those of the served one.
    coming: Mutex<HashSet<(Box<str>, u16)>>,
    /// Tells of each look-up that has ended.
    tried: watch::Sender<()>,
}

impl Upstreams {
    pub fn new(settings: settings::Upstream, own_listeners: Vec<SocketAddr>, metrics: Arc<Metrics>) -> Upstreams {
        let policy = AddressPolicy { allow: settings.allow.clone(), own_listeners };
        let (table, health) = (Table::default(), HealthBook::default());
        let (wanted, coming, tried) = (Notify::new(), Mutex::default(), watch::Sender::new(()));
        Upstreams { policy, table, health, settings, metrics, wanted, coming, tried }
    }

    /// The next address for a target, in turn. `tried` are those that already failed for this request.
    ///
    /// The address is checked here once more, right before the connection that is made to exactly this one.
    pub fn choose(
        &self,
        organization: Uuid,
        target: &Target,
        tried: &[SocketAddr],
        now: Now,
    ) -> Result<SocketAddr, NoAddress> {
        let port = target.port;
        match &target.host {
            Host::Ipv4(ip) => self.choose_from(organization, &[SocketAddr::from((*ip, port))], 0, tried, now),
            Host::Ipv6(ip) => self.choose_from(organization, &[SocketAddr::from((*ip, port))], 0, tried, now),
            Host::Domain(name) => {
                let Some(pool) = self.table.find(name, port) else {
                    self.wanted.notify_one();
                    return Err(NoAddress::Unresolved);
                };
                let addresses = pool.addresses();
                let turn = pool.next_turn();
                self.choose_from(organization, addresses.as_deref().map_err(Clone::clone)?, turn, tried, now)
            }
        }
    }

    fn choose_from(
        &self,
        organization: Uuid,
        addresses: &[SocketAddr],
        turn: usize,
        tried: &[SocketAddr],
        now: Now,
    ) -> Result<SocketAddr, NoAddress> {
        if addresses.is_empty() {
            return Err(NoAddress::Unresolved);
        }
        let in_turn = addresses.iter().cycle().skip(turn % addresses.len()).take(addresses.len());
        let mut nothing = NoAddress::AllTried;
        for address in in_turn {
            if tried.contains(address) {
                continue;
            }
            if !self.health.allows(organization, *address, now) {
                nothing = NoAddress::AllEjected;
                continue;
            }
            self.policy.check(*address)?;
            return Ok(*address);
        }
        Err(nothing)
    }

    /// Whether another address is worth a try. Unlike `choose`, it takes no turn and no probe.
    pub fn has_another(&self, organization: Uuid, target: &Target, tried: &[SocketAddr], now: Now) -> bool {
        let Host::Domain(name) = &target.host else { return false };
        let Some(pool) = self.table.find(name, target.port) else { return false };
        let Ok(addresses) = pool.addresses() else { return false };
        let worth =
            |address: &&SocketAddr| !tried.contains(*address) && self.health.is_serving(organization, **address, now);
        addresses.iter().any(|address| worth(&address))
    }

    /// A connection failed or nothing came back in time.
    pub fn failed(&self, organization: Uuid, address: SocketAddr, now: Now) {
        if self.health.failed(organization, address, now) {
            self.metrics.upstream_ejections_total.inc();
            tracing::warn!(%address, %organization, "an upstream's address failed repeatedly and is left alone for a while");
        }
    }

    /// An answer came, whatever its status.
    pub fn succeeded(&self, organization: Uuid, address: SocketAddr) {
        self.health.succeeded(organization, address);
    }

    /// How long an upstream may let one write wait.
    pub fn write_timeout(&self, endpoint: &Endpoint) -> Duration {
        or_default(endpoint.timeouts.write_ms, self.settings.write_timeout)
    }

    /// How long the handshake of a tunnel may take.
    pub fn handshake_timeout(&self, endpoint: &Endpoint) -> Duration {
        or_default(endpoint.timeouts.read_ms, self.settings.read_timeout)
    }

    /// How to connect for one endpoint. Connections are shared within its product alone.
    pub fn plan<'a>(&'a self, product: Uuid, endpoint: &'a Endpoint) -> PeerPlan<'a> {
        PeerPlan { product, endpoint, defaults: &self.settings }
    }
}
