//! Live usage: what gateways saw a moment ago, read from their stream once and fanned out to whoever watches. Best effort,
//! never billed: a watcher who is too slow is told what he missed, and holds nobody up. Refuses to know sockets, and who may
//! see what.

mod channel;
mod decode;
mod directory;
mod hub;
mod message;
mod metrics;
mod moment;
mod recent;
mod seats;
mod source;
pub mod topic;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use message::{Status, notice_of_status};
pub use metrics::LiveMetrics;
pub use seats::{NoSeat, Seat};
pub use source::SourceError;
use topic::Watch;

use crate::settings::Usage;
use crate::store::Store;
use crate::watched;
use decode::Intake;
use directory::Directory;
use hub::{Command, Hub};
use seats::Seats;
use source::Source;

/// Messages that wait for one watcher; beyond it he misses some and is told.
pub const QUEUE_MESSAGES_MAX: usize = 64;
/// Orders of watchers that wait for the hub.
const COMMANDS_MAX: usize = 256;
/// Batches that wait for the hub; beyond it they wait in the stream, which is trimmed.
const MOMENTS_MAX: usize = 64;
/// How long a watcher waits for the hub to take an order: it does nothing that waits.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a stop waits for the farewells of all connections.
const FAREWELLS_MAX: Duration = Duration::from_secs(2);

/// How a connection is kept; tests hurry it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often the other side is asked for a sign of life.
    pub heartbeat: Duration,
    /// A connection that was silent for so long is cut.
    pub idle_max: Duration,
    /// How often it is asked whether the watcher still may see what he watches.
    pub recheck: Duration,
    /// Without an answer to that for so long, he is let go: nothing fails open.
    pub unchecked_max: Duration,
    /// One message may take so long to be taken.
    pub send_wait_max: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            heartbeat: Duration::from_secs(20),
            idle_max: Duration::from_secs(60),
            recheck: Duration::from_secs(3),
            unchecked_max: Duration::from_secs(30),
            send_wait_max: Duration::from_secs(5),
        }
    }
}

/// A handle; cheap to clone.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    /// Without a source the state never changes.
    _unchanging: Option<watch::Sender<Status>>,
    seats: Arc<Seats>,
    next_watcher: AtomicU64,
    pace: Pace,
    shutdown: CancellationToken,
    metrics: LiveMetrics,
}

/// The hub did not take an order: it ends, or is far behind.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the live hub does not answer")]
pub struct HubGone;

/// A message of a topic, as JSON.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Whoever left it meanwhile must not be sent it any more.
    pub watch: Watch,
    pub bytes: Bytes,
}

/// One connection's place at the hub: what it is sent comes out of the receiver it was made with.
#[derive(Clone)]
pub struct Watcher {
    id: u64,
    outbox: mpsc::Sender<Outgoing>,
    commands: mpsc::Sender<Command>,
}

impl Live {
    /// Starts the reader and the hub; both end with `shutdown`. Errors: the URL of Redis cannot be read.
    pub fn start(
        store: Store,
        usage: &Usage,
        metrics: LiveMetrics,
        pace: Pace,
        shutdown: &CancellationToken,
    ) -> Result<Live, SourceError> {
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (moments, arriving) = mpsc::channel(MOMENTS_MAX);
        let source = usage.redis_url.as_ref().map(|url| Source::new(url.expose())).transpose()?;
        let (status, told) = watch::channel(Status::at_start(source.is_some()));
        let hub = Hub::new(metrics.clone()).run(orders, arriving, shutdown.clone());
        watched::spawn("live hub", shutdown, hub);
        let mut unchanging = None;
        match source {
            Some(source) => {
                let intake = Intake::new(Directory::new(store), moments, status, metrics.clone());
                watched::spawn("live source", shutdown, source::follow(source, intake, shutdown.clone()));
            }
            None => unchanging = Some(status),
        }
        let inner = Inner {
            commands,
            status: told,
            _unchanging: unchanging,
            seats: Arc::new(Seats::default()),
            next_watcher: AtomicU64::new(0),
            pace,
            shutdown: shutdown.clone(),
            metrics,
        };
        Ok(Live { inner: Arc::new(inner) })
    }

    /// A place for one more connection of this user, until it is dropped. Errors: which bound is reached.
    pub fn take_seat(&self, user: Uuid) -> Result<Seat, NoSeat> {
        Seats::take(&self.inner.seats, user, self.inner.metrics.connections.clone())
    }

    /// A new watcher and what he will be sent. Dropping the receiver ends it.
    pub fn join(&self) -> (Watcher, mpsc::Receiver<Outgoing>) {
        let (outbox, inbox) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let id = self.inner.next_watcher.fetch_add(1, Ordering::Relaxed);
        (Watcher { id, outbox, commands: self.inner.commands.clone() }, inbox)
    }

    /// Whether the stream is followed.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    pub fn pace(&self) -> Pace {
        self.inner.pace
    }

    /// At a stop: until every connection has said farewell, or has had its time for it.
    pub async fn ended(&self) {
        let _in_time = tokio::time::timeout(FAREWELLS_MAX, self.inner.seats.all_given_back()).await;
    }

    /// Cancelled when the process stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }
}

impl Watcher {
    /// The topic's snapshot comes, then its deltas. Once more while it is watched: a snapshot anew.
    pub async fn watch(&self, watch: Watch) -> Result<(), HubGone> {
        self.order(Command::Watch { watcher: self.id, watch, outbox: self.outbox.clone() }).await
    }

    pub async fn leave(&self, watch: Watch) -> Result<(), HubGone> {
        self.order(Command::Leave { watcher: self.id, watch }).await
    }

    async fn order(&self, command: Command) -> Result<(), HubGone> {
        self.commands.send_timeout(command, COMMAND_WAIT_MAX).await.map_err(|_| HubGone)
    }
}
