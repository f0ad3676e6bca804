//! Usage on its way from the stream into Postgres: read, counted in one transaction, and only then acknowledged. Whatever
//! fails is read again; whatever cannot be read is moved aside whole. Never exits before it is told to, and loses nothing.

pub mod billable;
pub mod event;
pub mod minutes;

mod consume;
mod metrics;
mod stream;
mod write;

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use metrics::IngestMetrics;
pub use stream::StreamError;

use crate::settings::Usage;
use crate::store::Store;
use consume::Consumer;
use stream::UsageStream;

/// Pause after the stream failed, doubled up to the maximum.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Entries that another consumer has not acknowledged for so long are taken over.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// Consumes until `shutdown`. Without a Redis URL there is nothing to do. Errors: the URL cannot be read.
pub async fn run(
    store: Store,
    usage: &Usage,
    metrics: IngestMetrics,
    shutdown: CancellationToken,
) -> Result<(), StreamError> {
    let Some(url) = &usage.redis_url else { return Ok(()) };
    let stream = UsageStream::new(url.expose(), &usage.stream, &usage.group, &usage.consumer)?;
    let consumer = Consumer::new(store, stream, metrics, ABANDONED_AFTER);
    tokio::select! {
        () = consume_for_ever(consumer) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

async fn consume_for_ever(mut consumer: Consumer) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        // What was read but not acknowledged is still pending in the stream and comes first after the reconnect.
        match consumer.consume().await {
            Ok(never) => match never {},
            Err(error) => {
                consumer.note_down(&error);
                if consumer.take_progress() {
                    back_off = BACK_OFF_MIN;
                }
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}
