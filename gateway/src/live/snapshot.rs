//! One immutable snapshot: look-ups only. Copies share what they have in common; `change` makes the next one.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::sync::Arc;

use ::snapshot::key::KeyDigest;
use ::snapshot::record::{EntityRef, Plan};
use ::snapshot::target::Host;
use ::snapshot::token::Token;
use ::snapshot::wire;
use uuid::Uuid;

use super::cow::CowMap;
use super::hosts::Addresses;
use super::journal::JournalEntry;
use super::keys::{KeyRecord, KeyTable, KeyTag};
use super::numbered::Numbered;
use super::product::ProductEntry;
use super::served::{ScopeSet, ServedKey, ServedSubscription};
use crate::id_hash::IdState;

/// Before a control plane has said anything: one gateway.
const FLEET_MAX_STANDALONE: u32 = 1;

#[derive(Clone)]
pub struct Snapshot {
    /// `None`: nothing was ever received.
    pub token: Option<Token>,
    pub fleet_max: u32,
    pub(super) addresses: Addresses,
    pub(super) products: CowMap<Uuid, Arc<ProductEntry>, IdState>,
    pub(super) plans: Numbered<Uuid, Arc<Plan>, IdState>,
    pub(super) subscriptions: Numbered<Uuid, Arc<ServedSubscription>, IdState>,
    /// Each set of scopes once, however many keys have it.
    pub(super) scopes: Numbered<Arc<[String]>, (), RandomState>,
    pub(super) keys: KeyTable,
    /// How many endpoints send to each host and port.
    pub(super) upstreams: CowMap<(Host<String>, u16), usize, RandomState>,
    /// What was received and could not be taken in. Shared, and as a rule empty.
    pub(super) refused: Arc<BTreeMap<EntityRef, Refused>>,
    /// The change that made this one from the one before; None, where it is whole by itself.
    pub(super) change: Option<Arc<JournalEntry>>,
}

/// Kept with its record, so that a restart from disk refuses the same.
#[derive(Clone)]
pub(super) struct Refused {
    pub(super) reason: String,
    pub(super) record: wire::Record,
}

/// The product that a request is for.
pub struct ProductMatch<'s, 'p> {
    pub entry: &'s Arc<ProductEntry>,
    /// The rest of the path, within the product; begins with '/'.
    pub path: &'p str,
}

/// For the metrics and `/healthz`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub products: usize,
    pub plans: usize,
    pub subscriptions: usize,
    pub keys: usize,
    pub refused: usize,
}

impl Snapshot {
    /// Serves nothing, and says so: it has no token.
    pub fn empty() -> Snapshot {
        Snapshot {
            token: None,
            fleet_max: FLEET_MAX_STANDALONE,
            addresses: Addresses::new(),
            products: CowMap::new(IdState),
            plans: Numbered::new(IdState),
            subscriptions: Numbered::new(IdState),
            scopes: Numbered::new(RandomState::new()),
            keys: KeyTable::new(),
            upstreams: CowMap::new(RandomState::new()),
            refused: Arc::new(BTreeMap::new()),
            change: None,
        }
    }

    /// A host of its own owns the whole path; elsewhere the product is `/{organization}/{product}`.
    pub fn product_for<'s, 'p>(&'s self, host: Option<&str>, path: &'p str) -> Option<ProductMatch<'s, 'p>> {
        if let Some(entry) = host.and_then(|host| self.addresses.by_host(host)) {
            return Some(ProductMatch { entry, path });
        }
        let (organization, rest) = path.strip_prefix('/')?.split_once('/')?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (product, rest) = rest.split_at_checked(end)?;
        let entry = self.addresses.by_name(organization, product)?;
        Some(ProductMatch { entry, path: if rest.is_empty() { "/" } else { rest } })
    }

    pub fn product(&self, id: &Uuid) -> Option<&Arc<ProductEntry>> {
        self.products.get(id)
    }

    pub fn key(&self, digest: &KeyDigest) -> Option<ServedKey> {
        self.key_by_tag(&KeyTag::of(digest))
    }

    pub fn key_by_tag(&self, tag: &KeyTag) -> Option<ServedKey> {
        self.serve_key(self.keys.get(tag)?)
    }

    /// `key` comes from this very snapshot.
    pub fn subscription_of(&self, key: &ServedKey) -> Option<&Arc<ServedSubscription>> {
        self.subscriptions.get(key.subscription)
    }

    /// `subscription` comes from this very snapshot.
    pub fn plan_of(&self, subscription: &ServedSubscription) -> Option<&Arc<Plan>> {
        self.plans.get(subscription.plan)
    }

    pub fn subscription(&self, id: &Uuid) -> Option<&Arc<ServedSubscription>> {
        self.subscriptions.by_key(id)
    }

    pub fn plan(&self, id: &Uuid) -> Option<&Arc<Plan>> {
        self.plans.by_key(id)
    }

    /// None: its scopes are not known, which does not happen; then it opens nothing.
    pub(super) fn serve_key(&self, record: &KeyRecord) -> Option<ServedKey> {
        let fields = record.fields();
        let scopes = match fields.scopes.checked_sub(1) {
            None => None,
            Some(number) => Some(Arc::clone(self.scopes.key_of(number)?)),
        };
        Some(ServedKey {
            id: fields.id,
            meter_id: fields.meter_id,
            tag: fields.tag,
            environment: fields.environment,
            expires_at_ms: fields.expires_at_ms,
            scopes: ScopeSet(scopes),
            subscription: fields.subscription,
        })
    }

    /// Distinct hosts and ports of all targets, for the resolver; in no order.
    pub fn upstream_hosts(&self) -> impl Iterator<Item = &(Host<String>, u16)> {
        self.upstreams.iter().map(|(host_and_port, _)| host_and_port)
    }

    pub fn has_upstream(&self, place: &(Host<String>, u16)) -> bool {
        self.upstreams.get(place).is_some()
    }

    /// Whether no target changed between the two: then there is nothing to resolve anew.
    pub fn has_same_upstreams(&self, other: &Snapshot) -> bool {
        self.upstreams.is_same(&other.upstreams)
    }

    pub fn counts(&self) -> Counts {
        Counts {
            products: self.products.len(),
            plans: self.plans.len(),
            subscriptions: self.subscriptions.len(),
            keys: self.keys.len(),
            refused: self.refused.len(),
        }
    }
}
