//! How a product's connections to its upstreams are made, so that each is counted from before its first packet until its
//! socket is closed, in the framework's pool too. It refuses to connect beyond the cap; which address is allowed was decided before.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::ext::connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};

use super::Bulkhead;
use crate::held::hold;

/// The product has as many connections as it may.
pub const CONNECTIONS_FULL: ErrorType = ErrorType::new("ProductConnectionsFull");
/// How long a crowded product keeps an idle connection: then its other addresses have room.
const IDLE_WHEN_CROWDED: Duration = Duration::from_secs(1);

impl Bulkhead {
    /// From now on the peer's new connections are this product's.
    pub fn govern(self: &Arc<Bulkhead>, peer: &mut HttpPeer) {
        if self.is_crowded() {
            let idle = peer.options.idle_timeout.unwrap_or(IDLE_WHEN_CROWDED);
            peer.options.idle_timeout = Some(idle.min(IDLE_WHEN_CROWDED));
        }
        peer.options.custom_l4 = Some(Arc::clone(self) as Arc<dyn Connect + Send + Sync>);
    }
}

#[async_trait]
impl Connect for Bulkhead {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(berth) = self.moor() else {
            return Error::e_explain(CONNECTIONS_FULL, "the product has as many upstream connections as it may");
        };
        let SocketAddr::Inet(address) = address else {
            return Error::e_explain(ErrorType::InternalError, "an upstream is not a socket file");
        };
        let mut stream = Stream::from(connect(address, None).await?);
        hold(&mut stream, berth);
        Ok(stream)
    }
}
