//! Names before requests: hands those of a coming snapshot to the resolver and waits until each was tried once. It refuses to
//! wait beyond a bound, or for names that were there before: one name that nobody answers for must not hold up a revocation.

use std::collections::HashSet;
use std::sync::MutexGuard;
use std::time::Duration;

use tokio::time::timeout;
use url::Host;

use super::Upstreams;
use crate::live::Snapshot;
use crate::lock::lock;

/// How long a swap waits for names that are new with it.
pub const SWAP_WAIT_MAX: Duration = Duration::from_secs(1);

impl Upstreams {
    /// To be awaited before `next` takes the place of `served`, so that its first request finds an address.
    pub async fn prepare(&self, served: &Snapshot, next: &Snapshot) {
        if next.has_same_upstreams(served) {
            return;
        }
        let fresh = names_of(next, |place| !served.has_upstream(place));
        *self.coming() = fresh.iter().cloned().collect();
        if fresh.is_empty() {
            return;
        }
        self.wanted.notify_one();
        if timeout(SWAP_WAIT_MAX, self.wait_until_tried(fresh)).await.is_err() {
            tracing::warn!("some new upstream names are not resolved yet; serving without them");
        }
    }

    /// Waits until each name of a served snapshot was tried once; no longer than `bound`.
    pub async fn wait_resolved(&self, served: &Snapshot, bound: Duration) {
        let names = names_of(served, |_| true);
        if timeout(bound, self.wait_until_tried(names)).await.is_err() {
            tracing::warn!("some upstream names are not resolved yet; opening without them");
        }
    }

    async fn wait_until_tried(&self, mut names: Vec<(Box<str>, u16)>) {
        let mut tried = self.tried.subscribe();
        while let Some((name, port)) = names.last() {
            if self.table.is_tried(name, *port) {
                names.pop();
            } else if tried.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn coming(&self) -> MutexGuard<'_, HashSet<(Box<str>, u16)>> {
        lock(&self.coming)
    }
}

/// The names among the upstreams of a snapshot; addresses need no resolver.
fn names_of(snapshot: &Snapshot, is_meant: impl Fn(&(Host<String>, u16)) -> bool) -> Vec<(Box<str>, u16)> {
    let named = |place: &(Host<String>, u16)| match &place.0 {
        Host::Domain(name) => Some((Box::from(name.as_str()), place.1)),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    };
    snapshot.upstream_hosts().filter(|place| is_meant(place)).filter_map(named).collect()
}
