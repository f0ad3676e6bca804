//! Builds the snapshot from the database at a revision: everything at the start, and from then on only what changed. Each
//! step reads one moment, so every control plane builds the same. A product that does not compile never stops the others.

mod look;
mod metrics;
#[cfg(test)]
pub(crate) mod testing_rows;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use snapshot::record::{EntityKind as RecordKind, EntityRef};
use snapshot::token::Token;
use snapshot::wire;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use metrics::BuilderMetrics;

use super::book::{Book, Changed};
use super::records::{self, FLEET, QuarantineChange, Records};
use crate::changes::Signals;
use crate::store::snapshot_rows::{EXPIRED_KEY_KEPT_MS, FeedState, SnapshotRows, Touched, set_quarantine};
use crate::store::{Store, StoreError};
use look::{Look, entities, look};
use whole::Whole;

/// Where no signal came, look anyway.
const POLL: Duration = Duration::from_secs(1);
/// Pause after a failed step; the signals would otherwise make it spin.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// A step, or of a whole build a single read, that takes longer gives its connection up and begins anew.
const STEP_MAX: Duration = Duration::from_secs(120);

pub struct Builder {
    store: Store,
    book: Arc<Book>,
    metrics: BuilderMetrics,
    /// Keys that expire, by when: they leave the snapshot some time after, without a change.
    expiring: BTreeSet<(i64, Uuid)>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("rows could not be compiled: {0}")]
    Compile(#[from] tokio::task::JoinError),
    #[error("the database did not answer within {} s", STEP_MAX.as_secs())]
    TooSlow,
}

impl Builder {
    pub fn new(store: Store, book: Arc<Book>, metrics: BuilderMetrics) -> Builder {
        Builder { store, book, metrics, expiring: BTreeSet::new() }
    }

    /// Builds until `shutdown`. Postgres being away only delays it.
    pub async fn run(mut self, signals: Signals, shutdown: CancellationToken) {
        let mut numbered = signals.numbered();
        let work = async {
            loop {
                numbered.mark_unchanged();
                if let Err(error) = self.step().await {
                    self.metrics.failures.inc();
                    tracing::warn!(%error, "the snapshot could not be built");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                let _signal_or_poll = tokio::time::timeout(POLL, numbered.changed()).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Brings the book to the newest revision. Errors leave the book as it was.
    pub async fn step(&mut self) -> Result<(), BuildError> {
        let have = self.book.newest();
        let quarantine = match look(&self.store, &self.book, have).await? {
            Look::Unchanged => {
                self.book.note_look();
                return Ok(());
            }
            Look::Everything { state, whole, history, floor } => self.take_everything(state, whole, history, floor),
            Look::Changed { state, touched, rows } => self.take_changed(state, &touched, rows).await?,
        };
        self.book.note_look();
        self.note_quarantine(quarantine).await;
        Ok(())
    }

    fn take_everything(
        &mut self,
        state: FeedState,
        whole: Whole,
        history: Vec<(u64, EntityRef)>,
        floor: u64,
    ) -> Vec<QuarantineChange> {
        self.expiring = whole.expiring.into_iter().collect();
        self.metrics.full_builds.inc();
        self.book.replace(token(state), whole.pages, history, floor);
        self.publish_figures(state);
        whole.quarantine_changes
    }

    async fn take_changed(
        &mut self,
        state: FeedState,
        touched: &Touched,
        rows: SnapshotRows,
    ) -> Result<Vec<QuarantineChange>, BuildError> {
        let mut made = compile(rows).await?;
        let mut changed: Changed = entities(touched).map(|entity| (entity, made.records.remove(&entity))).collect();
        if touched.fleet {
            changed.insert(FLEET, Some(records::fleet(state.fleet_max)));
        }
        self.expire_keys(state.now_ms, &mut changed);
        let expiring = changed.iter().filter_map(|(entity, record)| expiry(entity, record.as_ref()?));
        self.expiring.extend(expiring);
        self.book.advance(token(state), &changed);
        self.publish_figures(state);
        Ok(made.quarantine_changes)
    }

    /// Gateways refuse an expired key by their own clocks; here it only stops taking up room.
    fn expire_keys(&mut self, now_ms: i64, changed: &mut Changed) {
        let horizon = now_ms - EXPIRED_KEY_KEPT_MS;
        while let Some((expires_at_ms, id)) = self.expiring.first().copied().filter(|(at, _)| *at <= horizon) {
            self.expiring.pop_first();
            let entity = EntityRef { kind: RecordKind::Key, id };
            // A key whose expiry was moved is known by its newer entry.
            let held = self.book.record(&entity).and_then(|record| expiry(&entity, &record));
            if held == Some((expires_at_ms, id)) {
                changed.entry(entity).or_insert(None);
            }
        }
    }

    fn publish_figures(&self, state: FeedState) {
        let (records, bytes) = self.book.size();
        self.metrics.revision.set(state.revision);
        self.metrics.records.set(i64::try_from(records).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Tells the owner, by the product's row, and the operator. Not told is no reason to stop serving.
    async fn note_quarantine(&self, changes: Vec<QuarantineChange>) {
        for QuarantineChange { product, reason } in changes {
            if let Some(reason) = &reason {
                self.metrics.quarantined.inc();
                tracing::error!(%product, %reason, "a product is quarantined: its release does not compile here");
            }
            let reason = reason.as_deref();
            let noted = self
                .store
                .run_tx("set_quarantine", |tx| Box::pin(async move { set_quarantine(tx, product, reason).await }))
                .await;
            if let Err(error) = noted {
                tracing::warn!(%product, %error, "the quarantine could not be noted");
            }
        }
    }
}

/// Compiling a large release takes its time; the other tasks of this thread shall not wait for it.
async fn compile(rows: SnapshotRows) -> Result<Records, BuildError> {
    if rows.products.is_empty() && rows.keys.len() + rows.subscriptions.len() < 1_000 {
        return Ok(records::compile_rows(rows));
    }
    Ok(tokio::task::spawn_blocking(move || records::compile_rows(rows)).await?)
}

fn expiry(entity: &EntityRef, record: &wire::Record) -> Option<(i64, Uuid)> {
    match &record.record {
        Some(wire::record::Record::Key(key)) => Some((key.expires_at_ms?, entity.id)),
        _ => None,
    }
}

fn token(state: FeedState) -> Token {
    Token { epoch: state.epoch, revision: unsigned(state.revision) }
}

/// The database's checks keep revisions from being negative.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
