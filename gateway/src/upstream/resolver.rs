//! The background resolver: follows the names that the snapshot mentions, asks again when an answer grows old, and keeps
//! the old one when nobody answers. No request ever waits for it.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use url::Host;

use super::Upstreams;
use super::table::Pool;
use crate::clock::Now;
use crate::live::{Live, Snapshot};
use crate::metrics::labels::ResolveResult;

/// An answer is believed at least so long, so that a TTL of zero does not become a flood.
const TTL_MIN: Duration = Duration::from_secs(5);
/// And at most so long, so that a move is noticed.
const TTL_MAX: Duration = Duration::from_secs(300);
/// After a failed look-up; each further one doubles it.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// A name that never answers costs a slot this seldom in the end.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A look-up that takes longer counts as failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups under way at a time.
const LOOKUPS_MAX: usize = 64;
/// Of them for names whose last look-up failed: names that nobody answers for cannot hold up those that work.
const LOOKUPS_OF_FAILED_MAX: usize = LOOKUPS_MAX / 2;
/// How often the table is searched for names that are due.
const TICK: Duration = Duration::from_millis(500);
/// Swaps that come in a burst are answered once: walking all targets costs time in proportion to them.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How often trouble is swept, in ticks.
const SWEEP_TICKS: u32 = 120;

/// Where addresses come from; tests bring their own.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses and how long they are good for. Errors: a text for the log.
    fn lookup(&self, name: &str) -> impl Future<Output = Result<(Vec<IpAddr>, Duration), String>> + Send;
}

/// The machine's own resolver configuration, hosts file included.
pub struct SystemLookup {
    resolver: Result<Resolver<TokioRuntimeProvider>, String>,
}

impl SystemLookup {
    /// Must be called within the runtime that looks up.
    pub fn new() -> SystemLookup {
        let builder = Resolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "the system's resolver configuration cannot be read; only the hosts file is used");
            Resolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        let mut builder = builder;
        // Half of the machines that have IPv6 addresses have no IPv6 route.
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        SystemLookup { resolver: builder.build().map_err(|error| error.to_string()) }
    }
}

impl Default for SystemLookup {
    fn default() -> Self {
        SystemLookup::new()
    }
}

impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let found = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        Ok((found.iter().collect(), ttl))
    }
}

/// Resolves until told to stop.
pub async fn keep_resolved<L: Lookup>(
    upstreams: Arc<Upstreams>,
    live: Live,
    lookup: Arc<L>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut swaps = live.subscribe();
    let mut lookups = Lookups::default();
    let mut ticks: u32 = 0;
    let mut next_tick = tokio::time::Instant::now() + TICK;
    let mut followed = live.load();
    upstreams.follow(&followed, &mut lookups);
    loop {
        upstreams.start_lookups(&lookup, &mut lookups);
        tokio::select! {
            () = async { drop(shutdown.wait_for(|stop| *stop).await) } => return,
            swapped = swaps.changed() => {
                if swapped.is_err() {
                    return;
                }
                tokio::time::sleep(DEBOUNCE).await;
                let next = live.load();
                if !next.has_same_upstreams(&followed) {
                    upstreams.follow(&next, &mut lookups);
                }
                followed = next;
            }
            () = upstreams.wanted.notified() => {
                // Names of a coming snapshot, or a request that was quicker than the notice of the swap.
                followed = live.load();
                upstreams.follow(&followed, &mut lookups);
            }
            Some(_) = lookups.running.join_next(), if !lookups.running.is_empty() => {}
            () = tokio::time::sleep_until(next_tick) => {
                next_tick = tokio::time::Instant::now() + TICK;
                lookups.waiting = upstreams.table.due(Now::read().mono_us).into();
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(SWEEP_TICKS) {
                    upstreams.health.sweep(Now::read());
                }
            }
        }
    }
}

/// Look-ups under way, and names whose turn comes when one ends.
struct Lookups {
    running: JoinSet<()>,
    waiting: VecDeque<Arc<Pool>>,
    of_failed: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        let of_failed = Arc::new(Semaphore::new(LOOKUPS_OF_FAILED_MAX));
        Lookups { running: JoinSet::new(), waiting: VecDeque::new(), of_failed }
    }
}

impl Upstreams {
    /// Takes over the names of a snapshot and of the one that is about to follow it.
    fn follow(&self, snapshot: &Snapshot, lookups: &mut Lookups) {
        let mut names: HashSet<(Box<str>, u16)> = self.coming().clone();
        for (host, port) in snapshot.upstream_hosts() {
            if let Host::Domain(name) = host {
                names.insert((Box::from(name.as_str()), *port));
            }
        }
        self.table.set_names(&names);
        lookups.waiting = self.table.due(Now::read().mono_us).into();
        self.metrics.upstream_hosts.set(i64::try_from(names.len()).unwrap_or(i64::MAX));
    }

    fn start_lookups<L: Lookup>(self: &Arc<Self>, lookup: &Arc<L>, lookups: &mut Lookups) {
        while lookups.running.len() < LOOKUPS_MAX {
            let Some(pool) = lookups.waiting.pop_front() else { return };
            let slot = pool.has_failed().then(|| lookups.of_failed.clone().try_acquire_owned());
            // Without a slot its turn comes at a later tick.
            let Ok(slot) = slot.transpose() else { continue };
            if pool.is_busy.swap(true, Ordering::Relaxed) {
                continue;
            }
            let (upstreams, lookup) = (self.clone(), lookup.clone());
            lookups.running.spawn(async move {
                upstreams.resolve(&pool, &*lookup).await;
                drop(slot);
            });
        }
    }

    /// One look-up and what follows from it.
    pub(super) async fn resolve(&self, pool: &Pool, lookup: &impl Lookup) {
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup.lookup(&pool.name)).await;
        let again_in = match found.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok((addresses, ttl)) if !addresses.is_empty() => {
                pool.note_found();
                if let Err(forbidden) = pool.set(&addresses, &self.policy) {
                    self.metrics.resolved(ResolveResult::Forbidden);
                    tracing::warn!(name = %pool.name, %forbidden, "an upstream's name is refused");
                } else {
                    self.metrics.resolved(ResolveResult::Resolved);
                }
                ttl.clamp(TTL_MIN, TTL_MAX)
            }
            Ok(_) => {
                self.metrics.resolved(ResolveResult::Failed);
                retry_wait(pool.note_failed())
            }
            Err(error) => {
                self.metrics.resolved(ResolveResult::Failed);
                tracing::warn!(name = %pool.name, %error, "an upstream's name cannot be resolved; what was known stays");
                retry_wait(pool.note_failed())
            }
        };
        pool.end_lookup(Now::read().after(again_in).mono_us);
        self.tried.send_replace(());
    }
}

/// How long a name is left alone that failed once more after so many failures in a row.
fn retry_wait(failures_before: u32) -> Duration {
    RETRY_MIN.saturating_mul(1u32.checked_shl(failures_before).unwrap_or(u32::MAX)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests;
