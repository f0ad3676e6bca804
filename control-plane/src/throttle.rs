//! How often the public endpoints may be tried, per account and per source address, and what costs us more than its caller. A wrong password slows its source and
//! its account's strangers down; an owner who signs in from where he did before is never locked out. Memory is bounded;
//! refuses to survive a restart, and to be a plan's limit.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use std::collections::HashMap;
use std::hash::Hash;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

#[cfg(test)]
mod tests;

/// Entries per table; beyond it the idle ones go, and then newcomers share one strict bucket.
const ENTRIES_MAX: usize = 50_000;
/// An IPv6 host owns its whole /64.
const V6_PREFIX_BYTES: usize = 8;

/// A bucket: `burst` at once, then one per `interval`.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub burst: u32,
    pub interval: Duration,
}

/// Failed sign-ins of one account from one source: what an owner's own mistakes spend.
const ACCOUNT_AND_SOURCE: Rule = Rule { burst: 10, interval: Duration::from_secs(30) };
/// Failed sign-ins of one account from all sources that have not signed in to it: what a spread attack spends.
const ACCOUNT: Rule = Rule { burst: 30, interval: Duration::from_secs(20) };
/// Failed sign-ins from one source, whatever the account.
const SOURCE: Rule = Rule { burst: 50, interval: Duration::from_secs(5) };
/// Registrations from one source.
const REGISTRATION: Rule = Rule { burst: 20, interval: Duration::from_secs(30) };
/// Bad tokens from one source: each costs a look into the database.
const BAD_TOKEN: Rule = Rule { burst: 100, interval: Duration::from_secs(1) };
/// Requests to the public catalogue from one source.
const CATALOG: Rule = Rule { burst: 200, interval: Duration::from_millis(50) };

/// Publishes of one product: each one is kept for ever.
const PUBLISH: Rule = Rule { burst: 300, interval: Duration::from_secs(1) };
/// Proofs of hosts that one user asks for: each makes us call somebody else's server and wait for it.
const HOST_PROOF: Rule = Rule { burst: 10, interval: Duration::from_secs(30) };

/// Come back after this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    pub retry_after: Duration,
    pub kind: &'static str,
}

#[derive(Clone)]
pub struct Throttles {
    inner: Arc<Inner>,
}

struct Inner {
    account_and_source: Table<([u8; 16], IpAddr)>,
    account: Table<[u8; 16]>,
    source: Table<IpAddr>,
    registration: Table<IpAddr>,
    bad_token: Table<IpAddr>,
    catalog: Table<IpAddr>,
    publish: Table<Uuid>,
    host_proof: Table<Uuid>,
    /// Sources that have signed in to an account: the account's bucket does not hold them back.
    familiar: Table<([u8; 16], IpAddr)>,
}

impl Default for Throttles {
    fn default() -> Throttles {
        let inner = Inner {
            account_and_source: Table::new(ACCOUNT_AND_SOURCE, "account_and_source"),
            account: Table::new(ACCOUNT, "account"),
            source: Table::new(SOURCE, "source"),
            registration: Table::new(REGISTRATION, "registration"),
            bad_token: Table::new(BAD_TOKEN, "bad_token"),
            catalog: Table::new(CATALOG, "catalog"),
            publish: Table::new(PUBLISH, "publish"),
            host_proof: Table::new(HOST_PROOF, "host_proof"),
            familiar: Table::new(Rule { burst: 1, interval: Duration::from_secs(30 * 24 * 3600) }, "familiar"),
        };
        Throttles { inner: Arc::new(inner) }
    }
}

impl Throttles {
    /// Before a password is looked at. It takes one attempt; `signed_in` gives it back. Errors: how long to wait.
    pub fn attempt_sign_in(&self, email: &str, source: IpAddr, now: Instant) -> Result<(), Throttled> {
        let (account, source) = (account_digest(email), network_of(source));
        self.inner.source.take(source, now)?;
        self.inner.account_and_source.take((account, source), now)?;
        if !self.inner.familiar.is_known(&(account, source)) {
            self.inner.account.take(account, now)?;
        }
        Ok(())
    }

    /// A right password: the attempt did not count, and the source is the owner's from now on.
    pub fn signed_in(&self, email: &str, source: IpAddr, now: Instant) {
        let (account, source) = (account_digest(email), network_of(source));
        self.inner.source.give_back(&source);
        self.inner.account_and_source.forget(&(account, source));
        self.inner.account.give_back(&account);
        // Its bucket is never asked; being in the table is what counts.
        let _ = self.inner.familiar.take((account, source), now);
    }

