//! The state of one subscription's limits: a bucket in one atomic, windows and quota behind locks that are held for
//! nanoseconds. Takes from all or from none. Refuses to know whose it is, and to read a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use snapshot::record::{Algorithm, Policy, Quota, Subscription};

use super::answer::{LimitAnswers, LimitItem, LimitKind, LimitRefusal, MINUTE_S, MONTH_S};
use super::bucket::{Bucket, Token, scale_up};
use super::quota::QuotaCount;
use super::windows::{Shape, Windows};
use crate::clock::Now;

#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The policy that the state below was counted under, packed; 0: none yet.
    stamp: AtomicU64,
    tat_ns: AtomicU64,
    windows: Mutex<Windows>,
    quota: Mutex<QuotaCount>,
}

/// What was taken from the minute, so that it can be given back.
#[derive(Clone, Copy, Debug)]
enum Taken {
    Token,
    Window(u64),
}

impl Slot {
    /// Takes one request from the minute and from the month, or from neither.
    pub(super) fn check(
        &self,
        subscription: &Subscription,
        policy: &Policy,
        quota: Option<Quota>,
        now: Now,
    ) -> Result<LimitAnswers, LimitRefusal> {
        self.adopt(policy, now);
        let taken = match self.take_rate(policy, now) {
            Ok(taken) => taken,
            Err(wait_us) => {
                let answers = self.answers(subscription, policy, quota, now);
                return Err(LimitRefusal { kind: LimitKind::Rate, retry_after_s: seconds_up(wait_us).max(1), answers });
            }
        };
        let Some(quota) = quota else {
            return Ok(LimitAnswers { rate: self.rate_item(policy, now), quota: None });
        };
        let mut count = lock(&self.quota);
        let counted = count.take(subscription, quota, now.unix_ms);
        let item = quota_item(&count, quota, now);
        drop(count);
        if counted.is_err() {
            self.give_back(policy, taken);
        }
        let answers = LimitAnswers { rate: self.rate_item(policy, now), quota: Some(item) };
        match counted {
            Ok(()) => Ok(answers),
            Err(_) => Err(LimitRefusal { kind: LimitKind::Quota, retry_after_s: item.reset_s.max(1), answers }),
        }
    }

    /// How the limits stand; takes from none.
    pub(super) fn peek(
        &self,
        subscription: &Subscription,
        policy: &Policy,
        quota: Option<Quota>,
        now: Now,
    ) -> LimitAnswers {
        self.adopt(policy, now);
        if policy.algorithm != Algorithm::TokenBucket {
            lock(&self.windows).advance(Shape::of(policy.algorithm), now.mono_us);
        }
        self.answers(subscription, policy, quota, now)
    }

    /// Whether forgetting this slot would change no answer: nothing taken, nothing owed.
    pub(super) fn is_idle(&self, now: Now) -> bool {
        let windows_idle = {
            let mut windows = lock(&self.windows);
            windows.advance(shape_of_stamp(self.stamp.load(Ordering::Acquire)), now.mono_us);
            windows.used() == 0
        };
        windows_idle && self.tat_ns.load(Ordering::Acquire) <= now_ns(now) && lock(&self.quota).is_idle(now.unix_ms)
    }

    fn take_rate(&self, policy: &Policy, now: Now) -> Result<Taken, u64> {
        if policy.algorithm == Algorithm::TokenBucket {
            return self.take_token(Bucket::of(policy), now).map(|()| Taken::Token);
        }
        let shape = Shape::of(policy.algorithm);
        lock(&self.windows).take(shape, policy.per_minute.get(), now.mono_us).map(Taken::Window)
    }

    /// Err: microseconds until there is a token. The loop ends because every failed exchange is another thread's success.
    fn take_token(&self, bucket: Bucket, now: Now) -> Result<(), u64> {
        let mut seen = self.tat_ns.load(Ordering::Acquire);
        loop {
            let (store, answer) = match bucket.take(seen, now_ns(now)) {
                Token::Taken { tat_ns } => (tat_ns, Ok(())),
                Token::Refused { wait_ns, heal_ns: Some(tat_ns) } => (tat_ns, Err(wait_ns.div_ceil(1_000))),
                Token::Refused { wait_ns, heal_ns: None } => return Err(wait_ns.div_ceil(1_000)),
            };
            match self.tat_ns.compare_exchange_weak(seen, store, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return answer,
                Err(other) => seen = other,
            }
        }
    }

    fn give_back(&self, policy: &Policy, taken: Taken) {
        match taken {
            Taken::Token => {
                let bucket = Bucket::of(policy);
                let less = |tat_ns| Some(bucket.give_back(tat_ns));
                // The closure never says None, so this cannot fail.
                let _ = self.tat_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
            }
            Taken::Window(slot) => lock(&self.windows).give_back(slot),
        }
    }

