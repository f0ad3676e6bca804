//! Writes the served snapshot to disk after it changed, at most once a second, away from the requests. A disk that is full or
//! read-only is counted and tried again; serving goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::disk::DiskSnapshot;
use crate::clock::unix_ms;
use crate::live::Live;
use crate::metrics::Metrics;

/// The least time between two writes.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a failed write the next one is tried.
const RETRY_WAIT: Duration = Duration::from_secs(5);

pub(super) async fn keep(
    live: Live,
    disk: Arc<DiskSnapshot>,
    metrics: Arc<Metrics>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut changes = live.subscribe();
    // What is served at the start came from this very disk.
    let mut saved = *changes.borrow_and_update();
    let mut failing = false;
    loop {
        tokio::select! {
            () = told(&mut shutdown) => break,
            changed = changes.changed() => if changed.is_err() { break },
            () = sleep(RETRY_WAIT), if failing => {}
        }
        failing = !save(&live, &disk, &metrics, &mut saved, failing).await;
        tokio::select! {
            () = told(&mut shutdown) => break,
            () = sleep(SAVE_INTERVAL) => {}
        }
    }
    save(&live, &disk, &metrics, &mut saved, failing).await;
}

async fn told(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await);
}

/// Answers whether what is served is on disk.
async fn save(
    live: &Live,
    disk: &Arc<DiskSnapshot>,
    metrics: &Metrics,
    saved: &mut Option<snapshot::token::Token>,
    was_failing: bool,
) -> bool {
    let serving = live.load();
    let Some(token) = serving.token.filter(|token| Some(*token) != *saved) else { return true };
    let disk = disk.clone();
    let written = spawn_blocking(move || disk.save(token, unix_ms(), serving.records())).await;
    match written {
        Ok(Ok(())) => {
            *saved = Some(token);
            metrics.status.set_saved(token);
            metrics.config.saves_total.inc();
            if was_failing {
                info!("the last good snapshot is on disk again");
            }
            true
        }
        Ok(Err(fault)) => {
            metrics.config.save_failures_total.inc();
            if !was_failing {
                warn!(%fault, "the snapshot was not written to disk; serving goes on");
            }
            false
        }
        Err(_) => {
            metrics.config.save_failures_total.inc();
            warn!("writing the snapshot crashed; serving goes on");
            false
        }
    }
}
