//! The start gate: the listeners of clients open when the feed has caught up once, so that nothing outdated is served from the
//! disk, or when nobody is there to catch up with; when the names of upstreams were resolved once; and when the limits' Redis knows
//! the process. It refuses to wait beyond its bounds: with all else down the gateway serves.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service as ServiceTrait;
use pingora_core::services::listening::Service;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::limiter::Limiter;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::metrics::status::{Following, PartState};
use crate::upstream::Upstreams;

/// In sum less than the five seconds within which a gateway serves whatever is down, and than the time for which the old
/// process of an upgrade still accepts.
const BOUNDS: Bounds = Bounds { answer: Duration::from_secs(1), catch_up: Duration::from_secs(3) };
/// How long the names of upstreams are waited for, counted from the start and thus within those bounds.
const NAMES_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long the limits' Redis is waited for, likewise from the start.
const LIMITS_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether the listeners listen. It takes one system call each, after the gate has opened.
const LISTEN_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long the gate stays closed at most.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// While no control plane has answered. Then what is on disk is served.
    answer: Duration,
    /// How much longer with one that has answered: one that is frozen or slow must not keep us closed.
    catch_up: Duration,
}

/// A service of listeners that starts behind the gate. In an upgrade the old process accepts meanwhile.
pub(super) struct Gated<A> {
    pub(super) service: Service<A>,
    pub(super) metrics: Arc<Metrics>,
    /// Without any there is nothing to catch up with.
    pub(super) has_control_planes: bool,
    pub(super) names: Names,
    pub(super) limiter: Arc<Limiter>,
}

/// What must be resolved before requests come.
pub(super) struct Names {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) live: Live,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServiceTrait for Gated<A> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        tokio::join!(self.wait_for_snapshot(), self.limiter.wait_introduced(LIMITS_WAIT_MAX));
        let addresses = self.service.listen_addresses().unwrap_or_default();
        let opened = note_open(&self.metrics, fds.clone(), &addresses);
        tokio::join!(self.service.start_service(fds, shutdown, listeners_per_fd), opened);
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}

impl<A> Gated<A> {
    /// The newest one, and the addresses that it names.
    async fn wait_for_snapshot(&self) {
        let began = Instant::now();
        if self.has_control_planes {
            wait_until_current(self.metrics.status.watch_feed(), BOUNDS).await;
        }
        let Names { upstreams, live } = &self.names;
        upstreams.wait_resolved(&live.load(), NAMES_WAIT_MAX.saturating_sub(began.elapsed())).await;
    }
}

async fn wait_until_current(mut feed: watch::Receiver<Following>, bounds: Bounds) {
    let caught_up = feed.wait_for(|feed| feed.has_caught_up);
    if timeout(bounds.answer, caught_up).await.is_ok() {
        return;
    }
    let settled = feed.wait_for(|feed| feed.has_caught_up || feed.state != PartState::Up);
    let is_current = matches!(timeout(bounds.catch_up, settled).await, Ok(Ok(feed)) if feed.has_caught_up);
    if !is_current {
        tracing::warn!("no control plane has brought this gateway up to date in time; serving what there is");
    }
}

/// Ready only once connections are taken: the framework lists its listeners when they are bound.
async fn note_open(metrics: &Metrics, fds: Option<ListenFds>, addresses: &[String]) {
    let all_bound = |fds: &ListenFds| {
        let fds = fds.lock();
        addresses.iter().all(|address| fds.get(address).is_some())
    };
    while fds.as_ref().is_some_and(|fds| !all_bound(fds)) {
        sleep(LISTEN_POLL_INTERVAL).await;
    }
    metrics.status.set_open();
}
