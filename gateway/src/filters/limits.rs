//! Which policy and quota hold for a key, and the question to the limiter. The counting itself is the limiter's.

use std::borrow::Cow;
use std::num::NonZeroU32;

use snapshot::record::{Algorithm, Policy, Quota, Subscription};

use super::authenticate::is_test;
use super::entitlement::KnownSubscription;
use crate::clock::Now;
use crate::limiter::{LimitAnswers, LimitKind, LimitRefusal, Limiter};
use crate::rejection::Rejection;

/// What a test key may do at most: enough to try an API, not enough to run on it unbilled.
const TEST_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();
const TEST_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Test keys count apart from the subscription's live ones. Meter ids are positive 63-bit integers of the database, so
/// that this bit is free.
const TEST_METER_BIT: u64 = 1 << 63;

/// Takes the request from every window, or from none. Errors: 429 with how long to wait and the windows as they stand.
pub fn take(limiter: &Limiter, known: &KnownSubscription, now: Now) -> Result<LimitAnswers, (Rejection, LimitAnswers)> {
    let policy = effective_policy(known);
    let meter = metered_as(known);
    limiter.check(&meter, &policy, effective_quota(known), now).map_err(
        |LimitRefusal { kind, retry_after_s, answers }| {
            let rejection = match kind {
                LimitKind::Rate => Rejection::RateLimited { retry_after_s },
                LimitKind::Quota => Rejection::QuotaExceeded { retry_after_s },
            };
            (rejection, answers)
        },
    )
}

/// The plan's policy with the subscription's override put in, and a test key's cap over both.
pub fn effective_policy(known: &KnownSubscription) -> Policy {
    let mut policy = known.plan.policy;
    if let Some(rate) = known.subscription.rate_override {
        policy.per_minute = rate.per_minute;
        policy.burst = rate.burst;
    }
    if is_test(&known.key) {
        policy.per_minute = policy.per_minute.min(TEST_PER_MINUTE);
        policy.burst = policy.burst.min(TEST_BURST);
    }
    // A window's burst is its limit, by definition.
    if policy.algorithm != Algorithm::TokenBucket {
        policy.burst = policy.per_minute;
    }
    policy
}

/// Test requests are never billed, so they use up no quota.
pub fn effective_quota(known: &KnownSubscription) -> Option<Quota> {
    if is_test(&known.key) { None } else { known.plan.quota }
}

fn metered_as(known: &KnownSubscription) -> Cow<'_, Subscription> {
    if !is_test(&known.key) {
        return Cow::Borrowed(&known.subscription);
    }
    let mut apart = Subscription::clone(&known.subscription);
    apart.meter_id |= TEST_METER_BIT;
    Cow::Owned(apart)
}
