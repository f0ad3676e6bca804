//! Brings what is served to the disk after it changed, at most once a second, away from the requests: the changes, and the whole
//! where they do not lead there. A disk that is full or read-only is counted and tried again; serving goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot::token::Token;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::disk::{DiskFault, DiskSnapshot};
use crate::clock::unix_ms;
use crate::live::{Live, Snapshot};
use crate::metrics::Metrics;

/// The least time between two writes, and between two looks at the changes while the whole is written.
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
        failing = !save(&live, &disk, &metrics, &shutdown, (&mut saved, failing)).await;
        tokio::select! {
            () = told(&mut shutdown) => break,
            () = sleep(SAVE_INTERVAL) => {}
        }
    }
    save(&live, &disk, &metrics, &shutdown, (&mut saved, failing)).await;
}

async fn told(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await);
}

/// Answers whether what is served is on disk.
async fn save(
    live: &Live,
    disk: &Arc<DiskSnapshot>,
    metrics: &Metrics,
    shutdown: &watch::Receiver<bool>,
    (saved, was_failing): (&mut Option<Token>, bool),
) -> bool {
    let serving = live.load();
    if serving.token.is_none() || serving.token == *saved {
        return true;
    }
    let wanted = serving.token;
    let written = {
        let (live, disk, shutdown) = (live.clone(), disk.clone(), shutdown.clone());
        spawn_blocking(move || write(&live, &disk, &serving, || *shutdown.borrow())).await
    };
    // Also where only the changes were written.
    if let Some(token) = disk.stands_at() {
        metrics.status.set_saved(token);
    }
    match written {
        Ok(Ok(token)) => {
            *saved = Some(token);
            metrics.config.saves_total.inc();
            let is_whole = reaches(token, wanted);
            if was_failing && is_whole {
                info!("the last good snapshot is on disk again");
            }
            is_whole
        }
        // In an upgrade, until the older process has ended.
        Ok(Err(DiskFault::Held)) => false,
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

/// Answers where the disk stands: at `serving`, or beyond. The changes are logged first, whatever becomes of the whole: a restart
/// shall not revive what was revoked.
fn write(
    live: &Live,
    disk: &DiskSnapshot,
    serving: &Snapshot,
    must_hurry: impl Fn() -> bool,
) -> Result<Token, DiskFault> {
    let wants_whole = !must_hurry() && disk.wants_whole();
    match append(live, disk) {
        Ok(token) if reaches(token, serving.token) && !wants_whole => return Ok(token),
        Ok(_) | Err(DiskFault::NotFollowing) => {}
        Err(_) if wants_whole => {}
        Err(fault) => return Err(fault),
    }
    let mut looked = Instant::now();
    let token = disk.save(serving, unix_ms(), || {
        if looked.elapsed() >= SAVE_INTERVAL {
            looked = Instant::now();
            // What does not follow, or cannot be written, waits until the whole is.
            drop(append(live, disk));
        }
        must_hurry()
    })?;
    live.forget_journal(token);
    Ok(token)
}

fn append(live: &Live, disk: &DiskSnapshot) -> Result<Token, DiskFault> {
    let token = disk.append(&live.journal_entries())?;
    live.forget_journal(token);
    Ok(token)
}

fn reaches(token: Token, wanted: Option<Token>) -> bool {
    wanted.is_some_and(|wanted| wanted.epoch == token.epoch && wanted.revision <= token.revision)
}
