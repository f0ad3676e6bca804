//! Numbers changes: one session at a time, whichever control plane holds the advisory lock. Revisions are gap-free because a
//! batch and the counter move in one transaction; a change that commits late gets a later revision, so no reader misses it. A
//! server that may lack revisions begins a new epoch before it numbers. Refuses to wait for writers.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Signals;
use crate::store::changes::{self as rows, Channel};
use crate::store::{Store, StoreError};

/// Changes numbered at once: bounds the time of one transaction.
const BATCH_MAX: i64 = 1_000;
/// Where no signal came, look anyway.
const POLL: Duration = Duration::from_secs(1);
/// How often a process that does not lead asks for the lock: the longest that numbering rests after a leader died.
const LEAD_POLL: Duration = Duration::from_millis(250);
/// A statement that takes longer has lost its connection.
const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// Changes forgotten at once: so little that numbering hardly waits for it.
const PRUNE_MAX: i64 = 2_000;
/// How often old changes are looked for; and how soon again where there are more of them, so that they go as fast as they come.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
const PRUNE_AGAIN_INTERVAL: Duration = Duration::from_millis(250);
/// Pause after a lost session.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

pub(super) async fn run(store: Store, signals: Signals, kept_days: u32, shutdown: CancellationToken) {
    let work = async {
        loop {
            if let Err(error) = lead_session(&store, &signals, kept_days).await {
                tracing::warn!(%error, "numbering of changes was interrupted");
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn lead_session(store: &Store, signals: &Signals, kept_days: u32) -> Result<(), StoreError> {
    let (client, driver) = store.session().await?;
    let mut driving = AbortOnDropHandle::new(tokio::spawn(driver));
    bounded(rows::limit_idleness(&client)).await?;
    while !bounded(rows::try_lead(&client)).await? {
        tokio::time::sleep(LEAD_POLL).await;
    }
    follow_history(&client, signals).await?;
    let _lead = signals.lead();
    let numbering = bounded(rows::prepare_numbering(&client)).await?;
    let mut prune_at = Instant::now();
    loop {
        number_all(&client, &numbering, signals).await?;
        if Instant::now() >= prune_at {
            let pruned = bounded(rows::prune_changes(&client, kept_days, PRUNE_MAX)).await?;
            let are_more = pruned >= PRUNE_MAX.unsigned_abs();
            prune_at = Instant::now() + if are_more { PRUNE_AGAIN_INTERVAL } else { PRUNE_INTERVAL };
        }
        tokio::select! {
            () = signals.changes() => {}
            () = tokio::time::sleep(POLL) => {}
            _ = &mut driving => return Err(StoreError::unavailable("the numbering session ended")),
        }
    }
}

/// A session ends with its server, and a standby refuses the question: one answer holds for all that this session numbers.
async fn follow_history(client: &Client, signals: &Signals) -> Result<(), StoreError> {
    if bounded(rows::replace_foreign_epoch(client)).await? {
        tracing::warn!(
            "another Postgres server has taken over, or a backup was restored: a new epoch of the feed begins"
        );
        signals.raise(Channel::Numbered);
        bounded(rows::notify_from(client, Channel::Numbered)).await?;
    }
    Ok(())
}

async fn number_all(
    client: &Client,
    numbering: &tokio_postgres::Statement,
    signals: &Signals,
) -> Result<(), StoreError> {
    loop {
        let (count, newest) = bounded(rows::number_changes(client, numbering, BATCH_MAX)).await?;
        // Also where nothing was found: a writer may wait whose change another writer's signal already brought here.
        signals.raise(Channel::Numbered);
        if newest.is_some() {
            bounded(rows::notify_from(client, Channel::Numbered)).await?;
        }
        if count < BATCH_MAX {
            return Ok(());
        }
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(STATEMENT_MAX, work).await.unwrap_or_else(|_| Err(StoreError::unavailable("the numbering session hangs")))
}
