//! Forwards Postgres notifications to this process's signals, on a session of its own. Reconnects for as long as the process
//! runs; decides nothing.

use std::future::poll_fn;
use std::time::Duration;

use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Signals;
use crate::postgres::Driver;
use crate::store::changes::{Channel, listen};
use crate::store::{Store, StoreError};

/// Pause before the next attempt after a session was lost. Meanwhile polling does the work.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

pub(super) async fn run(store: Store, signals: Signals, shutdown: CancellationToken) {
    let follow = async {
        loop {
            if let Err(error) = follow_session(&store, &signals).await {
                tracing::warn!(%error, "listening to Postgres was interrupted");
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = follow => {}
    }
}

async fn follow_session(store: &Store, signals: &Signals) -> Result<(), StoreError> {
    let (client, driver) = store.session().await?;
    let driving = AbortOnDropHandle::new(tokio::spawn(forward(driver, signals.clone())));
    listen(&client).await?;
    signals.raise_all();
    // The session lives until Postgres ends it; the client must live as long.
    let _ended = driving.await;
    drop(client);
    Err(StoreError::unavailable("the listening session ended"))
}

async fn forward(mut driver: Driver, signals: Signals) {
    while let Some(Ok(message)) = poll_fn(|context| driver.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message
            && let Some(channel) = Channel::parse(notification.channel())
        {
            signals.raise(channel);
        }
    }
}
