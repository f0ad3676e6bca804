//! How many connections each address holds, so that one cannot hold them all. Proxies that are trusted speak for many and are
//! not counted. Refuses by hanging up; remembers nobody who holds none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use crate::throttle::network_of;

#[derive(Clone)]
pub(super) struct Seats {
    /// Only of those who hold some, so never more than there are connections.
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    each: usize,
    uncounted: Arc<[IpNet]>,
}

/// One connection's place, given back when it is dropped.
pub(super) struct Seat {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: Option<IpAddr>,
}

impl Seats {
    pub(super) fn new(each: usize, uncounted: &[IpNet]) -> Seats {
        Seats { taken: Arc::default(), each, uncounted: uncounted.into() }
    }

    /// `None`: the address has as many as it may.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Seat> {
        let peer = peer.to_canonical();
        if self.uncounted.iter().any(|network| network.contains(&peer)) {
            return Some(Seat { taken: self.taken.clone(), address: None });
        }
        let address = network_of(peer);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.entry(address).or_default();
        if *held >= self.each {
            return None;
        }
        *held = held.saturating_add(1);
        Some(Seat { taken: self.taken.clone(), address: Some(address) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = taken.get_mut(&address) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                taken.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_holds_so_many_and_gives_them_back() {
        let seats = Seats::new(2, &[]);
        let (one, _two) = (seats.take(address("192.0.2.1")), seats.take(address("::ffff:192.0.2.1")));
        assert!(seats.take(address("192.0.2.1")).is_none(), "however it is written");
        assert!(seats.take(address("192.0.2.2")).is_some(), "others are not concerned");
        drop(one);
        assert!(seats.take(address("192.0.2.1")).is_some());
        let _six = (seats.take(address("2001:db8::1")), seats.take(address("2001:db8::2")));
        assert!(seats.take(address("2001:db8::3")).is_none(), "a network counts as one address");
    }

    #[test]
    fn a_trusted_proxy_speaks_for_many_and_nobody_is_remembered() {
        let seats = Seats::new(1, &["10.0.0.0/8".parse().unwrap()]);
        let many: Vec<_> = (0..100).map(|_| seats.take(address("10.1.2.3"))).collect();
        assert!(many.iter().all(Option::is_some));
        drop((many, seats.take(address("192.0.2.1"))));
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
