//! Acknowledgements on their way to the store, and who is connected here: while one write is under way the next ones gather,
//! newest per process. Holds at most one per process of a node, and loses none while Postgres is away: the newest says all.

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
use crate::store::fleet::make_room;
use crate::store::nodes::{AckRow, UNLISTED, mark_disconnected, save_acks, touch_processes};
use crate::store::{Store, StoreError};

/// Pause after a failed write.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often connected processes are marked as seen.
const TOUCH_INTERVAL: Duration = Duration::from_secs(2);
/// Refusals stored of one acknowledgement; the rest is counted.
const REFUSALS_MAX: usize = 100;
/// Longest stored reason, in characters.
const REASON_CHARS_MAX: usize = 300;

/// A node's id and the boot id of one of its processes: during an upgrade two are there.
type Process = (Uuid, Uuid);

#[derive(Clone)]
pub(super) struct AckWriter {
    store: Store,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<HashMap<Process, AckRow>>,
    /// How many streams each connected process has here.
    connected: Mutex<HashMap<Process, usize>>,
    wake: Notify,
    /// Held while presence is looked at and written down, so that no older look is written last.
    writing: tokio::sync::Mutex<()>,
}

/// While it lives, the process counts as connected.
pub(super) struct Presence {
    shared: Arc<Shared>,
    process: Process,
}

impl AckWriter {
    pub(super) fn start(store: Store, signals: Signals, shutdown: CancellationToken) -> AckWriter {
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(Arc::clone(&shared), store.clone(), signals.clone(), shutdown.clone()));
        tokio::spawn(touch(Arc::clone(&shared), store.clone(), signals, shutdown));
        AckWriter { store, shared }
    }

    pub(super) fn put(&self, ack: AckRow) {
        lock(&self.shared.waiting).insert((ack.node_id, ack.boot_id), ack);
        self.shared.wake.notify_one();
    }

    pub(super) fn enter(&self, node: Uuid, boot_id: Uuid) -> Presence {
        let process = (node, boot_id);
        *lock(&self.shared.connected).entry(process).or_default() += 1;
        Presence { shared: Arc::clone(&self.shared), process }
    }

    /// A stream has ended. Another one of the same process may have begun meanwhile: then it goes on being connected.
    pub(super) async fn leave(&self, presence: Presence) -> Result<(), StoreError> {
        let process @ (node, boot_id) = presence.process;
        drop(presence);
        let _writing = self.shared.writing.lock().await;
        if self.shared.is_connected(process) { Ok(()) } else { mark_disconnected(&self.store, node, boot_id).await }
    }
}

impl Shared {
    fn is_connected(&self, process: Process) -> bool {
        lock(&self.connected).contains_key(&process)
    }

    fn take_waiting(&self) -> Vec<AckRow> {
        let acks: Vec<_> = lock(&self.waiting).drain().collect();
        acks.into_iter().map(|(process, ack)| AckRow { is_connected: self.is_connected(process), ..ack }).collect()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connected = lock(&self.shared.connected);
        if let Some(count) = connected.get_mut(&self.process) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.process);
            }
        }
    }
}

/// A gateway's acknowledgement as it is stored. `None` where its token makes no sense.
pub(super) fn ack_row(node_id: Uuid, boot_id: Uuid, ack: &wire::Ack) -> Option<AckRow> {
    let token = Token::try_from(ack.served.as_ref()?).ok()?;
    let revision = i64::try_from(token.revision).ok()?;
    let refusals = refusals_json(&ack.refusals);
    Some(AckRow { node_id, boot_id, is_connected: true, epoch: token.epoch, revision, refusals })
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
        listed.push(serde_json::json!({ "entity": UNLISTED, "reason": reason }));
    }
    serde_json::Value::Array(listed)
}

async fn write(shared: Arc<Shared>, store: Store, signals: Signals, shutdown: CancellationToken) {
    let work = async {
        loop {
            shared.wake.notified().await;
            let writing = shared.writing.lock().await;
            let acks = shared.take_waiting();
            if acks.is_empty() {
                continue;
            }
            let saved = save_acks(&store, &acks).await;
            drop(writing);
            match saved {
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
        waiting.entry((ack.node_id, ack.boot_id)).or_insert(ack);
    }
    shared.wake.notify_one();
}

async fn touch(shared: Arc<Shared>, store: Store, signals: Signals, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TOUCH_INTERVAL) => {}
        }
        let _writing = shared.writing.lock().await;
        let processes: Vec<Process> = lock(&shared.connected).keys().copied().collect();
        if processes.is_empty() {
            continue;
        }
        if let Err(error) = touch_processes(&store, &processes).await {
            tracing::debug!(%error, "connected gateways could not be marked as seen");
        }
        // A process that was forgotten too early has come back without a hello.
        match make_room(&store).await {
            Ok(Some(_)) => signals.raise(Channel::Changes),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the size of the fleet could not be compared with its nodes"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
