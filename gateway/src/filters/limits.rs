//! Which policy and quota hold for a key, and the question to the limiter. The counting itself is the limiter's.

use std::num::NonZeroU32;

use snapshot::record::{Algorithm, Policy, Quota};

use super::authenticate::is_test;
use super::entitlement::KnownSubscription;
use crate::clock::Now;
use crate::limiter::{Checked, Lane, LimitAnswers, LimitKind, LimitRefusal, Limiter, Pending, Terms};
use crate::live::Snapshot;
use crate::rejection::Rejection;

/// What a test key may do at most: enough to try an API, not enough to run on it unbilled.
const TEST_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();
const TEST_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// What became of the limits' step.
#[derive(Debug)]
pub enum Taken {
    Yes(LimitAnswers),
    /// With the windows as they stand.
    No(Rejection, LimitAnswers),
    /// Only Redis knows. The figures are those of this moment.
    Unknown(Box<Pending>, LimitAnswers),
}

/// Takes the request from every window, or from none. `No` is a 429, with how long to wait.
pub fn take(limiter: &Limiter, snapshot: &Snapshot, known: &KnownSubscription, now: Now) -> Taken {
    match limiter.check(&terms(snapshot, known, now), now) {
        Checked::Admitted(answers) => Taken::Yes(answers),
        Checked::Refused(refusal) => Taken::No(rejection(&refusal), refusal.answers),
        Checked::Unknown(pending, answers) => Taken::Unknown(pending, answers),
    }
}

/// The windows as they stand, for a request that is refused for another reason. Takes nothing.
pub fn peek(limiter: &Limiter, snapshot: &Snapshot, known: &KnownSubscription, now: Now) -> LimitAnswers {
    limiter.peek(&terms(snapshot, known, now), now)
}

pub fn rejection(refusal: &LimitRefusal) -> Rejection {
    let retry_after_s = refusal.retry_after_s;
    match refusal.kind {
        LimitKind::Rate => Rejection::RateLimited { retry_after_s },
        LimitKind::Quota => Rejection::QuotaExceeded { retry_after_s },
    }
}

fn terms(snapshot: &Snapshot, known: &KnownSubscription, now: Now) -> Terms {
    let lane = if is_test(&known.key) { Lane::Test } else { Lane::Live };
    let fleet = (snapshot.fleet_max, snapshot.token);
    Terms::new(&known.subscription, lane, effective_policy(known), effective_quota(known), fleet, now)
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
