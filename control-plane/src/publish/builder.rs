//! Builds the snapshot from the database at a revision: everything at the start, and from then on only what changed. Each
//! step reads one moment, so every control plane builds the same. A product that does not compile never stops the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntGauge, Registry};
use snapshot::record::{EntityKind as RecordKind, EntityRef};
use snapshot::token::Token;
use snapshot::wire;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::book::{Book, HISTORY_CHANGES_MAX, RecordMap};
use super::records::{self, FLEET, QuarantineChange, Records};
use crate::changes::{EntityKind, Signals};
use crate::store::changes::{Change, list_changes, oldest_revision};
use crate::store::snapshot_rows::{
    EXPIRED_KEY_KEPT_MS, FeedState, SnapshotRows, Touched, add_followers, begin_moment, end_moment, load_all,
    load_touched, read_feed_state, set_quarantine,
};
use crate::store::{Store, StoreError, Transaction};

/// Where no signal came, look anyway.
const POLL: Duration = Duration::from_secs(1);
/// Pause after a failed step; the signals would otherwise make it spin.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// A step that takes longer gives its connection up and begins anew.
const STEP_MAX: Duration = Duration::from_secs(120);
/// More changes than this at once are read as a whole build: it costs less.
const CHANGES_MAX: i64 = 20_000;

pub struct Builder {
    store: Store,
    book: Arc<Book>,
    metrics: BuilderMetrics,
    /// Keys that expire, by when: they leave the snapshot some time after, without a change.
    expiring: std::collections::BTreeSet<(i64, Uuid)>,
}

#[derive(Clone)]
pub struct BuilderMetrics {
    /// Newest revision built.
    revision: IntGauge,
    /// Records in the snapshot.
    records: IntGauge,
    /// Whole builds.
    full_builds: IntCounter,
    /// Steps that failed and were tried again.
    failures: IntCounter,
    /// Products quarantined since the start.
    quarantined: IntCounter,
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

/// What one look at the database found.
enum Look {
    Unchanged,
    Everything { state: FeedState, rows: SnapshotRows, history: Vec<(u64, EntityRef)>, floor: u64 },
    Changed { state: FeedState, touched: Touched, rows: SnapshotRows },
}

impl BuilderMetrics {
    pub fn register(registry: &Registry) -> Result<BuilderMetrics, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(format!("control_plane_snapshot_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_snapshot_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        Ok(BuilderMetrics {
            revision: gauge("revision", "Newest revision built.")?,
            records: gauge("records", "Records in the snapshot.")?,
            full_builds: counter("full_builds_total", "Whole builds.")?,
            failures: counter("build_failures_total", "Steps that failed and were tried again.")?,
            quarantined: counter("quarantined_total", "Products whose release did not compile.")?,
        })
    }
}

impl Builder {
    pub fn new(store: Store, book: Arc<Book>, metrics: BuilderMetrics) -> Builder {
        Builder { store, book, metrics, expiring: Default::default() }
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
        let looking = tokio::time::timeout(STEP_MAX, self.look(have));
        let quarantine = match looking.await.map_err(|_| BuildError::TooSlow)?? {
            Look::Unchanged => return Ok(()),
            Look::Everything { state, rows, history, floor } => self.take_everything(state, rows, history, floor).await?,
            Look::Changed { state, touched, rows } => self.take_changed(state, &touched, rows).await?,
        };
        self.note_quarantine(quarantine).await;
        Ok(())
    }

    async fn look(&self, have: Option<Token>) -> Result<Look, StoreError> {
        let tx = begin_moment(&self.store).await?;
        let state = read_feed_state(&tx).await?;
        let look = match have.filter(|have| have.epoch == state.epoch) {
            Some(have) if revision(have) == state.revision => Look::Unchanged,
            Some(have) => self.look_since(&tx, state, revision(have)).await?,
            None => look_at_everything(&tx, state).await?,
        };
        end_moment(tx).await?;
        Ok(look)
    }

    async fn look_since(&self, tx: &Transaction<'_>, state: FeedState, have: i64) -> Result<Look, StoreError> {
        let distance = state.revision - have;
        if !(1..=CHANGES_MAX).contains(&distance) {
            return look_at_everything(tx, state).await;
        }
        let changes = list_changes(tx, have, state.revision).await?;
        // Revisions are gap-free; a missing one was forgotten by age.
        if i64::try_from(changes.len()) != Ok(distance) {
            return look_at_everything(tx, state).await;
        }
        let mut touched = touch(&changes);
        self.touch_former_plans(&mut touched);
        add_followers(tx, &mut touched).await?;
        let rows = load_touched(tx, &touched).await?;
        Ok(Look::Changed { state, touched, rows })
    }

    /// The plan that a subscription or key led to until now may have lost its last subscriber.
    fn touch_former_plans(&self, touched: &mut Touched) {
        let former = |kind, id: &Uuid| self.book.record(&EntityRef { kind, id: *id });
        let mut subscriptions: Vec<Uuid> = touched.subscriptions.iter().copied().collect();
        for key in touched.keys.iter().filter_map(|id| former(RecordKind::Key, id)) {
            if let Some(wire::record::Record::Key(key)) = &key.record {
                subscriptions.extend(Uuid::from_slice(&key.subscription_id));
            }
        }
        for subscription in subscriptions.iter().filter_map(|id| former(RecordKind::Subscription, id)) {
            if let Some(wire::record::Record::Subscription(subscription)) = &subscription.record {
                touched.plans.extend(Uuid::from_slice(&subscription.plan_id));
            }
        }
    }

