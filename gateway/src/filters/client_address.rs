//! Who the client is: the peer, or, where the peer is a trusted proxy, the rightmost address of `X-Forwarded-For` that is
//! not one. Believes nobody else.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Proxies in a row that are followed; no honest chain is longer.
const HOPS_MAX: usize = 32;

/// The address that limits, logs and `X-Forwarded-For` speak of. An unreadable entry ends the search: what stands left of
/// it could be anybody's invention.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(client, trusted) {
        return client;
    }
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or("unreadable").rsplit(','));
    for hop in hops.take(HOPS_MAX) {
        let Some(address) = parse_hop(hop.trim()) else { return client };
        client = address;
        if !is_trusted(client, trusted) {
            return client;
        }
    }
    client
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let socket = || hop.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    hop.parse::<IpAddr>().ok().or_else(socket).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_stranger_cannot_name_himself() {
        assert_eq!(client("203.0.113.9", &["1.2.3.4"]), "203.0.113.9");
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        for (lines, expected) in [
            (&["1.2.3.4"][..], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4, 10.0.0.7"], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4", "10.0.0.7"], "1.2.3.4"),
            (&["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
            (&["1.2.3.4:5555"], "1.2.3.4"),
            (&["[2001:db8::1]:80"], "2001:db8::1"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["1.2.3.4, rubbish, 10.0.0.7"], "10.0.0.7"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", lines), expected, "{lines:?}");
        }
        assert_eq!(client("::ffff:10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
    }
}
