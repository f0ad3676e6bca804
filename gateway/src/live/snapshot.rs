//! One immutable snapshot: look-ups only. Copies share what they have in common; `change` makes the next one.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::sync::Arc;

use ::snapshot::key::KeyDigest;
use ::snapshot::record::{EntityRef, Key, Plan, Subscription};
use ::snapshot::target::Host;
use ::snapshot::token::Token;
use ::snapshot::wire;
use uuid::Uuid;

use super::cow::{CowMap, IdState};
use super::hosts::Addresses;
use super::product::ProductEntry;

/// Before a control plane has said anything: one gateway.
const FLEET_MAX_STANDALONE: u32 = 1;

#[derive(Clone)]
pub struct Snapshot {
    /// `None`: nothing was ever received.
    pub token: Option<Token>,
    pub fleet_max: u32,
    pub(super) addresses: Addresses,
    pub(super) products: CowMap<Uuid, Arc<ProductEntry>, IdState>,
    pub(super) plans: CowMap<Uuid, Arc<Plan>, IdState>,
    pub(super) subscriptions: CowMap<Uuid, Arc<Subscription>, IdState>,
    pub(super) keys: CowMap<KeyDigest, Arc<Key>, IdState>,
    pub(super) key_ids: CowMap<Uuid, Arc<Key>, IdState>,
    /// How many endpoints send to each host and port.
    pub(super) upstreams: CowMap<(Host<String>, u16), usize, RandomState>,
    /// What was received and could not be taken in. Shared, and as a rule empty.
    pub(super) refused: Arc<BTreeMap<EntityRef, Refused>>,
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
            plans: CowMap::new(IdState),
            subscriptions: CowMap::new(IdState),
            keys: CowMap::new(IdState),
            key_ids: CowMap::new(IdState),
            upstreams: CowMap::new(RandomState::new()),
            refused: Arc::new(BTreeMap::new()),
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

    pub fn key(&self, digest: &KeyDigest) -> Option<&Arc<Key>> {
        self.keys.get(digest)
    }

    pub fn subscription(&self, id: &Uuid) -> Option<&Arc<Subscription>> {
        self.subscriptions.get(id)
    }

    pub fn plan(&self, id: &Uuid) -> Option<&Arc<Plan>> {
        self.plans.get(id)
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
