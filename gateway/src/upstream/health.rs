//! Passive outlier ejection: an address that fails five times in a row is left alone for a while, then probed by one request.
//! Judged per organization, so that one tenant's broken endpoint cannot eject another's. It never looks at status codes:
//! a 500 is the upstream's own answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use uuid::Uuid;

use crate::clock::Now;

/// Failures in a row that eject an address.
const FAILURES_MAX: u32 = 5;
/// The first ejection, in microseconds; each further one doubles. Short, because a restarted upstream should be found soon.
const EJECTION_US_MIN: u64 = 1_000_000;
/// The longest ejection, in microseconds.
const EJECTION_US_MAX: u64 = 30_000_000;
/// How long a probe may take before the next one is let through, in microseconds.
const PROBE_US: u64 = 5_000_000;
/// Troubled addresses remembered at a time; beyond it new trouble is not noted, so nothing more is ejected.
const TROUBLED_MAX: usize = 65_536;
/// Trouble older than this is forgotten by the sweep, in microseconds.
const FORGOTTEN_US: u64 = 600_000_000;

/// One troubled address. An address that nothing is noted about is healthy.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    failures: u32,
    ejections: u32,
    ejected_until_us: u64,
    is_probing: bool,
    last_failure_us: u64,
}

impl Health {
    fn is_ejected(&self, now_us: u64) -> bool {
        self.ejections > 0 && now_us < self.ejected_until_us
    }

    /// Whether a request may go there. After an ejection one request probes, and the others are held off until it reports.
    fn allows(&mut self, now_us: u64) -> bool {
        if self.ejections == 0 {
            return true;
        }
        if now_us < self.ejected_until_us {
            return false;
        }
        self.is_probing = true;
        self.ejected_until_us = now_us.saturating_add(PROBE_US);
        true
    }

    /// Counts a failure; `true` when it ejects.
    fn failed(&mut self, now_us: u64) -> bool {
        self.last_failure_us = now_us;
        self.failures = self.failures.saturating_add(1);
        // Requests that were under way when the address was ejected say nothing new.
        let is_news = self.is_probing || !self.is_ejected(now_us);
        if self.failures < FAILURES_MAX || !is_news {
            return false;
        }
        let length = EJECTION_US_MIN.checked_shl(self.ejections).unwrap_or(EJECTION_US_MAX).min(EJECTION_US_MAX);
        self.ejections = (self.ejections + 1).min(16);
        self.ejected_until_us = now_us.saturating_add(length);
        self.is_probing = false;
        true
    }
}

/// The troubled addresses of all organizations.
#[derive(Default)]
pub(super) struct HealthBook {
    troubled: DashMap<(Uuid, SocketAddr), Health>,
    /// Kept beside the map, so that a request asks no shard while all is well.
    count: AtomicUsize,
}

impl HealthBook {
    pub(super) fn allows(&self, organization: Uuid, address: SocketAddr, now: Now) -> bool {
        let place = (organization, address);
        // A look that shares the lock comes first: one tenant's trouble must not make every request queue for its shard.
        let is_open = || self.troubled.get(&place).is_none_or(|health| health.ejections == 0);
        self.is_all_well()
            || is_open()
            || self.troubled.get_mut(&place).is_none_or(|mut health| health.allows(now.mono_us))
    }

    pub(super) fn is_serving(&self, organization: Uuid, address: SocketAddr, now: Now) -> bool {
        self.is_all_well()
            || self.troubled.get(&(organization, address)).is_none_or(|health| !health.is_ejected(now.mono_us))
    }

    pub(super) fn failed(&self, organization: Uuid, address: SocketAddr, now: Now) -> bool {
        let place = (organization, address);
        if let Some(mut health) = self.troubled.get_mut(&place) {
            return health.failed(now.mono_us);
        }
        if self.count.load(Ordering::Relaxed) >= TROUBLED_MAX {
            return false;
        }
        let ejected = self.troubled.entry(place).or_default().failed(now.mono_us);
        self.count.store(self.troubled.len(), Ordering::Relaxed);
        ejected
    }

