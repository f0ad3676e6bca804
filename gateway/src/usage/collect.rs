//! The thread that reads the rings, seals what it read into batches once a second, and tells the live stream. It waits for
//! nothing but the clock and the page cache; what cannot be stored stays in the rings. What was read and is not sealed yet goes
//! into the journal at every look, for the disk to confirm.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use uuid::Uuid;

use super::SharedSpool;
use super::epoch::EpochDir;
use super::event_bytes::Event;
use super::journal::Journal;
use super::live::LiveFeed;
use super::record::Record;
use super::recorder::Rings;
use super::seal::{BatchName, Pending};
use super::spool::{Sealed, SpoolError};
use super::sync::SyncSignal;
use crate::clock::unix_ms;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::metrics::labels::DropReason;

/// How often the rings are looked at: often enough that with the time of a sync no event is off the disk for more than a tenth
/// of a second, and for rings that fill fast.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The live stream is told at one look in so many.
const LIVE_LOOKS: u64 = 2;
/// How long an event waits for others to share its batch.
const SEAL_AFTER: Duration = Duration::from_secs(1);
/// Without any event a batch still says how far time is, and that this gateway lives.
const IDLE_SEAL_AFTER: Duration = Duration::from_secs(30);
/// Batches sealed at one look, at most: 1.6 million events a second.
const SEALS_MAX: usize = 40;
/// Between the reading of the clock for an event and its being in the ring; what takes longer is dated later. In milliseconds.
const WATERMARK_SLACK_MS: i64 = 2_000;
/// Refusals of one second that are kept as events; the others are summed, so that a flood of them fills neither spool nor
/// stream.
const REFUSAL_EVENTS_MAX: u32 = 1_000;
/// From this fill of a ring on, in thousandths, a gateway that cannot store usage counts as full.
const FULL_PERMILLE: u64 = 750;
/// How often room is looked after, and how soon again when it could not be made.
const ROOM_LOOK_EVERY: Duration = Duration::from_secs(1);
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(10);
/// For records that were begun before the rings were closed.
const CLOSE_WAIT: Duration = Duration::from_millis(20);

pub(super) struct Collector {
    pub(super) node: Uuid,
    /// Locked as long as anything may be sealed.
    pub(super) dir: Arc<EpochDir>,
    pub(super) rings: Arc<Rings>,
    pub(super) spool: SharedSpool,
    pub(super) live: LiveFeed,
    pub(super) journal: Journal,
    pub(super) sync: SyncSignal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) state: State,
}

/// What is known between two looks.
pub(super) struct State {
    /// For each ring, the index behind what was read.
    positions: Vec<u64>,
    pending: Pending,
    sealed_at: Option<Instant>,
    low_watermark_ms: i64,
    wants_rows: bool,
    is_failing: bool,
    /// Events taken so far.
    taken: u64,
    looks: u64,
    /// When the look before this one began: nothing that is read now and was not then is older.
    looked_before: Instant,
    make_room_at: Option<Instant>,
    refusal_second: i64,
    refusal_events: u32,
}

impl State {
    pub(super) fn new(rings: usize) -> State {
        State {
            positions: vec![0; rings],
            pending: Pending::default(),
            sealed_at: None,
            low_watermark_ms: 0,
            wants_rows: false,
            is_failing: false,
            taken: 0,
            looks: 0,
            looked_before: Instant::now(),
            make_room_at: None,
            refusal_second: 0,
            refusal_events: 0,
        }
    }
}