    async fn take_everything(
        &mut self,
        state: FeedState,
        rows: SnapshotRows,
        history: Vec<(u64, EntityRef)>,
        floor: u64,
    ) -> Result<Vec<QuarantineChange>, BuildError> {
        let made = compile(rows).await?;
        let mut records: RecordMap = made.records.into_iter().map(|(entity, record)| (entity, Arc::new(record))).collect();
        records.insert(FLEET, Arc::new(records::fleet(state.fleet_max)));
        self.expiring = records.iter().filter_map(|(entity, record)| expiry(entity, record)).collect();
        self.metrics.full_builds.inc();
        self.publish_figures(state, records.len());
        self.book.replace(token(state), records, history, floor);
        Ok(made.quarantine_changes)
    }

    async fn take_changed(
        &mut self,
        state: FeedState,
        touched: &Touched,
        rows: SnapshotRows,
    ) -> Result<Vec<QuarantineChange>, BuildError> {
        let mut made = compile(rows).await?;
        let mut changed: BTreeMap<EntityRef, Option<wire::Record>> =
            entities(touched).map(|entity| (entity, made.records.remove(&entity))).collect();
        if touched.fleet {
            changed.insert(FLEET, Some(records::fleet(state.fleet_max)));
        }
        self.expire_keys(state.now_ms, &mut changed);
        let expiring = changed.iter().filter_map(|(entity, record)| expiry(entity, record.as_ref()?));
        self.expiring.extend(expiring);
        self.book.advance(token(state), changed);
        self.metrics.revision.set(state.revision);
        Ok(made.quarantine_changes)
    }

    /// Gateways refuse an expired key by their own clocks; here it only stops taking up room.
    fn expire_keys(&mut self, now_ms: i64, changed: &mut BTreeMap<EntityRef, Option<wire::Record>>) {
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

    fn publish_figures(&self, state: FeedState, records: usize) {
        self.metrics.revision.set(state.revision);
        self.metrics.records.set(i64::try_from(records).unwrap_or(i64::MAX));
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

/// Everything, and what of the past lets a gateway that was connected before resume with a delta.
async fn look_at_everything(tx: &Transaction<'_>, state: FeedState) -> Result<Look, StoreError> {
    let reach = i64::try_from(HISTORY_CHANGES_MAX).unwrap_or(i64::MAX);
    let oldest = oldest_revision(tx).await?.unwrap_or(state.revision + 1);
    let floor = (state.revision - reach).max(oldest - 1).clamp(0, state.revision);
    let changes = list_changes(tx, floor, state.revision).await?;
    let mut touched = touch(&changes);
    add_followers(tx, &mut touched).await?;
    let rows = load_all(tx).await?;
    let mut history: Vec<_> =
        changes.iter().filter_map(|change| Some((unsigned(change.revision), entity_of(change)?))).collect();
    history.extend(entities(&touched).map(|entity| (unsigned(state.revision), entity)));
    Ok(Look::Everything { state, rows, history, floor: unsigned(floor) })
}

/// Compiling a large release takes its time; the other tasks of this thread shall not wait for it.
async fn compile(rows: SnapshotRows) -> Result<Records, BuildError> {
    if rows.products.is_empty() && rows.keys.len() + rows.subscriptions.len() < 1_000 {
        return Ok(records::compile_rows(rows));
    }
    Ok(tokio::task::spawn_blocking(move || records::compile_rows(rows)).await?)
}

fn touch(changes: &[Change]) -> Touched {
    let mut touched = Touched::default();
    for change in changes {
        let set = match change.kind {
            EntityKind::Fleet => {
                touched.fleet = true;
                continue;
            }
            EntityKind::Organization => &mut touched.organizations,
            EntityKind::Product => &mut touched.products,
            EntityKind::Plan => &mut touched.plans,
            EntityKind::Subscription => &mut touched.subscriptions,
            EntityKind::Key => &mut touched.keys,
        };
        set.insert(change.entity);
    }
    touched
}

/// The record that a change is directly about; an organization has none of its own.
fn entity_of(change: &Change) -> Option<EntityRef> {
    let kind = match change.kind {
        EntityKind::Organization => return None,
        EntityKind::Fleet => return Some(FLEET),
        EntityKind::Product => RecordKind::Product,
        EntityKind::Plan => RecordKind::Plan,
        EntityKind::Subscription => RecordKind::Subscription,
        EntityKind::Key => RecordKind::Key,
    };
    Some(EntityRef { kind, id: change.entity })
}

fn entities(touched: &Touched) -> impl Iterator<Item = EntityRef> {
    let of = |kind, ids: &std::collections::BTreeSet<Uuid>| {
        ids.iter().map(move |id| EntityRef { kind, id: *id }).collect::<Vec<_>>()
    };
    of(RecordKind::Product, &touched.products)
        .into_iter()
        .chain(of(RecordKind::Plan, &touched.plans))
        .chain(of(RecordKind::Subscription, &touched.subscriptions))
        .chain(of(RecordKind::Key, &touched.keys))
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

fn revision(token: Token) -> i64 {
    i64::try_from(token.revision).unwrap_or(i64::MAX)
}

/// The database's checks keep revisions from being negative.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod rows;
#[cfg(test)]
mod tests;
