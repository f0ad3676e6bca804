//! The door of all listeners: a connection is let in, or closed at once and counted. On the TLS listener it stands before the
//! handshake, so that whoever is one too many costs none. It refuses to look into a connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::listeners::PreTlsProcess;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::{GetSocketDigest as _, Peek as _, SocketDigest};
use pingora_core::{Error, ErrorType, Result};
use tokio::time::timeout;

use super::guard::{ConnectionGuard, Permit};
use crate::held::hold;
use crate::metrics::Metrics;
use crate::metrics::labels::ConnectionRefusal;
use crate::settings::Settings;

/// The connection was refused, or never said a word.
const NOT_LET_IN: ErrorType = ErrorType::new("NotLetIn");
/// The state of a socket whose other end has sent a reset: `TCP_CLOSE` of the kernel.
const TCP_CLOSED: u8 = 7;

pub(super) struct Door {
    guard: ConnectionGuard,
    metrics: Arc<Metrics>,
    header_timeout: Duration,
}

impl Door {
    pub(super) fn new(settings: &Settings, metrics: Arc<Metrics>) -> Door {
        let guard = ConnectionGuard::new(&settings.limits);
        Door { guard, metrics, header_timeout: settings.client.header_timeout }
    }

    /// `None`: the connection must be closed; why was counted.
    pub(super) fn enter(&self, socket: Option<&SocketDigest>) -> Option<Permit> {
        let entered = match socket {
            // Its request could still be read, and would cost as much as one that somebody waits for.
            Some(socket) if was_reset(socket) => Err(ConnectionRefusal::Gone),
            socket => self.guard.admit(socket.and_then(address)),
        };
        entered.inspect_err(|reason| self.metrics.connection_refused(*reason)).ok()
    }
}

#[async_trait]
impl PreTlsProcess for Door {
    /// The handshake itself has the framework's own time, a minute; it is counted as a connection from here on.
    async fn process(&self, stream: &mut Stream) -> Result<()> {
        let Some(permit) = self.enter(stream.get_socket_digest().as_deref()) else {
            return Error::e_explain(NOT_LET_IN, "before its TLS handshake");
        };
        hold(stream, permit);
        match timeout(self.header_timeout, stream.try_peek(&mut [0])).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Error::e_because(NOT_LET_IN, "it left before its TLS handshake", error),
            Err(_) => {
                self.metrics.connection_refused(ConnectionRefusal::HeaderDeadline);
                Error::e_explain(NOT_LET_IN, "it never began its TLS handshake")
            }
        }
    }
}

/// Whether the client gave its connection up while it waited to be accepted. One that has only finished sending has not, yet.
fn was_reset(socket: &SocketDigest) -> bool {
    socket.tcp_info().is_some_and(|info| info.tcpi_state == TCP_CLOSED)
}

/// Where a connection comes from; `None` for what is no internet address.
fn address(socket: &SocketDigest) -> Option<IpAddr> {
    socket.peer_addr().and_then(|address| address.as_inet()).map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;
    use std::time::{Duration, Instant};

    use super::*;

    /// A client, and its connection as the kernel holds it before anybody accepts it.
    fn pair() -> (TcpStream, TcpStream, SocketDigest) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let digest = SocketDigest::from_raw_fd(accepted.as_raw_fd());
        (client, accepted, digest)
    }

    #[test]
    fn a_client_that_reset_its_connection_is_gone_though_its_request_can_be_read() {
        let (client, mut accepted, digest) = pair();
        assert!(!was_reset(&digest), "it waits for its answer");
        // Closing with bytes unread makes the kernel send a reset.
        accepted.write_all(b"unread").unwrap();
        assert_eq!(client.peek(&mut [0]).unwrap(), 1);
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !was_reset(&digest) {
            assert!(Instant::now() < deadline, "the reset never came");
            std::thread::yield_now();
        }
        assert!(accepted.read(&mut [0; 64]).unwrap() > 0, "the request is still there");
    }

    #[test]
    fn a_client_that_has_only_finished_sending_is_let_in() {
        let (client, mut accepted, digest) = pair();
        client.shutdown(Shutdown::Write).unwrap();
        let mut request = String::new();
        accepted.read_to_string(&mut request).unwrap();
        assert!(!was_reset(&digest));
    }
}
