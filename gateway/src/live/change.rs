//! How a snapshot comes from another: records put and removed, each at the cost of the leaves it touches. What cannot be
//! taken in is refused by name and fails closed: a product closes, a key or subscription is gone. Reads no wire bytes.

use std::sync::Arc;

use ::snapshot::record::{EntityKind, EntityRef, Key, Plan, Product, RecordFault, Subscription};
use ::snapshot::token::Token;
use ::snapshot::{features, wire};
use uuid::Uuid;
use wire::change::Change as ChangeKind;
use wire::record::Record as RecordKind;

use super::journal::JournalEntry;
use super::keys::{KeyFields, KeyRecord, KeyTag};
use super::product::ProductEntry;
use super::served::ServedSubscription;
use super::snapshot::{Refused, Snapshot};

/// Refusals that one acknowledgement lists: bounds its size, however much a newer control plane sends.
const REFUSALS_REPORTED_MAX: usize = 1_000;
const REASON_BYTES_MAX: usize = 1_024;
const UNKNOWN_KIND: &str = "this gateway does not know this kind of record";

impl Snapshot {
    /// The next snapshot of the same epoch. Returns everything that it holds back, not only what these changes did.
    pub fn apply(&self, token: Token, changes: &[wire::Change]) -> (Snapshot, Vec<wire::Refusal>) {
        let mut next = self.clone();
        next.change = self.token.map(|from| Arc::new(JournalEntry::new(from, token, changes)));
        let unknown = next.take_in(token, changes);
        let refusals = next.refusals(unknown);
        (next, refusals)
    }

    /// Changes this very copy. Answers how many changes were of no known kind.
    pub(super) fn take_in(&mut self, token: Token, changes: &[wire::Change]) -> usize {
        self.token = Some(token);
        let mut unknown = 0usize;
        for change in changes {
            let done = match &change.change {
                Some(ChangeKind::Put(record)) => self.put(record, None),
                Some(ChangeKind::Remove(entity)) => {
                    EntityRef::try_from(entity).map_err(|_| Unknown).map(|entity| self.remove(entity))
                }
                None => Err(Unknown),
            };
            unknown += usize::from(done.is_err());
        }
        unknown
    }

    /// `held`: where a product that is held back finds the release that goes on being served.
    pub(super) fn put(&mut self, record: &wire::Record, held: Option<&Snapshot>) -> Result<(), Unknown> {
        let kind = record.record.as_ref().ok_or(Unknown)?;
        match kind {
            RecordKind::Fleet(fleet) => self.fleet_max = fleet.fleet_max.max(1),
            RecordKind::Product(product) => {
                let entity = entity(EntityKind::Product, &product.id);
                let outcome = self.put_product(entity.id, product, held);
                self.settle(entity, record, outcome);
            }
            RecordKind::Plan(plan) => {
                let entity = entity(EntityKind::Plan, &plan.id);
                let outcome = Plan::try_from(plan).map(|plan| {
                    let id = plan.id;
                    self.plans.put(&id, |_| Arc::new(plan));
                });
                self.settle_or_remove(entity, record, outcome);
            }
            RecordKind::Subscription(subscription) => {
                let entity = entity(EntityKind::Subscription, &subscription.id);
                let outcome = Subscription::try_from(subscription).map(|record| self.put_subscription(record));
                self.settle_or_remove(entity, record, outcome);
            }
            RecordKind::Key(key) => {
                let entity = entity(EntityKind::Key, &key.id);
                let outcome = self.pack_key(key).and_then(|key| self.put_key(key));
                self.settle_or_remove(entity, record, outcome);
            }
        }
        Ok(())
    }

    fn put_subscription(&mut self, record: Subscription) {
        let (id, plan) = (record.id, self.plans.refer(&record.plan_id));
        let before = self.subscriptions.put(&id, |number| Arc::new(ServedSubscription { number, plan, record }));
        if let Some(before) = before {
            self.plans.let_go(before.plan);
        }
    }

    fn remove_subscription(&mut self, id: &Uuid) {
        if let Some(before) = self.subscriptions.remove(id) {
            self.plans.let_go(before.plan);
        }
    }

    /// A key as the table holds it; from now on it refers to its subscription and its scopes.
    pub(super) fn pack_key(&mut self, wire: &wire::Key) -> Result<KeyRecord, KeyFault> {
        let key = Key::try_from(wire)?;
        let scopes = if key.scopes.is_empty() { 0 } else { self.scopes.refer(&key.scopes.into()).saturating_add(1) };
        let subscription = self.subscriptions.refer(&key.subscription_id);
        let packed = KeyRecord::pack(&KeyFields {
            tag: KeyTag::of(&key.digest),
            id: key.id,
            subscription,
            scopes,
            meter_id: key.meter_id,
            environment: key.environment,
            expires_at_ms: key.expires_at_ms,
        });
        packed.ok_or_else(|| {
            self.let_go(subscription, scopes);
            KeyFault::Number
        })
    }

    fn put_key(&mut self, key: KeyRecord) -> Result<(), KeyFault> {
        match self.keys.put(key) {
            Ok(replaced) => {
                replaced.iter().flatten().for_each(|before| self.forget_key(before));
                Ok(())
            }
            Err(_full) => {
                self.forget_key(&key);
                Err(KeyFault::Room)
            }
        }
    }

