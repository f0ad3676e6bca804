//! The thread that waits for the disk, so that neither a request nor the collector does. A batch is offered to Redis only when
//! it is on the disk: a number that was seen must not come back with another content after a power failure.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;
use std::{fs::File, io, thread};

use tokio::sync::Notify;
use tracing::warn;

use super::spool::Unsynced;
use super::{SharedSpool, lock};
use crate::metrics::Metrics;

/// Tells the thread that something was appended; one word waits at most.
pub(super) type SyncSignal = SyncSender<()>;

/// It ends when the signal is dropped and all is on the disk.
pub(super) fn start(
    spool: SharedSpool,
    arrived: Arc<Notify>,
    metrics: Arc<Metrics>,
) -> io::Result<(SyncSignal, thread::JoinHandle<()>)> {
    let (signal, told) = sync_channel(1);
    let syncing = thread::Builder::new().name("usage-sync".to_owned());
    let thread = syncing.spawn(move || keep_synced(&spool, &told, &arrived, &metrics))?;
    Ok((signal, thread))
}

fn keep_synced(spool: &SharedSpool, told: &Receiver<()>, arrived: &Notify, metrics: &Metrics) {
    while told.recv().is_ok() {
        sync_once(spool, metrics);
        arrived.notify_one();
    }
    sync_once(spool, metrics);
    arrived.notify_one();
}

/// Brings all that was appended so far to the disk.
pub(super) fn sync_once(spool: &SharedSpool, metrics: &Metrics) {
    let Some(unsynced) = lock(spool).take_unsynced() else { return };
    let began = Instant::now();
    if let Err(error) = sync(&unsynced) {
        // It is in the kernel and can be read, and asking again would answer Ok without doing anything. What is lost is the
        // protection from a power failure; that is counted and said.
        metrics.usage.sync_failures_total.inc();
        warn!(%error, "the disk does not take usage; it is safe from a crash of the process only");
    }
    metrics.usage.sync_seconds.observe(began.elapsed().as_secs_f64());
    lock(spool).synced(&unsynced);
}

fn sync(unsynced: &Unsynced) -> io::Result<()> {
    unsynced.files.iter().try_for_each(|file| file.sync_data())?;
    unsynced.dir.as_ref().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
