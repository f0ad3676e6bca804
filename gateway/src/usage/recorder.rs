//! The requests' end: puts a record into this thread's ring, without a lock, an allocation, a system call or a wake-up. Where
//! that ring is full there is a spare one for all threads; where that is full too the event is lost, and counted.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::OnFull;
use super::mapping::Mapping;
use super::record::Record;
use super::ring::{Ring, Writer};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::metrics::labels::DropReason;

/// Refusals may fill a ring up to one part in so many, so that a flood of them displaces nothing that can be billed.
const REFUSALS_SHARE: u64 = 2;

/// Tells the recorders of one process apart: a thread may meet several, in tests.
static RECORDERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SEAT: RefCell<Seat> = const { RefCell::new(Seat { recorder: 0, writer: None }) };
}

/// Where this thread writes.
struct Seat {
    recorder: u64,
    /// None: no ring was left for this thread.
    writer: Option<Writer<Mapping>>,
}

/// The rings of one process, shared with the collector.
pub(super) struct Rings {
    /// One for each thread; the last one is the spare.
    pub(super) all: Vec<Arc<Ring<Mapping>>>,
    spare: Mutex<Writer<Mapping>>,
    /// Nothing is collected any more.
    is_closed: AtomicBool,
    /// Collected usage cannot be stored, and the rings are nearly full.
    is_full: AtomicBool,
}

impl Rings {
    /// None: there is no ring.
    pub(super) fn new(rings: Vec<Ring<Mapping>>) -> Option<Rings> {
        let all: Vec<Arc<Ring<Mapping>>> = rings.into_iter().map(Arc::new).collect();
        let spare = Mutex::new(all.last()?.writer()?);
        Some(Rings { all, spare, is_closed: AtomicBool::new(false), is_full: AtomicBool::new(false) })
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub(super) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// Records not yet in a batch: of the fullest ring, in thousandths of its room.
    pub(super) fn fill_permille(&self) -> u64 {
        self.all.iter().filter_map(|ring| (ring.held() * 1_000).checked_div(ring.capacity())).max().unwrap_or(0)
    }

    fn own_writer(&self) -> Option<Writer<Mapping>> {
        self.all.iter().find_map(Ring::writer)
    }
}

/// Cheap to copy.
#[derive(Clone)]
pub struct UsageRecorder {
    id: u64,
    /// None: there is no Redis to send usage to.
    rings: Option<Arc<Rings>>,
    on_full: OnFull,
    metrics: Arc<Metrics>,
}

impl UsageRecorder {
    pub(super) fn new(rings: Option<Arc<Rings>>, on_full: OnFull, metrics: Arc<Metrics>) -> UsageRecorder {
        UsageRecorder { id: RECORDERS.fetch_add(1, Ordering::Relaxed) + 1, rings, on_full, metrics }
    }

    /// Counts every event as dropped.
    pub(crate) fn without_rings(metrics: Arc<Metrics>) -> UsageRecorder {
        UsageRecorder::new(None, OnFull::Serve, metrics)
    }

    /// Never waits. When it returns, the event survives the process, or its loss is counted.
    pub fn record(&self, record: &Record) {
        let Some(rings) = &self.rings else { return self.metrics.usage.dropped(DropReason::NotConfigured, 1) };
        if rings.is_closed.load(Ordering::Acquire) {
            return self.metrics.usage.dropped(DropReason::Stopped, 1);
        }
        // Err: the thread is ending and has no seat any more.
        let is_recorded = SEAT.try_with(|seat| self.take_seat(&mut seat.borrow_mut(), rings, record)).unwrap_or(false);
        if !is_recorded {
            self.record_in_spare(rings, record);
        }
    }

    /// Whether a request must be refused because its usage could not be kept.
    pub fn must_refuse(&self) -> bool {
        self.on_full == OnFull::Refuse && self.rings.as_ref().is_some_and(|rings| rings.is_full.load(Ordering::Relaxed))
    }

    #[inline]
    fn take_seat(&self, seat: &mut Seat, rings: &Rings, record: &Record) -> bool {
        if seat.recorder != self.id {
            // The old writer goes first: it may be of the same ring.
            seat.writer = None;
            *seat = Seat { recorder: self.id, writer: rings.own_writer() };
        }
        seat.writer.as_mut().is_some_and(|writer| push(writer, record))
    }

    #[cold]
    fn record_in_spare(&self, rings: &Rings, record: &Record) {
        self.metrics.usage.ring_full_total.inc();
        let mut spare = lock(&rings.spare);
        if push(&mut spare, record) {
            return;
        }
        drop(spare);
        let reason = if record.is_refusal() { DropReason::RefusalShed } else { DropReason::RingFull };
        self.metrics.usage.dropped(reason, 1);
    }
}

fn push(writer: &mut Writer<Mapping>, record: &Record) -> bool {
    let fill_max = if record.is_refusal() { writer.capacity() / REFUSALS_SHARE } else { writer.capacity() };
    writer.push(record, fill_max)
}
