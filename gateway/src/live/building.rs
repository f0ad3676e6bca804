//! A whole snapshot in the making: takes records as they come, so that nobody ever holds all of them, and touches nothing that
//! is served until it is finished. Dropped half-way, it leaves nothing behind.

use std::sync::Arc;

use ::snapshot::record::{EntityKind, EntityRef};
use ::snapshot::token::Token;
use ::snapshot::wire;
use uuid::Uuid;
use wire::record::Record as RecordKind;

use super::change::entity;
use super::keys::{KeyBuilder, KeyRecord};
use super::snapshot::Snapshot;

const TWIN: &str = "another key has its id or its digest, or there is no room: none of them is served";

pub struct Building {
    next: Snapshot,
    keys: KeyBuilder,
    /// Keys that could not be read: an older record of theirs does not hold either.
    refused_keys: Vec<Uuid>,
    held: Arc<Snapshot>,
    records: usize,
    unknown: usize,
}

impl Building {
    /// In place of `held`: a quarantined product keeps the release that this one serves.
    pub fn beside(held: Arc<Snapshot>) -> Building {
        let (next, keys) = (Snapshot::empty(), KeyBuilder::new());
        Building { next, keys, refused_keys: Vec::new(), held, records: 0, unknown: 0 }
    }

    pub fn put(&mut self, record: &wire::Record) {
        self.records += 1;
        if let Some(RecordKind::Key(key)) = &record.record {
            match self.next.pack_key(key) {
                Ok(packed) => self.keys.push(packed),
                Err(fault) => {
                    let entity = entity(EntityKind::Key, &key.id);
                    self.refused_keys.push(entity.id);
                    self.next.settle(entity, record, Err(fault.to_string()));
                }
            }
        } else if self.next.put(record, Some(&self.held)).is_err() {
            self.unknown += 1;
        }
    }

    /// As far as it is made; without its keys.
    pub(super) fn snapshot(&mut self) -> &mut Snapshot {
        &mut self.next
    }

    /// How many were put in.
    pub fn records(&self) -> usize {
        self.records
    }

    /// The snapshot, and what could not be taken in.
    pub fn finish(self, token: Token) -> (Snapshot, Vec<wire::Refusal>) {
        let Building { mut next, keys, refused_keys, unknown, .. } = self;
        next.token = Some(token);
        let (table, dropped) = keys.finish();
        next.keys = table;
        dropped.replaced.iter().for_each(|key| next.forget_key(key));
        dropped.refused.iter().for_each(|key| next.refuse_twin(key));
        for id in &refused_keys {
            next.remove_key(id);
        }
        let refusals = next.refusals(unknown);
        (next, refusals)
    }
}

impl Snapshot {
    /// A snapshot from nothing but `records`. Returns what could not be taken in, too.
    pub fn build(token: Token, records: impl IntoIterator<Item = wire::Record>) -> (Snapshot, Vec<wire::Refusal>) {
        let mut building = Building::beside(Arc::new(Snapshot::empty()));
        records.into_iter().for_each(|record| building.put(&record));
        building.finish(token)
    }

    fn refuse_twin(&mut self, key: &KeyRecord) {
        self.forget_key(key);
        // Without a digest it is refused again whoever reads it, from the disk too.
        let record = RecordKind::Key(wire::Key { id: key.id().as_bytes().to_vec(), ..wire::Key::default() });
        let record = wire::Record { record: Some(record) };
        self.settle(EntityRef { kind: EntityKind::Key, id: key.id() }, &record, Err(TWIN.to_owned()));
    }
}
