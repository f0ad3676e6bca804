//! What meter ids of the live stream stand for: asked of Postgres once each, kept for a while, since slugs and patterns may
//! change. Refuses to hold the stream up for long when Postgres is away: what cannot be named is left out and counted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::moment::{Endpoint, Place, Product, Subscription};
use crate::store::live::{self, Names, Unknown};
use crate::store::{Store, StoreError};

/// Names are asked for anew after this long.
const NAMES_AGE_MAX: Duration = Duration::from_secs(300);
/// Names of one kind that are kept; beyond it all are asked for anew.
const NAMES_MAX: usize = 500_000;
/// Postgres must answer within this time: what waits longer is live no more.
const ASK_WAIT_MAX: Duration = Duration::from_secs(3);
/// After a failure Postgres is left alone for so long.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// By meter id; `None` where there is no such thing.
type Known<T> = HashMap<i64, Option<T>>;

pub(super) struct Directory {
    store: Store,
    products: Known<Arc<Product>>,
    subscriptions: Known<Arc<Subscription>>,
    endpoints: Known<Arc<Endpoint>>,
    keys: Known<Uuid>,
    plans: Known<Uuid>,
    filled_at: Instant,
    failed_at: Option<Instant>,
}

/// Meter ids that a batch names.
#[derive(Default)]
pub(super) struct Wanted {
    products: HashSet<i64>,
    subscriptions: HashSet<i64>,
    endpoints: HashSet<i64>,
    keys: HashSet<i64>,
    plans: HashSet<i64>,
}

impl Wanted {
    pub(super) fn place(&mut self, product: i64, subscription: i64, endpoint: i64) {
        self.products.insert(product);
        self.subscriptions.insert(subscription);
        self.endpoints.insert(endpoint);
    }

    pub(super) fn caller(&mut self, key: i64, plan: i64) {
        self.keys.insert(key);
        self.plans.insert(plan);
    }
}

impl Directory {
    pub(super) fn new(store: Store) -> Directory {
        Directory {
            store,
            products: Known::new(),
            subscriptions: Known::new(),
            endpoints: Known::new(),
            keys: Known::new(),
            plans: Known::new(),
            filled_at: Instant::now(),
            failed_at: None,
        }
    }

    /// Asks for what is not known yet.
    pub(super) async fn learn(&mut self, wanted: &Wanted) {
        if self.filled_at.elapsed() > NAMES_AGE_MAX || self.is_full() {
            *self = Directory { failed_at: self.failed_at, ..Directory::new(self.store.clone()) };
        }
        let unknown = Unknown {
            products: missing(&self.products, &wanted.products),
            subscriptions: missing(&self.subscriptions, &wanted.subscriptions),
            endpoints: missing(&self.endpoints, &wanted.endpoints),
            keys: missing(&self.keys, &wanted.keys),
            plans: missing(&self.plans, &wanted.plans),
        };
        let is_resting = self.failed_at.is_some_and(|at| at.elapsed() < ASK_PAUSE);
        if unknown.is_empty() || is_resting {
            return;
        }
        let asked = self.store.read("name_live_usage", |tx| Box::pin(live::name(tx, &unknown)));
        match tokio::time::timeout(ASK_WAIT_MAX, asked).await {
            Ok(Ok(names)) => {
                self.failed_at = None;
                self.put(&unknown, names);
            }
            Ok(Err(error)) => self.note_failure(&error),
            Err(_) => self.note_failure(&StoreError::unavailable("the names took too long")),
        }
    }

    fn note_failure(&mut self, error: &StoreError) {
        tracing::warn!(%error, "live usage is not named for now");
        self.failed_at = Some(Instant::now());
    }

    fn is_full(&self) -> bool {
        let sizes = [self.products.len(), self.subscriptions.len(), self.endpoints.len(), self.keys.len()];
        sizes.into_iter().max() > Some(NAMES_MAX)
    }

    fn put(&mut self, asked: &Unknown, names: Names) {
        forget_none(&mut self.products, &asked.products);
        forget_none(&mut self.subscriptions, &asked.subscriptions);
        forget_none(&mut self.endpoints, &asked.endpoints);
        forget_none(&mut self.keys, &asked.keys);
        forget_none(&mut self.plans, &asked.plans);
        for row in names.products {
            let product = Product { id: row.id, organization: row.organization, slug: row.slug };
            self.products.insert(row.meter_id, Some(Arc::new(product)));
        }
        for row in names.subscriptions {
            let subscription = Subscription { id: row.id, organization: row.organization, consumer: row.slug };
            self.subscriptions.insert(row.meter_id, Some(Arc::new(subscription)));
        }
        for (meter_id, id, pattern) in names.endpoints {
            self.endpoints.insert(meter_id, Some(Arc::new(Endpoint { id, pattern })));
        }
        self.keys.extend(names.keys.into_iter().map(|(meter_id, id)| (meter_id, Some(id))));
        self.plans.extend(names.plans.into_iter().map(|(meter_id, id)| (meter_id, Some(id))));
    }

    pub(super) fn place(&self, product: i64, subscription: i64, endpoint: i64) -> Option<Place> {
        Some(Place {
            product: self.products.get(&product)?.clone()?,
            subscription: self.subscriptions.get(&subscription)?.clone()?,
            endpoint: self.endpoints.get(&endpoint).cloned().flatten(),
        })
    }

    pub(super) fn key(&self, meter_id: i64) -> Option<Uuid> {
        self.keys.get(&meter_id).copied().flatten()
    }

    pub(super) fn plan(&self, meter_id: i64) -> Option<Uuid> {
        self.plans.get(&meter_id).copied().flatten()
    }
}

fn missing<T>(known: &Known<T>, wanted: &HashSet<i64>) -> Vec<i64> {
    wanted.iter().filter(|id| !known.contains_key(id)).copied().collect()
}

/// What was asked for and did not come is nothing; the answer overwrites the rest.
fn forget_none<T>(known: &mut Known<T>, asked: &[i64]) {
    known.extend(asked.iter().map(|id| (*id, None)));
}
