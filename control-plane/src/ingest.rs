//! Usage on its way from the stream into Postgres: read, counted in one transaction, and only then acknowledged. Whatever
//! fails is read again; whatever cannot be read is moved aside. Never exits before it is told to, and loses nothing.

mod consume;
mod event;
mod metrics;
mod stream;
mod write;

#[cfg(test)]
mod exactness_tests;
#[cfg(test)]
mod rate_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::task::JoinSet;
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

/// Consumers that have not begun: members of one group, so that each entry is one's.
pub struct Ingest {
    consumers: Vec<Consumer>,
}

impl Ingest {
    /// `None` without a Redis URL: then there is nothing to consume. Errors: the URL cannot be read. Does not connect.
    pub fn new(store: Store, usage: &Usage, metrics: IngestMetrics) -> Result<Option<Ingest>, StreamError> {
        let Some(url) = &usage.redis_url else { return Ok(None) };
        let mut consumers = Vec::with_capacity(usage.consumers);
        for number in 1..=usage.consumers {
            let name = if number == 1 { usage.consumer.clone() } else { format!("{}-{number}", usage.consumer) };
            let stream = UsageStream::new(url.expose(), &usage.stream, &usage.group, &name)?;
            let (store, metrics) = (store.clone(), metrics.clone());
            consumers.push(Consumer::new(store, stream, metrics, ABANDONED_AFTER, usage.log_one_in));
        }
        Ok(Some(Ingest { consumers }))
    }

    /// Consumes until `shutdown`. A consumer that panics ends all of it.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut running: JoinSet<()> = self.consumers.into_iter().map(consume_for_ever).collect();
        tokio::select! {
            _ended = running.join_next() => {}
            () = shutdown.cancelled() => {}
        }
    }
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
