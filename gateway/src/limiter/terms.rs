//! What holds for one subscription's requests at this moment, in the words of the core: the effective policy, the month, the
//! size of the fleet, and the revision that orders them. Refuses to count.

use limits::ledger::MonthTerms;
use limits::policy::{
    Algorithm as CoreAlgorithm, BURST_MAX, OnRedisDown as CoreOnRedisDown, PER_MINUTE_MAX, Policy as CorePolicy,
};
use snapshot::record::{Algorithm, OnRedisDown, Period, Policy, Quota, REQUESTS_PER_MINUTE_MAX, Subscription};
use snapshot::token::Token;

use super::answer::{LimitAnswers, LimitItem, MINUTE_S, MONTH_S};
use crate::clock::Now;
use crate::metrics::labels::LimitOutcome;

const _: () = assert!(
    REQUESTS_PER_MINUTE_MAX == PER_MINUTE_MAX && REQUESTS_PER_MINUTE_MAX == BURST_MAX,
    "what a plan may promise is what is counted exactly"
);

/// What a subscription's requests are counted apart by: those of its test keys take nothing from its live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    Live,
    Test,
}

/// The month's quota in the period that this moment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month {
    pub period: u32,
    pub included: u64,
    pub hard: bool,
    pub ends_at_ms: i64,
}

/// Where a subscription's policy comes from: a later revision of the same feed says a later policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The feed's epoch, folded; another one says nothing about which is later.
    pub epoch: u64,
    pub revision: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The limit key: what Redis knows the subscription's lane by.
    pub key: u64,
    pub policy: Policy,
    pub month: Option<Month>,
    /// The most gateways that may run at once.
    pub fleet: u32,
    pub origin: Origin,
}

impl Terms {
    /// `policy` and `quota` are the effective ones: the plan's, with the subscription's override put in.
    pub fn new(
        subscription: &Subscription,
        lane: Lane,
        policy: Policy,
        quota: Option<Quota>,
        (fleet, token): (u32, Option<Token>),
        now: Now,
    ) -> Terms {
        let month = quota.zip(period_at(subscription, now.unix_ms)).map(|(quota, period)| Month {
            period: period.id,
            included: period.included.unwrap_or(quota.included),
            hard: quota.hard,
            ends_at_ms: period.ends_at_ms,
        });
        let key = subscription.meter_id.wrapping_mul(2).wrapping_add(u64::from(lane == Lane::Test));
        Terms { key, policy, month, fleet: fleet.max(1), origin: token.map(Origin::of).unwrap_or_default() }
    }

    /// A number that differs where the key differs, or anything that a slot has to follow; never 0. Two that coincide by chance
    /// (2⁻⁶⁴) would delay a change until the next one.
    pub(super) fn stamp(&self) -> u64 {
        let month = self.month.map_or(0, |month| {
            let ends = month.ends_at_ms.unsigned_abs();
            fold(fold(month.included, ends), u64::from(month.period) << 1 | u64::from(month.hard)) | 1
        });
        fold(fold(fold(policy_bits(&self.policy), month), u64::from(self.fleet)), self.key).max(1)
    }

    pub(super) fn policy_bits(&self) -> u64 {
        policy_bits(&self.policy)
    }

    pub(super) fn core_policy(&self, revision: u64) -> CorePolicy {
        let algorithm = match self.policy.algorithm {
            Algorithm::TokenBucket => CoreAlgorithm::TokenBucket,
            Algorithm::SlidingWindow => CoreAlgorithm::SlidingWindow,
            Algorithm::FixedWindow => CoreAlgorithm::FixedWindow,
        };
        let on_redis_down = match self.policy.on_redis_down {
            OnRedisDown::FairShare => CoreOnRedisDown::FairShare,
            OnRedisDown::Open => CoreOnRedisDown::Open,
            OnRedisDown::Closed => CoreOnRedisDown::Closed,
        };
        CorePolicy::clamped(revision, algorithm, self.policy.per_minute.get(), self.policy.burst.get())
            .on_redis_down(on_redis_down)
            .strict(self.policy.strict)
    }

    pub(super) fn core_month(&self, now: Now) -> Option<MonthTerms> {
        self.month.map(|month| MonthTerms {
            period: month.period,
            included: month.included,
            hard: month.hard,
            ends_ns: mono_ns(now).saturating_add(month.left_ms(now).saturating_mul(1_000_000)),
        })
    }

    /// The figures where `remaining` tokens and `month_left` requests are left.
    pub(super) fn answers(
        &self,
        (remaining, reset_s): (u64, u64),
        month_left: i64,
        outcome: Option<LimitOutcome>,
        now: Now,
    ) -> LimitAnswers {
        let limit = u64::from(self.policy.per_minute.get());
        let quota = self.month.map(|month| LimitItem {
            name: "month",
            limit: month.included,
            remaining: month_left.max(0).unsigned_abs().min(month.included),
            reset_s: month.left_ms(now).div_ceil(1_000),
            window_s: MONTH_S,
        });
        let rate = LimitItem { name: "minute", limit, remaining, reset_s, window_s: MINUTE_S };
        LimitAnswers { rate, quota, algorithm: self.policy.algorithm, outcome }
    }
}

impl Month {
    pub(super) fn left_ms(&self, now: Now) -> u64 {
        self.ends_at_ms.saturating_sub(now.unix_ms).max(0).unsigned_abs()
    }
}

impl Origin {
    fn of(token: Token) -> Origin {
        let (high, low) = token.epoch.as_u64_pair();
        Origin { epoch: high ^ low, revision: token.revision }
    }
}

/// The core's clock.
pub(super) fn mono_ns(now: Now) -> u64 {
    now.mono_us.saturating_mul(1_000)
}

/// The next period follows when the current one is over; when both are (the control plane has been away that long), the last
/// one known goes on.
fn period_at(subscription: &Subscription, unix_ms: i64) -> Option<Period> {
    match (subscription.period, subscription.next_period) {
        (Some(current), _) if unix_ms < current.ends_at_ms => Some(current),
        (current, next) => next.or(current),
    }
}

/// Rates are at most 50,000,000 < 2²⁶, so nothing overlaps.
fn policy_bits(policy: &Policy) -> u64 {
    let algorithm = match policy.algorithm {
        Algorithm::TokenBucket => 0,
        Algorithm::SlidingWindow => 1,
        Algorithm::FixedWindow => 2,
    };
    let down = match policy.on_redis_down {
        OnRedisDown::FairShare => 0,
        OnRedisDown::Open => 1,
        OnRedisDown::Closed => 2,
    };
    let rates = u64::from(policy.per_minute.get()) << 26 | u64::from(policy.burst.get());
    u64::from(policy.strict) << 56 | down << 54 | algorithm << 52 | rates
}

/// A multiplication and a fold: enough for words that nobody chooses in order to make them coincide.
fn fold(one: u64, other: u64) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mixed = (one ^ other.rotate_left(32)).wrapping_mul(ODD);
    mixed ^ (mixed >> 29)
}
