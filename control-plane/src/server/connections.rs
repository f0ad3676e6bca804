//! The connections of the REST listener: how many there are, in all and from one address, how long a request's header may take, and how they end at a
//! stop. Refuses to let slow clients hold connections for ever, to stop in the middle of a request, and to wait for one longer
//! than the settings say.

mod seats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::api::state::AppState;
use crate::metrics::Metrics;
use crate::router;
use seats::Seats;

/// Pause after the system refused a connection, as when descriptors ran out: long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest request header in bytes (431): cookies and tokens are short.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most lines of a request header (431).
const HEADER_LINES_MAX: usize = 100;

/// Serves until `shutdown` is cancelled, then until the requests in flight are answered or the stop's time is up.
pub(crate) async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken) {
    let stop_timeout = state.settings.rest.stop_timeout;
    let connections = Connections {
        http: http(state.settings.rest.header_timeout),
        free: Arc::new(Semaphore::new(state.settings.rest.connections_max)),
        seats: Seats::new(state.settings.rest.connections_per_address_max, &state.settings.rest.trusted_proxies),
        metrics: state.metrics.clone(),
        open: TaskTracker::new(),
        router: router::build(state),
        shutdown,
    };
    connections.accept(&listener).await;
    // Whoever comes now is refused by the system and tries another control plane.
    drop(listener);
    connections.open.close();
    if tokio::time::timeout(stop_timeout, connections.open.wait()).await.is_err() {
        tracing::warn!("requests were still in flight when the stop's time was up");
    }
}

fn http(header_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADER_LINES_MAX);
    http
}

struct Connections {
    http: http1::Builder,
    free: Arc<Semaphore>,
    seats: Seats,
    metrics: Metrics,
    open: TaskTracker,
    router: Router,
    shutdown: CancellationToken,
}

impl Connections {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = next(listener, &self.free) => accepted,
            };
            let Some((stream, peer, permit)) = accepted else { continue };
            let Some(seat) = self.seats.take(peer.ip()) else {
                self.metrics.count_throttled("connections");
                continue;
            };
            let (http, router, shutdown) = (self.http.clone(), self.router.clone(), self.shutdown.clone());
            self.open.spawn(async move {
                answer(http, stream, peer, router, shutdown).await;
                drop((permit, seat));
            });
        }
    }
}

/// The next connection, once there is room for it.
async fn next(listener: &TcpListener, free: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // Nobody closes the semaphore.
    let permit = free.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// All requests of one connection. What a client does wrong is its own business: it is told nothing but the end.
async fn answer(
    http: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    // Answers are small; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    // A WebSocket takes the connection over; its own room bounds how many there are.
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}
