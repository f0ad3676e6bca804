//! What the gateway serves at this moment: one immutable snapshot behind one pointer. A decision pins the snapshot that it
//! began with; a change builds the next one beside it and swaps. Fetches nothing and stores nothing on disk.

mod change;
pub(crate) mod cow;
mod hosts;
mod product;
mod records;
mod snapshot;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ::snapshot::token::Token;
use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use product::{CorsRules, ProductEntry, ProductState, ServedProduct};
pub use snapshot::{Counts, ProductMatch, Snapshot};

/// A shared handle: copies see the same snapshot.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<Option<Token>>,
}

impl Live {
    pub fn new(snapshot: Snapshot) -> Live {
        let (changed, _) = watch::channel(snapshot.token);
        Live { inner: Arc::new(Inner { current: ArcSwap::from_pointee(snapshot), changed }) }
    }

    /// The snapshot to pin.
    pub fn load(&self) -> Arc<Snapshot> {
        self.inner.current.load_full()
    }

    /// From now on new requests are decided by `snapshot`. Only the feed (and the boot) calls this: one writer.
    pub fn store(&self, snapshot: Snapshot) {
        let token = snapshot.token;
        self.inner.current.store(Arc::new(snapshot));
        self.inner.changed.send_replace(token);
    }

    /// Tells of each store, after it.
    pub fn subscribe(&self) -> watch::Receiver<Option<Token>> {
        self.inner.changed.subscribe()
    }
}