    pub fn attempt_registration(&self, source: IpAddr, now: Instant) -> Result<(), Throttled> {
        self.inner.registration.take(network_of(source), now)
    }

    /// Before a token is looked up. It takes nothing, so that many good requests at once are no attack.
    pub fn check_token(&self, source: IpAddr, now: Instant) -> Result<(), Throttled> {
        self.inner.bad_token.peek(&network_of(source), now)
    }

    /// A token that is nobody's.
    pub fn bad_token(&self, source: IpAddr, now: Instant) {
        // This request was let through already; the next one is refused where nothing is left.
        let _ = self.inner.bad_token.take(network_of(source), now);
    }

    pub fn attempt_catalog(&self, source: IpAddr, now: Instant) -> Result<(), Throttled> {
        self.inner.catalog.take(network_of(source), now)
    }

    pub fn attempt_publish(&self, product: Uuid, now: Instant) -> Result<(), Throttled> {
        self.inner.publish.take(product, now)
    }

    pub fn attempt_host_proof(&self, user: Uuid, now: Instant) -> Result<(), Throttled> {
        self.inner.host_proof.take(user, now)
    }
}

/// Sixteen bytes are enough not to collide, and no address of anybody stays in memory.
fn account_digest(email: &str) -> [u8; 16] {
    let digest = Sha256::digest(email.trim().to_lowercase().as_bytes());
    let mut short = [0; 16];
    short.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    short
}

/// A whole /64 for IPv6: who has one address of it has them all.
pub(crate) fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets.iter_mut().skip(V6_PREFIX_BYTES).for_each(|octet| *octet = 0);
            IpAddr::from(octets)
        }
        v4 => v4,
    }
}

/// Buckets of one rule. A bucket is the moment when it will be full again: one number, no timer.
struct Table<K> {
    rule: Rule,
    kind: &'static str,
    buckets: Mutex<Buckets<K>>,
}

struct Buckets<K> {
    full_at: HashMap<K, Instant>,
    /// For everybody who finds the table full.
    overflow_full_at: Option<Instant>,
}

impl<K: Eq + Hash> Table<K> {
    fn new(rule: Rule, kind: &'static str) -> Table<K> {
        Table { rule, kind, buckets: Mutex::new(Buckets { full_at: HashMap::new(), overflow_full_at: None }) }
    }

    fn take(&self, key: K, now: Instant) -> Result<(), Throttled> {
        let mut buckets = self.lock();
        if buckets.full_at.len() >= ENTRIES_MAX && !buckets.full_at.contains_key(&key) {
            buckets.full_at.retain(|_, full_at| *full_at > now);
        }
        if buckets.full_at.len() >= ENTRIES_MAX && !buckets.full_at.contains_key(&key) {
            let next = self.spend(buckets.overflow_full_at.unwrap_or(now), now)?;
            buckets.overflow_full_at = Some(next);
            return Ok(());
        }
        let full_at = buckets.full_at.get(&key).copied().unwrap_or(now);
        let next = self.spend(full_at, now)?;
        buckets.full_at.insert(key, next);
        Ok(())
    }

    fn peek(&self, key: &K, now: Instant) -> Result<(), Throttled> {
        let full_at = self.lock().full_at.get(key).copied().unwrap_or(now);
        self.spend(full_at, now).map(|_| ())
    }

    /// The generic cell rate algorithm: each attempt moves the moment of fullness by one interval.
    fn spend(&self, full_at: Instant, now: Instant) -> Result<Instant, Throttled> {
        let next = full_at.max(now) + self.rule.interval;
        let ahead = next.saturating_duration_since(now);
        let allowed = self.rule.interval * self.rule.burst;
        if ahead > allowed {
            return Err(Throttled { retry_after: ahead.saturating_sub(allowed), kind: self.kind });
        }
        Ok(next)
    }

    fn give_back(&self, key: &K) {
        let interval = self.rule.interval;
        if let Some(full_at) = self.lock().full_at.get_mut(key) {
            *full_at = full_at.checked_sub(interval).unwrap_or(*full_at);
        }
    }

    fn forget(&self, key: &K) {
        self.lock().full_at.remove(key);
    }

    fn is_known(&self, key: &K) -> bool {
        self.lock().full_at.contains_key(key)
    }

    /// A panic of another holder leaves numbers that are still numbers.
    fn lock(&self) -> std::sync::MutexGuard<'_, Buckets<K>> {
        self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
