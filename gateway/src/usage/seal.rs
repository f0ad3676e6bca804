//! What waits to become a batch, and its bytes when it does. Bounded: by events, and by rows for those that are summed.
//! An event is encoded when it comes; the batch is what was encoded, with its name.

use prost::Message as _;
use snapshot::wire::UsageBatch;
use uuid::Uuid;

use super::event_bytes::{Event, EventBytes};
use super::record::Record;
use super::rows::Rows;

/// Events of one batch: about 400 KB.
pub(super) const BATCH_EVENTS_MAX: usize = 4_000;
/// Rows of one batch beside its events: about 280 KB. A compacted batch has up to the sum of both.
pub(super) const BATCH_ROWS_MAX: usize = 4_000;
/// Of a `UsageBatch`.
const EVENTS_FIELD: u8 = 4;

#[derive(Default)]
pub(super) struct Pending {
    events: EventBytes,
    rows: Rows,
    /// Events in `rows`.
    summed: u64,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.events.count() == 0 && self.rows.is_empty()
    }

    /// Neither an event nor a row more.
    pub(super) fn is_full(&self) -> bool {
        self.events.count() >= BATCH_EVENTS_MAX || self.rows.len() >= BATCH_ROWS_MAX
    }

    pub(super) fn add(&mut self, event: &mut Event<'_>) {
        self.events.add(EVENTS_FIELD, event);
    }

    pub(super) fn add_to_rows(&mut self, record: &Record) {
        self.rows.add_record(record);
        self.summed = self.summed.saturating_add(1);
    }

    /// Gives up the single events for their sums. Answers how many.
    pub(super) fn compact(&mut self) -> u64 {
        // Never an error: it was encoded here.
        let Ok(batch) = UsageBatch::decode(self.events.as_slice()) else { return 0 };
        batch.events.iter().for_each(|event| self.rows.add_event(event));
        let events = u64::try_from(self.events.count()).unwrap_or(u64::MAX);
        self.events.clear();
        self.summed = self.summed.saturating_add(events);
        events
    }

    pub(super) fn has_events(&self) -> bool {
        self.events.count() > 0
    }

    /// All that was added, in single events and in rows.
    pub(super) fn count(&self) -> u64 {
        self.summed.saturating_add(u64::try_from(self.events.count()).unwrap_or(u64::MAX))
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
        (self.rows, self.summed) = (Rows::default(), 0);
    }

    pub(super) fn encode(&self, name: &BatchName, low_watermark_ms: i64, closes_epoch: bool) -> Vec<u8> {
        let rest = UsageBatch {
            node_id: name.node.as_bytes().to_vec(),
            epoch: name.epoch.as_bytes().to_vec(),
            sequence: name.sequence,
            events: Vec::new(),
            rows: self.rows.to_wire(),
            low_watermark_ms,
            closes_epoch,
        };
        self.events.with(&rest)
    }
}

/// What names a batch for ever.
pub(super) struct BatchName {
    pub(super) node: Uuid,
    pub(super) epoch: Uuid,
    pub(super) sequence: u64,
}
