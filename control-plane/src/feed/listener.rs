//! Where the feed listens: a unix socket that only its owner may use, a loopback address, or any address with TLS. Refuses an
//! open address without a certificate, and TCP without a token.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snapshot::wire;
use snapshot::wire::feed_server::FeedServer;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::Feed;
use crate::settings::{self, FeedListen};

/// A peer that does not answer a ping in this time is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("the feed listens on {0}, which is not a loopback address, so it needs a certificate and a key")]
    NeedsTls(SocketAddr),
    #[error("the feed listens on TCP, so it needs a token")]
    NeedsToken,
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the feed cannot listen on {place}: {source}")]
    Bind { place: String, source: io::Error },
    #[error("another process listens on {0}")]
    InUse(PathBuf),
    #[error("the feed stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Bound, but not served yet.
pub struct Listener {
    socket: Socket,
    tls: Option<ServerTlsConfig>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub async fn bind(settings: &settings::Feed) -> Result<Listener, FeedError> {
        let tls = settings.tls.as_ref().map(read_identity).transpose()?;
        let socket = match &settings.listen {
            FeedListen::Unix(path) => bind_unix(path).await?,
            FeedListen::Tcp(address) => {
                if !address.ip().is_loopback() && tls.is_none() {
                    return Err(FeedError::NeedsTls(*address));
                }
                if settings.token.is_none() {
                    return Err(FeedError::NeedsToken);
                }
                let bound = TcpListener::bind(address).await;
                Socket::Tcp(bound.map_err(|source| FeedError::Bind { place: address.to_string(), source })?)
            }
        };
        Ok(Listener { socket, tls })
    }

    /// The TCP address, with its port.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, feed: Feed, shutdown: CancellationToken) -> Result<(), FeedError> {
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_concurrent_streams(Some(4));
        if let Some(tls) = self.tls {
            server = server.tls_config(tls)?;
        }
        let service = FeedServer::new(feed)
            .max_decoding_message_size(wire::FEED_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(wire::FEED_MESSAGE_BYTES_MAX);
        match self.socket {
            Socket::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                server.serve_with_incoming_shutdown(service, incoming, shutdown.cancelled_owned()).await?;
            }
            Socket::Unix(listener, path) => {
                let incoming = UnixListenerStream::new(listener);
                server.serve_with_incoming_shutdown(service, incoming, shutdown.cancelled_owned()).await?;
                let _gone_already = std::fs::remove_file(path);
            }
        }
        Ok(())
    }
}

fn read_identity(tls: &settings::FeedTls) -> Result<ServerTlsConfig, FeedError> {
    let read = |path: &Path| std::fs::read(path).map_err(|source| FeedError::File { path: path.to_owned(), source });
    Ok(ServerTlsConfig::new().identity(Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?)))
}

/// A socket file that nobody answers on is a dead process's, and is replaced.
async fn bind_unix(path: &Path) -> Result<Socket, FeedError> {
    let fault = |source| FeedError::Bind { place: path.display().to_string(), source };
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(FeedError::InUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(fault)?;
    }
    let listener = UnixListener::bind(path).map_err(fault)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
    Ok(Socket::Unix(listener, path.to_owned()))
}
