//! Follows the control plane: takes snapshots and changes in, acknowledges what is served, keeps the last good snapshot on
//! disk and boots from it. Refuses what is out of order or damaged and asks again; the requests never notice.

mod assembly;
mod building;
mod control_plane;
mod conversation;
pub mod disk;
mod identity;
mod keeper;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ::settings::Secret;
use tokio::sync::watch;
use tracing::{info, warn};

use self::assembly::AssemblyFault;
pub use self::control_plane::{ControlPlane, ControlPlaneFault};
use self::conversation::{Conversation, FeedFault};
pub use self::disk::{DiskFault, DiskSnapshot, FormatFault, Loaded, LoadedFrom, SNAPSHOT_FILE};
pub use self::identity::{Identity, IdentityFault};
use crate::clock::{Backoff, unix_ms};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::metrics::labels::ApplyFailure;
use crate::metrics::status::{PartState, Served, Source};
use crate::upstream::Upstreams;

/// Waits between attempts to reach a control plane.
const RECONNECT_WAIT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Whom to follow, and as whom.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// Any of them will do; they are tried in turn.
    pub control_planes: Vec<ControlPlane>,
    pub token: Option<Secret>,
    /// What a `https` control plane's certificate must be signed by, as PEM.
    pub ca_pem: Option<Vec<u8>>,
    pub identity: Identity,
}

/// Serves the last good snapshot from disk, if there is one. For the start, before the first request; blocks on the disk.
/// Answers whether something is served.
pub fn boot(live: &Live, disk: &DiskSnapshot, metrics: &Metrics) -> bool {
    let loaded = match disk.load() {
        Ok(loaded) => loaded,
        Err(DiskFault::Nothing) => {
            info!("no snapshot on disk; not ready until a control plane answers");
            return false;
        }
        Err(fault) => {
            warn!(%fault, "the snapshot on disk is not usable; not ready until a control plane answers");
            return false;
        }
    };
    let Some(token) = loaded.snapshot.token else { return false };
    let refused = loaded.snapshot.counts().refused;
    metrics.config.refused_records.set(i64::try_from(refused).unwrap_or(i64::MAX));
    live.store(loaded.snapshot);
    metrics.status.set_served(Served { token, source: Source::Disk }, loaded.saved_at_ms);
    metrics.status.set_saved(token);
    let (revision, from, changes) = (token.revision, loaded.from, loaded.changes);
    info!(revision, ?from, changes, "serving the last good snapshot from disk");
    true
}

/// Follows until told to stop, and keeps the last good snapshot on disk meanwhile.
pub async fn follow(
    live: Live,
    disk: Arc<DiskSnapshot>,
    settings: FeedSettings,
    metrics: Arc<Metrics>,
    upstreams: Arc<Upstreams>,
    shutdown: watch::Receiver<bool>,
) {
    let keeping = keeper::keep(live.clone(), disk, metrics.clone(), shutdown.clone());
    let mut stop = shutdown;
    let following = async {
        tokio::select! {
            () = follow_for_ever(live, settings, metrics, &upstreams) => {}
            () = async { drop(stop.wait_for(|stop| *stop).await) } => {}
        }
    };
    tokio::join!(keeping, following);
}

async fn follow_for_ever(live: Live, settings: FeedSettings, metrics: Arc<Metrics>, upstreams: &Upstreams) {
    let mut backoff = Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX);
    let mut must_have_full = false;
    // An empty list is possible: a gateway that only ever serves what is on its disk.
    for plane in settings.control_planes.iter().cycle() {
        let mut conversation = Conversation::new(&live, &settings, &metrics, upstreams, must_have_full);
        let fault = conversation.hold(plane).await;
        // After an older one it says again what it has: only so can a control plane find out that its database was restored.
        must_have_full = !fault.is_older() && (conversation.must_have_full() || fault.asks_for_full());
        if conversation.has_learnt() {
            backoff.reset();
        }
        note_end(&metrics, plane, &fault);
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Logged when the connection is lost and when something was wrong, not at every attempt in vain.
fn note_end(metrics: &Metrics, plane: &ControlPlane, fault: &FeedFault) {
    if let Some(reason) = fault.apply_failure() {
        metrics.config.apply_failed(reason);
    }
    if metrics.status.feed() != PartState::Down || fault.apply_failure().is_some() {
        warn!(%plane, %fault, "the feed ended; serving what there is");
    }
    metrics.status.set_feed(PartState::Down);
}

impl FeedFault {
    /// What the counter of failures says; None: nothing was wrong with what was sent.
    fn apply_failure(&self) -> Option<ApplyFailure> {
        match self {
            FeedFault::Connect(_)
            | FeedFault::Refused(_)
            | FeedFault::Ended
            | FeedFault::Silence
            | FeedFault::Setup(_) => None,
            FeedFault::Assembly(fault) => Some(fault.reason()),
            FeedFault::Crashed => Some(ApplyFailure::Crashed),
        }
    }

    fn is_older(&self) -> bool {
        matches!(self, FeedFault::Assembly(AssemblyFault::Older { .. }))
    }

    fn asks_for_full(&self) -> bool {
        matches!(self.apply_failure(), Some(ApplyFailure::OutOfOrder | ApplyFailure::Crashed))
    }
}

/// Notes that `live` was given another snapshot by the feed.
fn note_served(metrics: &Metrics, token: snapshot::token::Token, refusals: usize) {
    let now_ms = unix_ms();
    metrics.status.set_served(Served { token, source: Source::Feed }, now_ms);
    metrics.config.last_applied_timestamp_seconds.set(now_ms / 1_000);
    metrics.config.refused_records.set(i64::try_from(refusals).unwrap_or(i64::MAX));
}
