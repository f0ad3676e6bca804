//! Seals events into batches with dense sequence numbers. A sealed batch never changes its number nor its content, so that
//! sending it twice counts once.

use bytes::Bytes;
use prost::Message;
use snapshot::wire::{UsageBatch, UsageEvent};
use uuid::Uuid;

/// An encoded batch under its number.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) sequence: u64,
    pub(super) events: u64,
    pub(super) bytes: Bytes,
}

/// Numbers batches from 0 within an epoch of its own: a restarted process never continues another's numbers.
#[derive(Debug)]
pub(super) struct Sealer {
    node_id: Uuid,
    epoch: Uuid,
    next: u64,
}

impl Sealer {
    pub(super) fn new(node_id: Uuid) -> Sealer {
        Sealer { node_id, epoch: Uuid::now_v7(), next: 0 }
    }

    pub(super) fn seal(&mut self, events: Vec<UsageEvent>) -> Sealed {
        let sequence = self.next;
        self.next += 1;
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        let batch = UsageBatch {
            node_id: self.node_id.as_bytes().to_vec(),
            epoch: self.epoch.as_bytes().to_vec(),
            sequence,
            events,
            ..UsageBatch::default()
        };
        Sealed { sequence, events: count, bytes: batch.encode_to_vec().into() }
    }
}
