//! What time does to rows: periods of subscriptions move on; ended sessions, expired idempotency keys and live tickets go.
//! Several control planes may do it at once. Knows no schedule: the jobs have it.

use crate::store::{Store, StoreError, idempotency, live, sessions};

mod periods;

#[cfg(test)]
mod tests;

pub(crate) use periods::advance;

/// Ends what was to end by now, and moves every period that is over.
pub(crate) async fn move_periods(store: &Store) -> Result<(), StoreError> {
    periods::run(store).await
}

/// Errors: the first that occurred, after all were tried.
pub(crate) async fn remove_expired(store: &Store) -> Result<(), StoreError> {
    let sessions = sessions::delete_ended_sessions(store).await;
    let keys = idempotency::delete_expired_keys(store).await;
    let tickets = live::delete_expired_tickets(store).await;
    sessions.and(keys).and(tickets)
}
