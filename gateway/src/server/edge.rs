//! The application between a connection and the proxy: serves its requests one after the other
//! (HTTP/1) or side by side (HTTP/2), each under watch. It refuses to look into a request.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp as _, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, HttpSession, default_h2_options, handshake};
use pingora_core::protocols::{ALPN, Digest, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use super::door::Door;
use super::stop::QUIET;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::metrics::labels::ConnectionRefusal;
use crate::proxy::lifeline::{Connection, Cut, Lifeline, Ticker, WatchRules, watch};
use crate::proxy::{Gateway, KEPT_ALIVE};
use crate::settings::Client;

/// Malformed streams after which an HTTP/2 connection is closed; the framework's own loop has the same bound.
const MALFORMED_STREAMS_MAX: u32 = 32;
/// One for all listeners of clients.
pub(super) struct Edge {
    pub(super) proxy: Arc<HttpProxy<Gateway>>,
    pub(super) door: Arc<Door>,
    pub(super) live: Live,
    pub(super) metrics: Arc<Metrics>,
    pub(super) client: Client,
}

#[async_trait]
impl ServerApp for Edge {
    /// Serves a connection to its end; none is ever handed back.
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        // What came through TLS was let in before its handshake, and its permit goes with its socket.
        let _permit = match stream.get_ssl_digest() {
            Some(_) => None,
            None => Some(self.door.enter(stream.get_socket_digest().as_deref())?),
        };
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            self.serve_http2(stream, shutdown.clone()).await;
        } else {
            Box::pin(self.serve_http1(stream, shutdown)).await;
        }
        None
    }

    /// The listeners are closed. Idle connections are closed next, but not before those that were just accepted had the time
    /// to send what they came for.
    async fn cleanup(&self) {
        tokio::time::sleep(QUIET).await;
        self.proxy.http_cleanup().await;
    }
}

impl Edge {
    async fn serve_http1(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let connection = Arc::new(Connection::default());
        let mut session = ServerSession::new_http1(stream);
        session.set_read_timeout(Some(self.client.header_timeout));
        let is_stopping = *shutdown.borrow();
        session.set_keepalive((!is_stopping).then_some(KEPT_ALIVE));
        session.set_keepalive_reuses_remaining(Some(self.client.requests_per_connection_max));
        // Holds for its successors too, which begin with what was read too much.
        session.set_pipelining_enabled(true);
        let mut is_first = true;
        let mut ticker = Ticker::new(self.watch_rules());
        while let Some((stream, settings)) =
            self.serve(session, shutdown, &connection, is_first, &mut ticker).await.map(ReusedHttpStream::consume)
        {
            is_first = false;
            session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
        }
    }

    /// One request. `None`: the connection is over.
    async fn serve(
        &self,
        session: ServerSession,
        shutdown: &ShutdownWatch,
        connection: &Arc<Connection>,
        is_first: bool,
        ticker: &mut Ticker,
    ) -> Option<ReusedHttpStream> {
        let lifeline = Arc::new(Lifeline::new(connection.clone()));
        // Pinned where it is made: its future is large, and a box for each request costs an allocation and a copy of all of it.
        let serving = pin!(self.proxy.serve(session, shutdown));
        let served = watch(lifeline.clone(), self.watch_rules(), is_first, ticker, &self.live, serving).await;
        if is_first && lifeline.cut() == Some(Cut::HeaderDeadline) {
            self.metrics.connection_refused(ConnectionRefusal::HeaderDeadline);
        }
        served.flatten()
    }

    async fn serve_http2(self: &Arc<Self>, stream: Stream, mut shutdown: ShutdownWatch) {
        let digest = Arc::new(Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        });
        let handshake = handshake(stream, Some(default_h2_options()));
        let Ok(Ok(mut http2)) = tokio::time::timeout(self.client.header_timeout, handshake).await else { return };
        let connection = Arc::new(Connection::default());
        let stop = shutdown.clone();
        let mut is_stopping = false;
        let mut malformed = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = connection.is_abused() => {
                    self.metrics.connection_refused(ConnectionRefusal::Resets);
                    return;
                }
                _ = shutdown.changed(), if !is_stopping => {
                    http2.graceful_shutdown();
                    is_stopping = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(&mut http2, digest.clone()) => accepted,
                () = tokio::time::sleep(self.client.http2_idle_timeout) => {
                    if connection.streams.load(Ordering::Relaxed) == 0 {
                        return;
                    }
                    continue;
                }
            };
            match accepted {
                Ok(Some(H2Accept::Session(session))) => self.start_stream(session, &connection, &stop),
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    if malformed >= MALFORMED_STREAMS_MAX {
                        return;
                    }
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn start_stream(self: &Arc<Self>, session: HttpSession, connection: &Arc<Connection>, stop: &ShutdownWatch) {
        let (edge, connection, stop) = (self.clone(), connection.clone(), stop.clone());
        connection.streams.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let open = OpenStream(connection);
            let mut ticker = Ticker::new(edge.watch_rules());
            edge.serve(ServerSession::new_http2(session), &stop, &open.0, true, &mut ticker).await;
        });
    }

    fn watch_rules(&self) -> WatchRules {
        WatchRules {
            header_timeout: self.client.header_timeout,
            keepalive_timeout: self.client.keepalive_timeout,
            body_rate_bytes_min: self.client.body_rate_bytes_min,
        }
    }
}

/// Keeps its connection from being idle.
struct OpenStream(Arc<Connection>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
