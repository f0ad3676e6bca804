//! How to connect for one endpoint: version, name for TLS, time-outs, and who may share the connection. It refuses to build
//! a peer from a name: only checked addresses come in.

use std::net::SocketAddr;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use snapshot::record::{Endpoint, UpstreamHttp};
use snapshot::target::Scheme;
use url::Host;
use uuid::Uuid;

use crate::settings;

/// Streams on one HTTP/2 connection to an upstream; the framework's default of 1 would make it HTTP/1.1.
const H2_STREAMS_MAX: usize = 100;
/// A dead HTTP/2 connection is noticed by unanswered pings of this interval.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// What is needed to build a peer once an address is chosen.
pub struct PeerPlan<'a> {
    pub(super) product: Uuid,
    pub(super) endpoint: &'a Endpoint,
    pub(super) defaults: &'a settings::Upstream,
}

impl PeerPlan<'_> {
    /// A peer for a checked address. `total_left` bounds the wait for the answer's header; a tunnel needs HTTP/1.1.
    pub fn peer(&self, address: SocketAddr, is_upgrade: bool, total_left: Option<Duration>) -> HttpPeer {
        let target = &self.endpoint.target;
        let is_tls = target.scheme == Scheme::Https;
        let alpn = self.alpn(is_tls, is_upgrade);
        let mut peer = HttpPeer::new(address, is_tls, if is_tls { server_name(&target.host) } else { String::new() });
        peer.group_key = group_key(self.product, &alpn);
        let timeouts = &self.endpoint.timeouts;
        let bounded = |timeout: Duration| total_left.map_or(timeout, |left| timeout.min(left));
        let connect = bounded(or_default(timeouts.connect_ms, self.defaults.connect_timeout));
        let options = &mut peer.options;
        options.connection_timeout = Some(connect);
        options.total_connection_timeout = Some(connect);
        options.read_timeout = Some(bounded(or_default(timeouts.read_ms, self.defaults.read_timeout)));
        options.write_timeout = Some(or_default(timeouts.write_ms, self.defaults.write_timeout));
        options.idle_timeout = Some(self.defaults.idle_timeout);
        if !matches!(alpn, ALPN::H1) {
            options.max_h2_streams = H2_STREAMS_MAX;
            options.h2_ping_interval = Some(H2_PING_INTERVAL);
        }
        options.alpn = alpn;
        peer
    }

    fn alpn(&self, is_tls: bool, is_upgrade: bool) -> ALPN {
        match self.endpoint.upstream_http {
            _ if is_upgrade => ALPN::H1,
            UpstreamHttp::H2 => ALPN::H2,
            UpstreamHttp::Auto if is_tls => ALPN::H2H1,
            UpstreamHttp::Auto | UpstreamHttp::H1 => ALPN::H1,
        }
    }
}

/// The text of an address where there is no name: an empty one would turn certificate checks off.
fn server_name(host: &Host<String>) -> String {
    match host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    }
}

/// The pool's own key has neither the tenant nor the protocol; authorities are the same for all upstreams. By product, since a
/// connection counts against its product's cap. Its id is 62 random bits of ours in its second half, and nobody chooses it.
fn group_key(product: Uuid, alpn: &ALPN) -> u64 {
    let (time, random) = product.as_u64_pair();
    (random ^ time.rotate_left(32)).wrapping_mul(5).wrapping_add(u64::from(alpn_number(alpn)))
}

fn alpn_number(alpn: &ALPN) -> u8 {
    match alpn {
        ALPN::H1 => 1,
        ALPN::H2 => 2,
        ALPN::H2H1 => 3,
        ALPN::Custom(_) => 4,
    }
}

pub(super) fn or_default(milliseconds: u32, default: Duration) -> Duration {
    if milliseconds == 0 { default } else { Duration::from_millis(u64::from(milliseconds)) }
}
