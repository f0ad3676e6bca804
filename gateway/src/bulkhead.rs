//! What one product may hold of this gateway at once: requests in flight, and open connections to its upstreams. The counts
//! live beside the snapshot and are exact however a request or a connection ends: what was taken is a value, and dropping it
//! gives it back. Nothing queues here: what is beyond a cap is refused, and other products never notice.

mod connect;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use prometheus::IntGauge;
use snapshot::record::ProductCaps;
use uuid::Uuid;

use crate::lock::lock;
use crate::metrics::labels::CapClass;
pub use connect::CONNECTIONS_FULL;

/// Products whose counts are looked through for those that are gone; doubled with what is left.
const SWEEP_FROM: usize = 1_024;

/// What a product may hold that has no caps of its own.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// A tunnel and a stream count for as long as they last.
    pub requests_in_flight_max: NonZeroU32,
    /// Busy, idle, and those being made.
    pub upstream_connections_max: NonZeroU32,
}

/// The counts of all products, by their ids.
pub struct Bulkheads {
    defaults: Caps,
    /// Of all products, for the metrics.
    connections_open: IntGauge,
    held: Mutex<Registry>,
}

struct Registry {
    by_product: HashMap<Uuid, Weak<Held>>,
    sweep_at: usize,
}

/// One product's caps, as one version of it says, over the counts that all its versions share.
#[derive(Debug)]
pub struct Bulkhead {
    caps: Caps,
    class: CapClass,
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    requests: AtomicU32,
    connections: AtomicU32,
    connections_open: IntGauge,
}

/// The place of one request, until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Seat(Arc<Held>);

/// The place of one connection, until it is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Berth(Arc<Held>);

impl Bulkheads {
    pub fn new(defaults: Caps, connections_open: IntGauge) -> Bulkheads {
        let registry = Registry { by_product: HashMap::new(), sweep_at: SWEEP_FROM };
        Bulkheads { defaults, connections_open, held: Mutex::new(registry) }
    }

    /// A product's bulkhead. `place` is where its version keeps it: the look-up by id is done once for each version.
    pub fn of<'a>(&self, product: Uuid, own: ProductCaps, place: &'a OnceLock<Arc<Bulkhead>>) -> &'a Arc<Bulkhead> {
        place.get_or_init(|| {
            let is_own = own != ProductCaps::default();
            Arc::new(Bulkhead {
                caps: self.defaults.overridden(own),
                class: if is_own { CapClass::Own } else { CapClass::Default },
                held: self.held_by(product),
            })
        })
    }

    fn held_by(&self, product: Uuid) -> Arc<Held> {
        let mut registry = lock(&self.held);
        if let Some(held) = registry.by_product.get(&product).and_then(Weak::upgrade) {
            return held;
        }
        if registry.by_product.len() >= registry.sweep_at {
            registry.by_product.retain(|_, held| held.strong_count() > 0);
            registry.sweep_at = registry.by_product.len().saturating_mul(2).max(SWEEP_FROM);
        }
        let held = Arc::new(Held {
            requests: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            connections_open: self.connections_open.clone(),
        });
        registry.by_product.insert(product, Arc::downgrade(&held));
        held
    }
}

impl Caps {
    fn overridden(self, own: ProductCaps) -> Caps {
        Caps {
            requests_in_flight_max: own.requests_in_flight_max.unwrap_or(self.requests_in_flight_max),
            upstream_connections_max: own.upstream_connections_max.unwrap_or(self.upstream_connections_max),
        }
    }
}

impl Bulkhead {
    /// A place for one request. `None`: the product holds as many as it may.
    pub fn enter(&self) -> Option<Seat> {
        take(&self.held.requests, self.caps.requests_in_flight_max).then(|| Seat(Arc::clone(&self.held)))
    }

    fn moor(&self) -> Option<Berth> {
        take(&self.held.connections, self.caps.upstream_connections_max).then(|| {
            self.held.connections_open.inc();
            Berth(Arc::clone(&self.held))
        })
    }

    /// More than half of the connections are open: idle ones should not be in the way of another address.
    fn is_crowded(&self) -> bool {
        self.held.connections.load(Ordering::Relaxed) > self.caps.upstream_connections_max.get() / 2
    }

    /// Whose word the caps are; a label of metrics.
    pub fn class(&self) -> CapClass {
        self.class
    }

    pub fn requests_in_flight(&self) -> u32 {
        self.held.requests.load(Ordering::Relaxed)
    }
}

/// Compares before it adds: a refused one never stands in the way of another, not even for an instant.
fn take(count: &AtomicU32, max: NonZeroU32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < max.get()).then(|| held + 1)).is_ok()
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.connections_open.dec();
    }
}
