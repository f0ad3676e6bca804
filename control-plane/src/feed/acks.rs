//! Acknowledgements on their way to `nodes`: while one write is under way the next ones gather, newest per node. Holds at
//! most one per node, and loses none while Postgres is away: a node's newest says everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use snapshot::record::EntityRef;
use snapshot::token::Token;
use snapshot::wire;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::changes::Signals;
use crate::store::changes::Channel;
use crate::store::nodes::{AckRow, save_acks, touch_nodes};
use crate::store::{Store, StoreError};

/// Pause after a failed write.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often connected nodes are marked as seen.
const TOUCH_INTERVAL: Duration = Duration::from_secs(2);
/// Refusals stored of one acknowledgement; the rest is counted.
const REFUSALS_MAX: usize = 100;
/// Longest stored reason, in characters.
const REASON_CHARS_MAX: usize = 300;

#[derive(Clone)]
pub(super) struct AckWriter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<HashMap<Uuid, AckRow>>,
    /// How many streams each connected node has here.
    connected: Mutex<HashMap<Uuid, usize>>,
    wake: Notify,
}

/// While it lives, the node counts as connected.
pub(super) struct Presence {
    shared: Arc<Shared>,
    node: Uuid,
}

impl AckWriter {
    pub(super) fn start(store: Store, signals: Signals, shutdown: CancellationToken) -> AckWriter {
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(Arc::clone(&shared), store.clone(), signals, shutdown.clone()));
        tokio::spawn(touch(Arc::clone(&shared), store, shutdown));
        AckWriter { shared }
    }

    pub(super) fn put(&self, ack: AckRow) {
        lock(&self.shared.waiting).insert(ack.node_id, ack);
        self.shared.wake.notify_one();
    }

    pub(super) fn enter(&self, node: Uuid) -> Presence {
        *lock(&self.shared.connected).entry(node).or_default() += 1;
        Presence { shared: Arc::clone(&self.shared), node }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connected = lock(&self.shared.connected);
        if let Some(count) = connected.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.node);
            }
        }
    }
}

/// A gateway's acknowledgement as it is stored. `None` where its token makes no sense.
pub(super) fn ack_row(node_id: Uuid, boot_id: Uuid, ack: &wire::Ack) -> Option<AckRow> {
    let token = Token::try_from(ack.served.as_ref()?).ok()?;
    let revision = i64::try_from(token.revision).ok()?;
    Some(AckRow { node_id, boot_id, epoch: token.epoch, revision, refusals: refusals_json(&ack.refusals) })
}

fn refusals_json(refusals: &[wire::Refusal]) -> serde_json::Value {
    let mut listed: Vec<serde_json::Value> = refusals
        .iter()
        .take(REFUSALS_MAX)
        .map(|refusal| {
            let entity = refusal.entity.as_ref().and_then(|entity| EntityRef::try_from(entity).ok());
            let entity = entity.map_or_else(|| "an unknown entity".to_owned(), |entity| entity.to_string());
            let reason = refusal.reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect::<String>();
            serde_json::json!({ "entity": entity, "reason": reason })
        })
        .collect();
    if refusals.len() > REFUSALS_MAX {
        let reason = format!("and {} more", refusals.len() - REFUSALS_MAX);
        listed.push(serde_json::json!({ "entity": "others", "reason": reason }));
    }
    serde_json::Value::Array(listed)
}

async fn write(shared: Arc<Shared>, store: Store, signals: Signals, shutdown: CancellationToken) {
    let work = async {
        loop {
            shared.wake.notified().await;
            let acks: Vec<AckRow> = lock(&shared.waiting).drain().map(|(_, ack)| ack).collect();
            if acks.is_empty() {
                continue;
            }
            match save_acks(&store, &acks).await {
                Ok(()) => signals.raise(Channel::Acks),
                Err(error) => put_back(&shared, acks, &error).await,
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn put_back(shared: &Shared, acks: Vec<AckRow>, error: &StoreError) {
    tracing::warn!(%error, "acknowledgements could not be stored yet");
    tokio::time::sleep(RETRY_DELAY).await;
    let mut waiting = lock(&shared.waiting);
    for ack in acks {
        waiting.entry(ack.node_id).or_insert(ack);
    }
    shared.wake.notify_one();
}

async fn touch(shared: Arc<Shared>, store: Store, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TOUCH_INTERVAL) => {}
        }
        let nodes: Vec<Uuid> = lock(&shared.connected).keys().copied().collect();
        if nodes.is_empty() {
            continue;
        }
        if let Err(error) = touch_nodes(&store, &nodes).await {
            tracing::debug!(%error, "connected nodes could not be marked as seen");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
