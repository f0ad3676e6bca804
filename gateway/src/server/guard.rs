//! The door: how many connections there may be, in all and from one address. It knows nothing of HTTP; plan limits are not
//! its business.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora_limits::inflight::{Guard, Inflight};
use pingora_limits::rate::Rate;

use crate::metrics::labels::ConnectionRefusal;
use crate::settings::Limits;

/// The interval over which new connections of an address are counted.
const RATE_INTERVAL: Duration = Duration::from_secs(1);
/// The part of an IPv6 address that one customer has to himself, in bits; he can make up the rest.
const IPV6_PREFIX_BITS: u32 = 64;

/// Approximate per address (a sketch of fixed size, which can only count too much), exact in all.
pub(super) struct ConnectionGuard {
    open: Arc<AtomicUsize>,
    open_max: usize,
    by_address: Inflight,
    by_address_max: isize,
    rate: Option<(Rate, isize)>,
}

/// Counts as an open connection until it is dropped.
pub(super) struct Permit {
    open: Arc<AtomicUsize>,
    #[allow(dead_code)] // Held for its `Drop` alone.
    address: Option<Guard>,
}

impl ConnectionGuard {
    pub(super) fn new(limits: &Limits) -> ConnectionGuard {
        let rate_max = to_isize(limits.connection_rate_per_address_max);
        ConnectionGuard {
            open: Arc::default(),
            open_max: limits.connections_max,
            by_address: Inflight::new(),
            by_address_max: to_isize(limits.connections_per_address_max),
            rate: (rate_max > 0).then(|| (Rate::new(RATE_INTERVAL), rate_max)),
        }
    }

    /// Lets a connection in, or says why not.
    pub(super) fn admit(&self, address: Option<IpAddr>) -> Result<Permit, ConnectionRefusal> {
        let mut permit = Permit { open: self.open.clone(), address: None };
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.open_max {
            return Err(ConnectionRefusal::Total);
        }
        let Some(address) = address.map(customer) else { return Ok(permit) };
        if self.rate.as_ref().is_some_and(|(rate, max)| rate.observe(&address, 1) > *max) {
            return Err(ConnectionRefusal::Rate);
        }
        let (guard, open) = self.by_address.incr(address, 1);
        if open > self.by_address_max {
            return Err(ConnectionRefusal::PerAddress);
        }
        permit.address = Some(guard);
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn customer(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(
            || IpAddr::V6((v6.to_bits() >> (128 - IPV6_PREFIX_BITS) << (128 - IPV6_PREFIX_BITS)).into()),
            IpAddr::V4,
        ),
    }
}

fn to_isize(value: usize) -> isize {
    isize::try_from(value).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: usize, per_address: usize) -> Limits {
        Limits {
            connections_max: total,
            connections_per_address_max: per_address,
            connection_rate_per_address_max: 0,
            header_bytes_max: 65_536,
            header_count_max: 100,
            target_bytes_max: 8_192,
            body_bytes_max: 1,
            requests_per_product_max: std::num::NonZeroU32::MIN,
            redis: None,
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn no_more_connections_than_allowed_in_all_and_each_that_ends_makes_room() {
        let guard = ConnectionGuard::new(&limits(2, 100));
        let first = guard.admit(ip("192.0.2.1")).ok().unwrap();
        let _second = guard.admit(ip("192.0.2.2")).ok().unwrap();
        for _ in 0..10 {
            assert_eq!(guard.admit(ip("192.0.2.3")).err(), Some(ConnectionRefusal::Total));
        }
        drop(first);
        assert!(guard.admit(ip("192.0.2.3")).is_ok());
    }

    #[test]
    fn one_address_cannot_take_all_connections_and_an_ipv6_customer_is_one_address() {
        let guard = ConnectionGuard::new(&limits(100, 1));
        let _mine = guard.admit(ip("2001:db8:1:1::1")).ok().unwrap();
        assert_eq!(guard.admit(ip("2001:db8:1:1::2")).err(), Some(ConnectionRefusal::PerAddress));
        assert!(guard.admit(ip("2001:db8:1:2::1")).is_ok());
        let _four = guard.admit(ip("192.0.2.1")).ok().unwrap();
        assert_eq!(guard.admit(ip("::ffff:192.0.2.1")).err(), Some(ConnectionRefusal::PerAddress));
    }
}
