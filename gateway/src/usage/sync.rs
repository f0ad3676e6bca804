//! The thread that waits for the disk, so that neither a request nor the collector does: for batches, and for the journal of
//! what is in none yet. A batch is offered to Redis only when it is on the disk: a number that was seen must not come back with
//! another content after a power failure.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;
use std::{fs::File, io, thread};

use tokio::sync::Notify;

use super::SharedSpool;
use super::journal::JournalFile;
use super::spool::Unsynced;
use crate::lock::lock;
use crate::metrics::Metrics;

/// Tells the thread that something was appended; one word waits at most.
pub(super) type SyncSignal = SyncSender<()>;

/// It ends when the signal is dropped and all is on the disk.
pub(super) fn start(
    spool: SharedSpool,
    journal: Arc<JournalFile>,
    arrived: Arc<Notify>,
    metrics: Arc<Metrics>,
) -> io::Result<(SyncSignal, thread::JoinHandle<()>)> {
    let (signal, told) = sync_channel(1);
    let syncing = thread::Builder::new().name("usage-sync".to_owned());
    let thread = syncing.spawn(move || {
        let mut confirmed = 0;
        while told.recv().is_ok() {
            confirmed = sync_all(&spool, &journal, confirmed, &metrics);
            arrived.notify_one();
        }
        sync_all(&spool, &journal, confirmed, &metrics);
        arrived.notify_one();
    })?;
    Ok((signal, thread))
}

/// Batches first: they are waited for. `confirmed`: events that the disk had before; answers how many it has now.
fn sync_all(spool: &SharedSpool, journal: &JournalFile, confirmed: u64, metrics: &Metrics) -> u64 {
    let covered = journal.cover();
    let are_batches_there = sync_once(spool, metrics);
    let began = Instant::now();
    let is_journal_there = !journal.take_dirty() || note(journal.sync(), began, metrics);
    if !are_batches_there || !is_journal_there {
        return confirmed;
    }
    metrics.usage.events_synced_total.inc_by(covered.events.saturating_sub(confirmed));
    if let Some(since) = covered.since {
        metrics.usage.exposed_seconds.observe(since.elapsed().as_secs_f64());
    }
    covered.events
}

/// Brings all batches that were appended so far to the disk. Answers whether it took them.
pub(super) fn sync_once(spool: &SharedSpool, metrics: &Metrics) -> bool {
    let Some(unsynced) = lock(spool).take_unsynced() else { return true };
    let began = Instant::now();
    let is_there = note(sync(&unsynced), began, metrics);
    lock(spool).synced(&unsynced);
    is_there
}

fn note(synced: io::Result<()>, began: Instant, metrics: &Metrics) -> bool {
    metrics.usage.sync_seconds.observe(began.elapsed().as_secs_f64());
    if let Err(error) = &synced {
        metrics.usage.sync_failed(error);
    }
    synced.is_ok()
}

fn sync(unsynced: &Unsynced) -> io::Result<()> {
    unsynced.files.iter().try_for_each(|file| file.sync_data())?;
    unsynced.dir.as_ref().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