impl Collector {
    /// Ends when `stop` is dropped: then everything is sealed and the epoch closed. What cannot be stored stays in the rings, and
    /// the epoch open.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(LOOK_EVERY) {
            self.look();
            self.keep_room();
        }
        self.rings.close();
        std::thread::sleep(CLOSE_WAIT);
        if !self.read_out() || !self.seal(true) {
            warn!("the last usage events could not be stored; they are in the rings for the next start");
        }
    }

    /// Looks until all is read. False: what is left cannot be stored.
    fn read_out(&mut self) -> bool {
        loop {
            let is_all = self.look();
            // Ends: nothing comes into closed rings any more, and each look takes something out or fails.
            if is_all || self.state.is_failing {
                return is_all;
            }
        }
    }

    /// Reads what is there; seals what is due. Answers whether all was read that had been written when it began.
    fn look(&mut self) -> bool {
        let (began_ms, began) = (unix_ms(), Instant::now());
        self.state.wants_rows = lock(&self.spool).wants_rows();
        let mut is_all = false;
        for _ in 0..SEALS_MAX {
            is_all = self.read();
            if is_all {
                let low = began_ms.saturating_sub(WATERMARK_SLACK_MS);
                self.state.low_watermark_ms = self.state.low_watermark_ms.max(low);
            }
            let is_stuck = self.is_due() && !self.seal(false);
            if is_all || is_stuck {
                break;
            }
        }
        self.write_journal();
        self.state.looked_before = began;
        self.state.looks += 1;
        if self.state.looks.is_multiple_of(LIVE_LOOKS) {
            self.live.flush(began_ms);
        }
        is_all
    }

    /// What is not sealed yet, so that the disk has it all the same.
    fn write_journal(&mut self) {
        let are_batches_synced = lock(&self.spool).is_synced();
        match self.journal.write(are_batches_synced, self.state.taken, self.state.looked_before) {
            Ok(is_new) => {
                // A word that waits already is enough.
                let _told = is_new.then(|| self.sync.try_send(()));
            }
            Err(error) => {
                self.metrics.usage.journal_failures_total.inc();
                debug!(%error, "usage that is not sealed yet is safe from a crash of the process only");
            }
        }
    }

    /// Whether all was read that had been written when it began.
    fn read(&mut self) -> bool {
        let rings = self.rings.clone();
        let mut is_all = true;
        for (number, ring) in rings.all.iter().enumerate() {
            let Some(mut index) = self.state.positions.get(number).copied() else { continue };
            let head = ring.head();
            while index < head && !self.is_full() {
                match ring.read(index) {
                    Some(record) => {
                        self.journal.add(number, index, &record);
                        self.take(record);
                    }
                    None => self.metrics.usage.dropped(DropReason::Damaged, 1),
                }
                index += 1;
            }
            is_all &= index >= head;
            if let Some(position) = self.state.positions.get_mut(number) {
                *position = index;
            }
        }
        is_all
    }

    /// Neither a batch nor the journal takes more.
    fn is_full(&self) -> bool {
        self.state.pending.is_full() || self.journal.is_full()
    }

    fn take(&mut self, mut record: Record) {
        self.metrics.usage.events_total.inc();
        self.state.taken += 1;
        if record.at_ms < self.state.low_watermark_ms {
            // It was promised that nothing older would come.
            self.metrics.usage.events_redated_total.inc();
            record.at_ms = self.state.low_watermark_ms;
        }
        let mut event = Event::new(&record);
        self.live.add(&mut event);
        if self.state.wants_rows || self.is_one_refusal_too_many(&record) {
            self.metrics.usage.events_summed_total.inc();
            self.state.pending.add_to_rows(&record);
        } else {
            self.state.pending.add(&mut event);
        }
    }

    fn is_one_refusal_too_many(&mut self, record: &Record) -> bool {
        if !record.is_refusal() {
            return false;
        }
        let second = record.at_ms.div_euclid(1_000);
        if second > self.state.refusal_second {
            (self.state.refusal_second, self.state.refusal_events) = (second, 0);
        }
        self.state.refusal_events = self.state.refusal_events.saturating_add(1);
        self.state.refusal_events > REFUSAL_EVENTS_MAX
    }

    fn is_due(&self) -> bool {
        let Some(sealed_at) = self.state.sealed_at else { return true };
        let wait = if self.state.pending.is_empty() { IDLE_SEAL_AFTER } else { SEAL_AFTER };
        self.is_full() || sealed_at.elapsed() >= wait
    }

    /// Sealing is the commit point: only what is in the spool may be written over in the rings. False: it could not be stored.
    fn seal(&mut self, closes_epoch: bool) -> bool {
        let stored = match self.store(closes_epoch) {
            Err(_) if self.state.pending.has_events() => {
                let events = self.state.pending.compact();
                self.metrics.usage.events_summed_total.inc_by(events);
                self.store(closes_epoch)
            }
            stored => stored,
        };
        if let Err(error) = stored {
            self.note_failure(&error);
            return false;
        }
        for (ring, position) in self.rings.all.iter().zip(&self.state.positions) {
            ring.release(*position);
        }
        self.metrics.usage.batches_sealed_total.inc();
        self.state.pending.clear();
        self.journal.sealed(self.state.taken, self.state.looked_before);
        self.state.sealed_at = Some(Instant::now());
        if std::mem::take(&mut self.state.is_failing) {
            info!("usage is being stored again");
        }
        // A word that waits already is enough.
        let _told = self.sync.try_send(());
        true
    }

    fn store(&self, closes_epoch: bool) -> Result<(), SpoolError> {
        let (state, mut spool) = (&self.state, lock(&self.spool));
        let name = BatchName { node: self.node, epoch: self.dir.epoch, sequence: spool.next_sequence() };
        let payload = state.pending.encode(&name, state.low_watermark_ms, closes_epoch);
        spool.append(&Sealed {
            payload: &payload,
            events: u32::try_from(state.pending.count()).unwrap_or(u32::MAX),
            at_ms: unix_ms(),
            low_watermark_ms: state.low_watermark_ms,
            is_compacted: !state.pending.has_events(),
            closes_epoch,
            positions: &state.positions,
        })
    }

    fn note_failure(&mut self, error: &SpoolError) {
        self.metrics.usage.store_failures_total.inc();
        if !std::mem::replace(&mut self.state.is_failing, true) {
            warn!(%error, "usage cannot be stored; it stays in the rings as long as they have room");
        }
    }

    /// Makes room in the spool where it runs short, and says how full everything is.
    fn keep_room(&mut self) {
        if self.state.make_room_at.is_none_or(|at| Instant::now() >= at) {
            let wait = self.make_room();
            self.state.make_room_at = Some(Instant::now() + wait);
        }
        let fill = self.rings.fill_permille();
        self.metrics.usage.ring_fill_ratio.set(f64::from(u32::try_from(fill).unwrap_or(u32::MAX)) / 1_000.0);
        self.rings.set_full(self.state.is_failing && fill >= FULL_PERMILLE);
    }

    /// Answers when to look again.
    fn make_room(&mut self) -> Duration {
        let mut spool = lock(&self.spool);
        // Without a next file only sums are taken; that is seen in the spool itself.
        drop(spool.prepare());
        if !spool.wants_compaction() {
            return ROOM_LOOK_EVERY;
        }
        spool.free();
        match spool.compact() {
            Ok(Some(done)) => {
                self.metrics.usage.events_summed_total.inc_by(done.events);
                if let Err(error) = done.synced {
                    self.metrics.usage.sync_failed(&error);
                }
                info!(events = done.events, rows = done.rows, "usage that waits for Redis was summed up");
                // More of it in a moment: the rings come first.
                LOOK_EVERY
            }
            Ok(None) => ROOM_LOOK_EVERY,
            Err(error) => {
                self.metrics.usage.compaction_failed(&error);
                ROOM_RETRY_AFTER
            }
        }
    }
}
