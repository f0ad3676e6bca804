//! Takes over the epochs whose process is gone: what its rings held and no batch did (or, where power failed and took it from
//! them, its journal) becomes the last batches of that epoch, and the epoch is closed. Killed itself in the middle, the next one goes on from there.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tracing::{info, warn};
use uuid::Uuid;

use super::SharedSpool;
use super::epoch::EpochDir;
use super::event_bytes::Event;
use super::journal;
use super::ring::leftovers;
use super::seal::{BATCH_EVENTS_MAX, BatchName, Pending};
use super::spool::{Sealed, Spool, SpoolError};
use super::sync::sync_once;
use crate::clock::unix_ms;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::metrics::labels::DropReason;

/// An ended epoch, locked by us.
pub(super) struct Inherited {
    pub(super) dir: EpochDir,
    pub(super) spool: SharedSpool,
}

/// Every epoch below `root` that has ended. What cannot be taken over now is left for the next time.
pub(super) fn adopt_ended(root: &Path, node: Uuid, bytes_max: u64, metrics: &Metrics) -> Vec<Inherited> {
    let ended = EpochDir::ended(root).unwrap_or_else(|error| {
        warn!(%error, "ended epochs of usage cannot be looked for");
        Vec::new()
    });
    let adopt = |dir: EpochDir| {
        let epoch = dir.epoch;
        adopt(dir, node, bytes_max, metrics).unwrap_or_else(|error| {
            warn!(%epoch, %error, "an ended epoch of usage cannot be taken over yet");
            None
        })
    };
    ended.into_iter().filter_map(adopt).collect()
}

fn adopt(dir: EpochDir, node: Uuid, bytes_max: u64, metrics: &Metrics) -> Result<Option<Inherited>, SpoolError> {
    let Some((mut spool, damage)) = Spool::recover(&dir.path, node, dir.epoch, bytes_max)? else {
        // Its process ended before any ring was made.
        dir.remove()?;
        return Ok(None);
    };
    metrics.usage.dropped(DropReason::Damaged, damage.frames);
    if damage.frames > 0 {
        warn!(epoch = %dir.epoch, batches = damage.frames, "batches of the spool were damaged; their numbers are missing");
    }
    let was_closed = spool.is_closed();
    let events = seal_leftovers(&dir, &mut spool, metrics)?;
    metrics.usage.events_recovered_total.inc_by(events);
    if events > 0 || !was_closed {
        info!(epoch = %dir.epoch, events, batches = spool.next_sequence(), "usage of an ended process was taken over");
    }
    let spool = Arc::new(Mutex::new(spool));
    sync_once(&spool, metrics);
    remove_rings(&dir)?;
    metrics.usage.epochs_adopted_total.inc();
    Ok(Some(Inherited { dir, spool }))
}

/// Behind the last batch of a closed epoch there may be leftovers too: a recorder that stood still for longer than the collector
/// waited. They make the epoch longer, and it is closed once more.
fn seal_leftovers(dir: &EpochDir, spool: &mut Spool, metrics: &Metrics) -> Result<u64, SpoolError> {
    let mut positions = spool.positions().to_vec();
    let mut events = 0;
    let mut journaled = journal::read(&dir.path)?;
    for number in 0.. {
        let bytes = match std::fs::read(dir.ring(number)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && journaled.is_empty() => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        positions.resize(positions.len().max(number + 1), 0);
        let from = positions.get(number).copied().unwrap_or(0);
        let found = leftovers(&bytes, from).with(journaled.remove(&number).unwrap_or_default(), from);
        metrics.usage.dropped(DropReason::Damaged, found.broken);
        for part in found.records.chunks(BATCH_EVENTS_MAX) {
            let mut pending = Pending::default();
            for (index, record) in part {
                let at_ms = record.at_ms.max(spool.low_watermark_ms());
                let redated = super::record::Record { at_ms, ..*record };
                pending.add(&mut Event::new(&redated));
                if let Some(position) = positions.get_mut(number) {
                    *position = index + 1;
                }
            }
            append(spool, &pending, &positions, false)?;
            events += pending.count();
        }
    }
    if !spool.is_closed() {
        append(spool, &Pending::default(), &positions, true)?;
    }
    Ok(events)
}

fn append(spool: &mut Spool, pending: &Pending, positions: &[u64], closes_epoch: bool) -> Result<(), SpoolError> {
    let low_watermark_ms = spool.low_watermark_ms();
    let name = BatchName { node: spool.node, epoch: spool.epoch, sequence: spool.next_sequence() };
    spool.append(&Sealed {
        payload: &pending.encode(&name, low_watermark_ms, closes_epoch),
        events: u32::try_from(pending.count()).unwrap_or(u32::MAX),
        at_ms: unix_ms(),
        low_watermark_ms,
        is_compacted: false,
        closes_epoch,
        positions,
    })
}

/// The epoch is closed: they hold nothing that no batch holds, and neither does the journal.
fn remove_rings(dir: &EpochDir) -> io::Result<()> {
    journal::remove(&dir.path)?;
    for number in 0.. {
        match std::fs::remove_file(dir.ring(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            removed => removed?,
        }
    }
    Ok(())
}

impl Inherited {
    /// Lets go of what is done. Answers whether anything is left; where not, the directory goes too.
    pub(super) fn free(&self) -> bool {
        lock(&self.spool).free()
    }
}