    pub(super) fn succeeded(&self, organization: Uuid, address: SocketAddr) {
        let place = (organization, address);
        if self.is_all_well() || !self.troubled.contains_key(&place) {
            return;
        }
        if self.troubled.remove(&place).is_some() {
            self.count.store(self.troubled.len(), Ordering::Relaxed);
        }
    }

    /// Forgets what nobody has asked for in a long time.
    pub(super) fn sweep(&self, now: Now) {
        self.troubled.retain(|_, health| now.mono_us.saturating_sub(health.last_failure_us) < FORGOTTEN_US);
        self.count.store(self.troubled.len(), Ordering::Relaxed);
    }

    fn is_all_well(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn ejected_at(now_us: u64) -> Health {
        let mut health = Health::default();
        let verdicts: Vec<bool> = (0..FAILURES_MAX).map(|_| health.failed(now_us)).collect();
        assert_eq!(verdicts, [false, false, false, false, true]);
        health
    }

    #[test]
    fn five_failures_in_a_row_eject_and_one_request_probes_afterwards() {
        let mut health = ejected_at(0);
        assert!(!health.allows(SECOND - 1));
        assert!(health.allows(SECOND), "one probe");
        assert!(!health.allows(SECOND), "and no second one");
        assert!(health.allows(SECOND + PROBE_US), "unless the first never reports");
    }

    #[test]
    fn each_failed_probe_doubles_the_ejection_up_to_its_bound() {
        let mut health = ejected_at(0);
        let mut now = SECOND;
        for seconds in [2, 4, 8, 16, 30, 30, 30] {
            assert!(health.allows(now));
            assert!(health.failed(now));
            assert!(!health.allows(now + seconds * SECOND - 1));
            now += seconds * SECOND;
        }
    }

    #[test]
    fn failures_of_requests_that_were_already_under_way_do_not_prolong_an_ejection() {
        let mut health = ejected_at(0);
        for _ in 0..100 {
            assert!(!health.failed(SECOND / 2));
        }
        assert!(health.allows(SECOND));
    }

    #[test]
    fn a_success_forgets_everything_and_a_neighbour_is_not_touched() {
        let book = HealthBook::default();
        let (mine, yours) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let now = Now { mono_us: 0, unix_ms: 0 };
        for _ in 0..FAILURES_MAX {
            book.failed(mine, address, now);
        }
        assert!(!book.allows(mine, address, now) && !book.is_serving(mine, address, now));
        assert!(book.allows(yours, address, now));
        book.succeeded(mine, address);
        assert!(book.allows(mine, address, now));
        assert!(book.is_all_well());
    }

    #[test]
    fn one_troubled_address_makes_no_healthy_one_wait_for_a_lock_of_its_own() {
        let book = std::sync::Arc::new(HealthBook::default());
        let troubled: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let now = Now { mono_us: 0, unix_ms: 0 };
        book.failed(Uuid::nil(), troubled, now);
        // While this shared look lasts, whoever wants the shard for himself waits.
        let look = book.troubled.get(&(Uuid::nil(), troubled)).unwrap();
        let (done, all_done) = std::sync::mpsc::channel();
        let asking = book.clone();
        std::thread::spawn(move || {
            // More ports than shards, so that one of them shares the troubled one's.
            for port in 1..4_096 {
                let healthy = SocketAddr::new(troubled.ip(), port);
                if healthy != troubled {
                    assert!(asking.allows(Uuid::nil(), healthy, now));
                    asking.succeeded(Uuid::nil(), healthy);
                }
            }
            done.send(()).unwrap();
        });
        let finished = all_done.recv_timeout(std::time::Duration::from_secs(20));
        drop(look);
        assert!(finished.is_ok(), "a healthy address waited for the troubled one's shard");
    }

    #[test]
    fn old_trouble_is_swept_away() {
        let book = HealthBook::default();
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        book.failed(Uuid::nil(), address, Now { mono_us: 0, unix_ms: 0 });
        book.sweep(Now { mono_us: FORGOTTEN_US - 1, unix_ms: 0 });
        assert!(!book.is_all_well());
        book.sweep(Now { mono_us: FORGOTTEN_US, unix_ms: 0 });
        assert!(book.is_all_well());
    }
}