    /// Brings the state under another policy: the bucket keeps its filled fraction, windows of one kind keep their counts.
    /// A request that is deciding at this very moment under the old policy may be off by its own one token.
    fn adopt(&self, policy: &Policy, now: Now) {
        let wanted = stamp_of(policy);
        if self.stamp.load(Ordering::Acquire) == wanted {
            return;
        }
        let mut windows = lock(&self.windows);
        let old = self.stamp.load(Ordering::Acquire);
        if old == wanted {
            return;
        }
        let shape = Shape::of(policy.algorithm);
        let same_windows = algorithm_bits(old) == algorithm_bits(wanted) && policy.algorithm != Algorithm::TokenBucket;
        if !same_windows {
            let used = self.used_fraction(old, &mut windows, now);
            let (tat_ns, count) = match policy.algorithm {
                Algorithm::TokenBucket => (Bucket::of(policy).tat_with_used(used, now_ns(now)), 0),
                _ => (0, scale_up(u64::from(policy.per_minute.get()), used.0, used.1)),
            };
            self.tat_ns.store(if old == 0 { 0 } else { tat_ns }, Ordering::Release);
            windows.restart(shape, count, now.mono_us);
        }
        self.stamp.store(wanted, Ordering::Release);
    }

    fn used_fraction(&self, stamp: u64, windows: &mut Windows, now: Now) -> (u64, u64) {
        let Some(old) = policy_of_stamp(stamp) else { return (0, 1) };
        if old.algorithm == Algorithm::TokenBucket {
            return Bucket::of(&old).used_fraction(self.tat_ns.load(Ordering::Acquire), now_ns(now));
        }
        windows.advance(Shape::of(old.algorithm), now.mono_us);
        (windows.used(), u64::from(old.per_minute.get()))
    }

    fn answers(&self, subscription: &Subscription, policy: &Policy, quota: Option<Quota>, now: Now) -> LimitAnswers {
        let quota = quota.map(|quota| {
            let mut count = lock(&self.quota);
            count.enter(subscription, now.unix_ms);
            quota_item(&count, quota, now)
        });
        LimitAnswers { rate: self.rate_item(policy, now), quota }
    }

    fn rate_item(&self, policy: &Policy, now: Now) -> LimitItem {
        let (remaining, until_more_us) = if policy.algorithm == Algorithm::TokenBucket {
            let (bucket, tat_ns) = (Bucket::of(policy), self.tat_ns.load(Ordering::Acquire));
            let until_ns = bucket.until_more_ns(tat_ns, now_ns(now));
            (bucket.remaining(tat_ns, now_ns(now)), until_ns.div_ceil(1_000))
        } else {
            let windows = lock(&self.windows);
            let until_us = windows.until_more_us(Shape::of(policy.algorithm), now.mono_us);
            (windows.remaining(policy.per_minute.get()), until_us)
        };
        LimitItem {
            name: "minute",
            limit: u64::from(policy.per_minute.get()),
            remaining,
            reset_s: seconds_up(until_more_us),
            window_s: MINUTE_S,
        }
    }
}

fn quota_item(count: &QuotaCount, quota: Quota, now: Now) -> LimitItem {
    LimitItem {
        name: "month",
        limit: quota.included,
        remaining: count.remaining(quota),
        reset_s: count.until_end_s(now.unix_ms),
        window_s: MONTH_S,
    }
}

fn now_ns(now: Now) -> u64 {
    now.mono_us.saturating_mul(1_000)
}

fn seconds_up(us: u64) -> u64 {
    us.div_ceil(1_000_000)
}

/// A panic while a lock is held cannot leave half a state: every holder writes plain numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rates are at most 60,000,000 < 2²⁶: algorithm, rate and burst fit into 54 bits; the algorithm is never 0.
const RATE_BITS: u32 = 26;
const RATE_MASK: u64 = (1 << RATE_BITS) - 1;

fn stamp_of(policy: &Policy) -> u64 {
    let algorithm = match policy.algorithm {
        Algorithm::TokenBucket => 1,
        Algorithm::SlidingWindow => 2,
        Algorithm::FixedWindow => 3,
    };
    algorithm << (2 * RATE_BITS)
        | (u64::from(policy.per_minute.get()) & RATE_MASK) << RATE_BITS
        | (u64::from(policy.burst.get()) & RATE_MASK)
}

fn algorithm_bits(stamp: u64) -> u64 {
    stamp >> (2 * RATE_BITS)
}

fn policy_of_stamp(stamp: u64) -> Option<Policy> {
    let algorithm = match algorithm_bits(stamp) {
        1 => Algorithm::TokenBucket,
        2 => Algorithm::SlidingWindow,
        3 => Algorithm::FixedWindow,
        _ => return None,
    };
    let rate = |bits: u64| u32::try_from(bits & RATE_MASK).ok().and_then(std::num::NonZeroU32::new);
    Some(Policy {
        algorithm,
        per_minute: rate(stamp >> RATE_BITS)?,
        burst: rate(stamp)?,
        on_redis_down: snapshot::record::OnRedisDown::FairShare,
        strict: false,
    })
}

fn shape_of_stamp(stamp: u64) -> Shape {
    policy_of_stamp(stamp).map_or(Shape::FIXED, |policy| Shape::of(policy.algorithm))
}
