//! The feed: one long-lived stream per gateway that hands it the snapshot and every change, and takes its acknowledgements.
//! Reads the book and writes `nodes`; builds nothing and decides nothing about requests.

mod acks;
mod bearer;
mod hello;
mod lags;
pub mod listener;
mod metrics;
mod room;
mod session;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use snapshot::wire;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub use bearer::Bearer;
pub use listener::{FeedError, Listener};
pub use metrics::FeedMetrics;

use crate::changes::Revisions;
use crate::publish::book::Book;
use crate::store::Store;
use acks::AckWriter;

/// Gateways at one control plane.
const SESSIONS_MAX: usize = 1_000;
/// Full snapshots sent at the same time: bounds memory and bandwidth when a whole fleet comes back.
const FULL_SENDS_MAX: usize = 4;
/// Messages that wait for a slow gateway; beyond, its next delta is made later and larger.
const OUTBOUND_MESSAGES_MAX: usize = 2;

/// Answers `Follow`; cheap to clone.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    book: Arc<Book>,
    revisions: Revisions,
    bearer: Option<Bearer>,
    acks: AckWriter,
    sessions: Arc<Semaphore>,
    full_sends: Semaphore,
    metrics: FeedMetrics,
    shutdown: CancellationToken,
}

impl Feed {
    /// Spawns the writer of acknowledgements; all sessions end with `shutdown`. Without a bearer everybody who reaches the
    /// listener may follow: for unix sockets alone.
    pub fn start(
        store: Store,
        book: Arc<Book>,
        revisions: &Revisions,
        bearer: Option<Bearer>,
        metrics: FeedMetrics,
        shutdown: &CancellationToken,
    ) -> Feed {
        let acks = AckWriter::start(store.clone(), revisions.signals().clone(), shutdown.clone());
        let shared = Shared {
            store,
            book,
            revisions: revisions.clone(),
            bearer,
            acks,
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            full_sends: Semaphore::new(FULL_SENDS_MAX),
            metrics,
            shutdown: shutdown.clone(),
        };
        Feed { shared: Arc::new(shared) }
    }
}

#[tonic::async_trait]
impl wire::feed_server::Feed for Feed {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<wire::ToGateway, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<wire::FromGateway>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        if let Some(bearer) = &self.shared.bearer {
            bearer.check(request.metadata())?;
        }
        let slot = Arc::clone(&self.shared.sessions).try_acquire_owned();
        let slot = slot.map_err(|_| Status::resource_exhausted("this control plane serves too many gateways"))?;
        let address = request.remote_addr().map(|address| address.to_string());
        let (outbound, stream) = mpsc::channel(OUTBOUND_MESSAGES_MAX);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let _slot = slot;
            session::run(shared, request.into_inner(), outbound, address).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