    pub(super) fn remove_key(&mut self, id: &Uuid) {
        if let Some(before) = self.keys.remove(id) {
            self.forget_key(&before);
        }
    }

    /// The key is in no table any more.
    pub(super) fn forget_key(&mut self, key: &KeyRecord) {
        self.let_go(key.subscription(), key.scopes());
    }

    fn let_go(&mut self, subscription: u32, scopes: u32) {
        self.subscriptions.let_go(subscription);
        if let Some(scopes) = scopes.checked_sub(1) {
            self.scopes.let_go(scopes);
        }
    }

    /// Errors: why the product is closed, or why an older release is served in its stead.
    fn put_product(&mut self, id: Uuid, wire: &wire::Product, held: Option<&Snapshot>) -> Result<(), String> {
        let missing = features::missing(&wire.requires, features::KNOWN);
        if !missing.is_empty() {
            self.swap_product(Arc::new(ProductEntry::closed(id, wire)));
            return Err(format!("it requires what this gateway lacks: {}", missing.join(", ")));
        }
        let fault = if wire.quarantined {
            "its release is quarantined".to_owned()
        } else {
            match Product::compile(wire) {
                Ok(product) => {
                    self.swap_product(Arc::new(ProductEntry::open(product, wire.clone())));
                    return Ok(());
                }
                Err(faults) => {
                    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                    faults.join("; ")
                }
            }
        };
        let served = |snapshot: &Snapshot| snapshot.products.get(&id).filter(|entry| entry.served().is_some()).cloned();
        match served(self) {
            Some(_still_served) => Err(format!("an older release is served: {fault}")),
            None => match held.and_then(served) {
                Some(entry) => {
                    self.swap_product(entry);
                    Err(format!("an older release is served: {fault}"))
                }
                None => {
                    self.swap_product(Arc::new(ProductEntry::closed(id, wire)));
                    Err(format!("it is closed: {fault}"))
                }
            },
        }
    }

    fn swap_product(&mut self, entry: Arc<ProductEntry>) {
        self.remove_product(&entry.id);
        self.addresses.add(&entry);
        for endpoint in entry.served().into_iter().flat_map(|product| &product.endpoints) {
            let host_and_port = (endpoint.target.host.clone(), endpoint.target.port);
            let count = self.upstreams.get(&host_and_port).copied().unwrap_or(0);
            self.upstreams.insert(host_and_port, count + 1);
        }
        self.products.insert(entry.id, entry);
    }

    fn remove_product(&mut self, id: &Uuid) {
        let Some(entry) = self.products.remove(id) else { return };
        self.addresses.remove(&entry);
        for endpoint in entry.served().into_iter().flat_map(|product| &product.endpoints) {
            let host_and_port = (endpoint.target.host.clone(), endpoint.target.port);
            match self.upstreams.get(&host_and_port).copied().unwrap_or(0) {
                0 | 1 => self.upstreams.remove(&host_and_port),
                count => self.upstreams.insert(host_and_port, count - 1),
            };
        }
    }

    fn remove(&mut self, entity: EntityRef) {
        match entity.kind {
            EntityKind::Fleet => self.fleet_max = 1,
            EntityKind::Product => self.remove_product(&entity.id),
            EntityKind::Plan => drop(self.plans.remove(&entity.id)),
            EntityKind::Subscription => self.remove_subscription(&entity.id),
            EntityKind::Key => self.remove_key(&entity.id),
        }
        self.forgive(entity);
    }

    /// Fails closed: what the new record says is not known, so the old one does not hold any more.
    fn settle_or_remove<E: ToString>(&mut self, entity: EntityRef, record: &wire::Record, outcome: Result<(), E>) {
        if outcome.is_err() {
            self.remove(entity);
        }
        self.settle(entity, record, outcome.map_err(|fault| fault.to_string()));
    }

    pub(super) fn settle(&mut self, entity: EntityRef, record: &wire::Record, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.forgive(entity),
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
                let refused = Refused { reason, record: record.clone() };
                Arc::make_mut(&mut self.refused).insert(entity, refused);
            }
        }
    }

    fn forgive(&mut self, entity: EntityRef) {
        if self.refused.contains_key(&entity) {
            Arc::make_mut(&mut self.refused).remove(&entity);
        }
    }

    pub(super) fn refusals(&self, unknown: usize) -> Vec<wire::Refusal> {
        let unknown = (unknown > 0).then(|| wire::Refusal { entity: None, reason: UNKNOWN_KIND.to_owned() });
        let known = self
            .refused
            .iter()
            .map(|(entity, refused)| wire::Refusal { entity: Some((*entity).into()), reason: refused.reason.clone() });
        unknown.into_iter().chain(known).take(REFUSALS_REPORTED_MAX).collect()
    }
}

/// Why a key was not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFault {
    #[error(transparent)]
    Record(#[from] RecordFault),
    #[error("key.meter_id, or the number of different sets of scopes, is beyond what this gateway holds")]
    Number,
    #[error("the table of keys is full")]
    Room,
}

/// A kind of record or change that a newer control plane knows. Whatever must not be ignored comes with a feature
/// that closes its product.
#[derive(Debug)]
pub(super) struct Unknown;

/// A record whose id is malformed is refused under the nil id.
pub(super) fn entity(kind: EntityKind, id: &[u8]) -> EntityRef {
    EntityRef { kind, id: Uuid::from_slice(id).unwrap_or(Uuid::nil()) }
}
