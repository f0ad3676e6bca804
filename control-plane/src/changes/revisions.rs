//! What a writer asks after its commit: which revision did my change get, and who serves it? Waits with a limit, and answers
//! from the database, so that any control plane gives the same answer.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{ChangeId, NodeLag, Signals, listener, sequencer};
use crate::store::changes::{Channel, find_revision, notify};
use crate::store::nodes::list_lagging;
use crate::store::{Store, StoreError};
use crate::watched;

/// A change without a number after so long is reported as such; it still gets one.
const NUMBERED_WITHIN: Duration = Duration::from_secs(5);
/// Where no signal came, look anyway.
const POLL: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub struct Revisions {
    store: Store,
    signals: Signals,
}

/// Who lacks a revision; nobody, if it is served everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub missing: Vec<NodeLag>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotNumbered {
    #[error("the change is stored, but has no revision after {} s", NUMBERED_WITHIN.as_secs())]
    TooLate,
    #[error("the change is stored, but its revision cannot be read: {0}")]
    Store(#[from] StoreError),
}

impl Revisions {
    /// Spawns this process's listener and its candidate for numbering, which also forgets changes after `kept_days`; both end
    /// with `shutdown`.
    pub fn start(store: Store, kept_days: u32, shutdown: &CancellationToken) -> Revisions {
        let signals = Signals::default();
        watched::spawn("listener", shutdown, listener::run(store.clone(), signals.clone(), shutdown.clone()));
        let numbering = sequencer::run(store.clone(), signals.clone(), kept_days, shutdown.clone());
        watched::spawn("sequencer", shutdown, numbering);
        Revisions { store, signals }
    }

    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The revision of a committed change, as soon as it has one. A Postgres that fails over meanwhile is asked again.
    pub async fn numbered(&self, change: ChangeId) -> Result<u64, NotNumbered> {
        let deadline = Instant::now() + NUMBERED_WITHIN;
        let mut numbered = self.signals.numbered();
        if let Err(error) = self.nudge().await {
            tracing::debug!(%error, "the numbering could not be woken; it looks by itself");
        }
        // The leader of this process signals after every look, also after one that found nothing; one elsewhere does not.
        let mut look_first = !self.signals.leads();
        loop {
            if !look_first {
                wait(&mut numbered, deadline).await;
            }
            look_first = false;
            let found = find_revision(&self.store, change).await;
            if let Ok(Some(revision)) = found {
                return Ok(revision);
            }
            if Instant::now() >= deadline {
                return found.map_err(NotNumbered::from).and(Err(NotNumbered::TooLate));
            }
        }
    }

    /// Waits until every expected node serves `revision`, at most for `patience`; says who does not. A Postgres that fails over
    /// meanwhile is asked again; errors: it does not answer at the end either.
    pub async fn served(&self, revision: u64, patience: Duration) -> Result<Served, StoreError> {
        let deadline = Instant::now() + patience;
        let mut acks = self.signals.acks();
        loop {
            let asked = list_lagging(&self.store, revision).await;
            let is_answer = asked.as_ref().is_ok_and(Vec::is_empty);
            if is_answer || Instant::now() >= deadline {
                return asked.map(|missing| Served { missing });
            }
            wait(&mut acks, deadline).await;
        }
    }

    /// Wakes whoever numbers: here for nothing, elsewhere by a notification.
    async fn nudge(&self) -> Result<(), StoreError> {
        self.signals.raise(Channel::Changes);
        if self.signals.leads() { Ok(()) } else { notify(&self.store, Channel::Changes).await }
    }
}

/// Until a signal, the next poll or the deadline, whichever is first.
async fn wait(signal: &mut watch::Receiver<u64>, deadline: Instant) {
    let limit = POLL.min(deadline.saturating_duration_since(Instant::now()));
    let _signal_or_poll = timeout(limit, signal.changed()).await;
}
