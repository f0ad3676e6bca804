//! Which upstream addresses a gateway may connect to: none of its own network, unless an operator allows the range.
//! Checked when an endpoint is saved, when a name is resolved, and once more at connect. Resolves nothing itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// A range that an operator opens, for one port or for all: `10.1.0.0/16`, `127.0.0.1/32:9000`, `[::1/128]:9000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedRange {
    pub net: IpNet,
    pub port: Option<u16>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a range like 10.1.0.0/16, 127.0.0.1/32:9000 or [::1/128]:9000")]
pub struct RangeFault(String);

/// Why an address may not be connected to.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{address} is {reason}; an operator can allow it in `upstream.allow`")]
pub struct ForbiddenAddress {
    pub address: SocketAddr,
    pub reason: &'static str,
}

/// The operator's rules. Own listeners are refused even inside an allowed range.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    pub allow: Vec<AllowedRange>,
    pub own_listeners: Vec<SocketAddr>,
}

impl AddressPolicy {
    /// Errors: [`ForbiddenAddress`] with the reason for the publisher.
    pub fn check(&self, address: SocketAddr) -> Result<(), ForbiddenAddress> {
        let forbid = |reason| Err(ForbiddenAddress { address, reason });
        let ip = canonical(address.ip());
        if self.own_listeners.iter().any(|own| is_own(*own, ip, address.port())) {
            return forbid("one of our own listeners");
        }
        let allowed = |range: &AllowedRange| range.net.contains(&ip) && range.port.is_none_or(|p| p == address.port());
        match forbidden_reason(ip) {
            Some(_) if self.allow.iter().any(allowed) => Ok(()),
            Some(reason) => forbid(reason),
            None => Ok(()),
        }
    }

    /// One forbidden address refuses the whole name.
    pub fn check_all(&self, addresses: &[SocketAddr]) -> Result<(), ForbiddenAddress> {
        addresses.iter().try_for_each(|address| self.check(*address))
    }
}

impl FromStr for AllowedRange {
    type Err = RangeFault;
    fn from_str(text: &str) -> Result<Self, RangeFault> {
        let fault = || RangeFault(text.to_owned());
        let (net, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            Some((net, port)) => (net, Some(port)),
            None if text.contains('.') => match text.split_once(':') {
                Some((net, port)) => (net, Some(port)),
                None => (text, None),
            },
            None => (text, None),
        };
        let net = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).map_err(|_| fault())?;
        let port = port.map(str::parse::<u16>).transpose().map_err(|_| fault())?;
        Ok(AllowedRange { net: net.trunc(), port })
    }
}

impl fmt::Display for AllowedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => write!(f, "{}", self.net),
            Some(port) if self.net.addr().is_ipv6() => write!(f, "[{}]:{port}", self.net),
            Some(port) => write!(f, "{}:{port}", self.net),
        }
    }
}

/// What makes an address unfit as an upstream on the public internet; `None` where nothing does.
pub fn forbidden_reason(ip: IpAddr) -> Option<&'static str> {
    match canonical(ip) {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

/// IPv4 in IPv6 clothes is judged as the IPv4 address that would be reached.
fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn is_own(own: SocketAddr, ip: IpAddr, port: u16) -> bool {
    let everywhere = own.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified());
    own.port() == port && (canonical(own.ip()) == ip || everywhere)
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = ip.octets();
    match (a, b, c, d) {
        (0, ..) => Some("in \"this network\" (0.0.0.0/8)"),
        (10, ..) | (172, 16..=31, ..) | (192, 168, ..) => Some("a private address"),
        (100, 64..=127, ..) => Some("a shared carrier address (100.64.0.0/10)"),
        (127, ..) => Some("a loopback address"),
        (169, 254, ..) => Some("a link-local or metadata address"),
        (168, 63, 129, 16) => Some("a cloud metadata address"),
        (192, 0, 0, _) => Some("a protocol assignment (192.0.0.0/24)"),
        (192, 0, 2, _) | (198, 51, 100, _) | (203, 0, 113, _) => Some("a documentation address"),
        (192, 88, 99, _) => Some("a 6to4 relay address"),
        (198, 18..=19, ..) => Some("a benchmarking address (198.18.0.0/15)"),
        (224..=239, ..) => Some("a multicast address"),
        (240..=255, ..) => Some("a reserved address"),
        _ => None,
    }
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let [a, b, c, d, e, f, ..] = ip.segments();
    match (a, b) {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address"),
        (0, 0) if (c, d, e, f) == (0, 0, 0, 0) => Some("an IPv4-compatible address"),
        (0x0064, 0xff9b) => Some("a NAT64 address"),
        (0x0100, 0) if (c, d) == (0, 0) => Some("a discard address"),
        (0x2001, 0x0000) => Some("a Teredo address"),
        (0x2001, 0x0db8) => Some("a documentation address"),
        (0x2001, 0x0001..=0x01ff) => Some("a protocol assignment (2001::/23)"),
        (0x2002, _) => Some("a 6to4 address"),
        (0x3fff, 0x0000..=0x0fff) => Some("a documentation address"),
        (0x5f00, _) => Some("a segment routing address"),
        (0xfc00..=0xfdff, _) => Some("a unique local address"),
        (0xfe80..=0xfebf, _) => Some("a link-local address"),
        (0xfec0..=0xfeff, _) => Some("a site-local address"),
        (0xff00..=0xffff, _) => Some("a multicast address"),
        (0x2000..=0x3fff, _) => None,
        _ => Some("outside the global unicast range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ip: &str) -> Option<&'static str> {
        forbidden_reason(ip.parse().unwrap())
    }

    #[test]
    fn addresses_of_our_own_world_are_forbidden() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "168.63.129.16",
            "192.88.99.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2001:10::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(verdict(ip).is_some(), "{ip} must be forbidden");
        }
    }

    #[test]
    fn public_addresses_are_allowed() {
        for ip in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(verdict(ip), None, "{ip}");
        }
    }

    #[test]
    fn an_operator_opens_a_range_or_one_port_but_never_our_own_listener() {
        let policy = AddressPolicy {
            allow: vec![
                "127.0.0.1/32:9000".parse().unwrap(),
                "10.0.0.0/8".parse().unwrap(),
                "127.0.0.1:8080".parse().unwrap(),
            ],
            own_listeners: vec!["0.0.0.0:8080".parse().unwrap()],
        };
        assert!(policy.check("127.0.0.1:9000".parse().unwrap()).is_ok());
        assert!(policy.check("[::ffff:127.0.0.1]:9000".parse().unwrap()).is_ok());
        assert!(policy.check("10.2.3.4:1".parse().unwrap()).is_ok());
        assert!(policy.check("127.0.0.1:9001".parse().unwrap()).is_err());
        assert_eq!(policy.check("127.0.0.1:8080".parse().unwrap()).unwrap_err().reason, "one of our own listeners");
        assert!(policy.check_all(&["1.1.1.1:443".parse().unwrap(), "192.168.0.1:443".parse().unwrap()]).is_err());
    }

    #[test]
    fn ranges_are_read_and_written_alike() {
        for text in ["10.0.0.0/8", "127.0.0.1/32:9000", "fd00::/8", "[::1/128]:9000"] {
            assert_eq!(text.parse::<AllowedRange>().unwrap().to_string(), text);
        }
        for bad in ["", "10.0.0.0/99", "10.0.0.0/8:x", "localhost", "[::1]9"] {
            assert!(bad.parse::<AllowedRange>().is_err(), "{bad}");
        }
    }
}
