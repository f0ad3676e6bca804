//! Which policy and quota hold for a key, and the question to the limiter. The counting itself is the limiter's.

use std::num::NonZeroU32;

use snapshot::record::{Algorithm, Policy, Quota};

use super::authenticate::is_test;
use super::entitlement::KnownSubscription;
use crate::clock::Now;
use crate::limiter::{Lane, LimitAnswers, LimitKind, LimitRefusal, Limiter};
use crate::rejection::Rejection;

/// What a test key may do at most: enough to try an API, not enough to run on it unbilled.
const TEST_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();
const TEST_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Takes the request from every window, or from none. Errors: 429 with how long to wait and the windows as they stand.
pub fn take(limiter: &Limiter, known: &KnownSubscription, now: Now) -> Result<LimitAnswers, (Rejection, LimitAnswers)> {
    let (policy, quota) = (effective_policy(known), effective_quota(known));
    limiter.check(&known.subscription, lane(known), &policy, quota, now).map_err(
        |LimitRefusal { kind, retry_after_s, answers }| {
            let rejection = match kind {
                LimitKind::Rate => Rejection::RateLimited { retry_after_s },
                LimitKind::Quota => Rejection::QuotaExceeded { retry_after_s },
            };
            (rejection, answers)
        },
    )
}

/// The windows as they stand, for a request that is refused for another reason. Takes nothing.
pub fn peek(limiter: &Limiter, known: &KnownSubscription, now: Now) -> LimitAnswers {
    limiter.peek(&known.subscription, lane(known), &effective_policy(known), effective_quota(known), now)
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

fn lane(known: &KnownSubscription) -> Lane {
    if is_test(&known.key) { Lane::Test } else { Lane::Live }
}
