//! What the gateway serves at this moment: one immutable snapshot behind one pointer. A decision pins the snapshot that it
//! began with; a change builds the next one beside it and swaps. Fetches nothing and stores nothing on disk.

mod building;
mod change;
pub(crate) mod cow;
mod hosts;
mod journal;
mod keys;
mod numbered;
mod paged;
mod product;
mod records;
mod retired;
mod served;
mod shards;
mod snapshot;
pub mod stored;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard};

use ::snapshot::token::Token;
use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use building::Building;
pub use journal::{JOURNAL_BYTES_MAX, JournalEntry};
pub use keys::KeyTag;
pub use product::{CorsRules, ProductEntry, ProductState, ServedProduct};
pub use served::{ScopeSet, ServedKey, ServedSubscription};
pub use snapshot::{Counts, ProductMatch, Snapshot};

use self::journal::Journal;
use self::retired::Retired;
use crate::lock::lock;

/// A shared handle: copies see the same snapshot.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    current: ArcSwap<Snapshot>,
    /// What is not on disk yet, of what led to `current`.
    journal: Mutex<Journal>,
    retired: Retired<Snapshot>,
    changed: watch::Sender<Option<Token>>,
}

impl Live {
    pub fn new(snapshot: Snapshot) -> Live {
        let (changed, _) = watch::channel(snapshot.token);
        let current = ArcSwap::from_pointee(snapshot);
        Live { inner: Arc::new(Inner { current, journal: Mutex::default(), retired: Retired::new(), changed }) }
    }

    /// The snapshot to pin.
    pub fn load(&self) -> Arc<Snapshot> {
        self.inner.current.load_full()
    }

    /// From now on new requests are decided by `snapshot`. Only the feed (and the boot) calls this: one writer.
    pub fn store(&self, snapshot: Snapshot) {
        let token = snapshot.token;
        let mut journal = self.journal();
        journal.add(snapshot.change.clone());
        let before = self.inner.current.swap(Arc::new(snapshot));
        drop(journal);
        self.inner.retired.add(before);
        self.inner.changed.send_replace(token);
    }

    /// The changes that led here and are not forgotten yet, in order.
    pub fn journal_entries(&self) -> Vec<Arc<JournalEntry>> {
        self.journal().entries()
    }

    /// Those up to this token are on disk.
    pub fn forget_journal(&self, token: Token) {
        self.journal().forget(token);
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // Whoever panicked left whole entries behind.
        lock(&self.inner.journal)
    }

    /// Tells of each store, after it.
    pub fn subscribe(&self) -> watch::Receiver<Option<Token>> {
        self.inner.changed.subscribe()
    }
}
