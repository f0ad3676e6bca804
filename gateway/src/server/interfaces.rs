//! The machine's own addresses, so that a listener on all of them is known as our own at each. It refuses to guess: where the
//! kernel's tables cannot be read, a wildcard stays one, and then only the loop check stops a request to ourselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel's tables of the network namespace that this process is in.
const IPV4_TABLE: &str = "/proc/net/fib_trie";
const IPV6_TABLE: &str = "/proc/net/if_inet6";

/// Adds to each wildcard listener the addresses that it can be reached at. Interfaces that come later are not among them.
pub(super) fn spell_out(listeners: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if !listeners.iter().any(|listener| listener.ip().is_unspecified()) {
        return listeners;
    }
    let own = own_addresses();
    let mut all = listeners.clone();
    for listener in listeners.iter().filter(|listener| listener.ip().is_unspecified()) {
        // Linux lets a listener on all IPv6 addresses take IPv4 as well.
        let reached = own.iter().filter(|ip| listener.is_ipv6() || ip.is_ipv4());
        all.extend(reached.map(|ip| SocketAddr::new(*ip, listener.port())));
    }
    all
}

fn own_addresses() -> Vec<IpAddr> {
    let read = |table: &str| {
        std::fs::read_to_string(table).unwrap_or_else(|error| {
            tracing::debug!(table, %error, "own addresses of this kind are not known");
            String::new()
        })
    };
    let mut own = read_ipv4(&read(IPV4_TABLE));
    own.extend(read_ipv6(&read(IPV6_TABLE)));
    own
}

/// A leaf names an address; the lines below it say what it is.
fn read_ipv4(table: &str) -> Vec<IpAddr> {
    let mut own = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf.map(IpAddr::V4)
            && !own.contains(&address)
        {
            own.push(address);
        }
    }
    own
}

/// Each line begins with an address as 32 hexadecimal digits.
fn read_ipv6(table: &str) -> Vec<IpAddr> {
    let digits = table.lines().filter_map(|line| line.split_whitespace().next());
    let address = |digits: &str| u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from).map(IpAddr::V6);
    digits.filter(|digits| digits.len() == 32).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let ipv4 = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 127.0.0.1\n        \
            /32 host LOCAL\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n\
            Local:\n     |-- 10.1.2.3\n        /32 host LOCAL\n";
        let expected: Vec<IpAddr> = ["127.0.0.1", "10.1.2.3"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(read_ipv4(ipv4), expected);
        let ipv6 = "00000000000000000000000000000001 01 80 10 80       lo\nfd000000000000000000000000000002 04 40 00 82 eth0\n";
        let expected: Vec<IpAddr> = ["::1", "fd00::2"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(read_ipv6(ipv6), expected);
    }

    #[test]
    fn a_listener_on_all_addresses_is_our_own_at_each_of_them_and_at_its_port_alone() {
        let own_listeners = spell_out(vec!["0.0.0.0:8080".parse().unwrap(), "127.0.0.1:9901".parse().unwrap()]);
        assert!(own_listeners.contains(&"127.0.0.1:8080".parse().unwrap()), "{own_listeners:?}");
        let allow = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let policy = snapshot::guard::AddressPolicy { allow, own_listeners };
        for ip in own_addresses().into_iter().filter(IpAddr::is_ipv4) {
            assert!(policy.check(SocketAddr::new(ip, 8080)).is_err(), "{ip}");
            assert!(policy.check(SocketAddr::new(ip, 8081)).is_ok(), "{ip}");
        }
        let everywhere = spell_out(vec!["[::]:8080".parse().unwrap()]);
        assert!(everywhere.contains(&"127.0.0.1:8080".parse().unwrap()), "{everywhere:?}");
        let named = vec!["127.0.0.1:8080".parse().unwrap()];
        assert_eq!(spell_out(named.clone()), named);
    }
}
