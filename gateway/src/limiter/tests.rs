//! What both kinds of limiter are tested with: terms as sentences, and a clock that is an input.

mod alone;
mod fleet;
mod kinds;
mod nodes;
#[path = "../../../limits/tests/redis/rig.rs"]
#[allow(dead_code)] // The core's own tests use the rest.
mod rig;
mod slots;

use std::num::NonZeroU32;
use std::time::Duration;

use snapshot::record::{Algorithm, OnRedisDown, Policy};

use super::terms::{Month, Origin, Terms};
use super::{Checked, LimitAnswers, LimitKind, LimitRefusal, Limiter};
use crate::clock::Now;

/// An hour after the machine began.
pub(super) const START: Now = Now { mono_us: 3_600_000_000, unix_ms: 1_800_000_000_000 };
const HOUR: Duration = Duration::from_secs(3_600);

fn policy(algorithm: Algorithm, per_minute: u32, burst: u32) -> Policy {
    let rate = |value| NonZeroU32::new(value).unwrap();
    let (per_minute, burst) = (rate(per_minute), rate(burst));
    Policy { algorithm, per_minute, burst, on_redis_down: OnRedisDown::FairShare, strict: false }
}

pub(super) fn bucket(per_minute: u32, burst: u32) -> Policy {
    policy(Algorithm::TokenBucket, per_minute, burst)
}

fn sliding(limit: u32) -> Policy {
    policy(Algorithm::SlidingWindow, limit, limit)
}

fn fixed(limit: u32) -> Policy {
    policy(Algorithm::FixedWindow, limit, limit)
}

/// Of revision 1, in a fleet of one.
pub(super) fn terms(key: u64, policy: Policy) -> Terms {
    Terms { key, policy, month: None, fleet: 1, origin: Origin { epoch: 1, revision: 1 } }
}

impl Terms {
    fn fleet(self, fleet: u32) -> Terms {
        Terms { fleet, ..self }
    }

    fn at_revision(self, revision: u64) -> Terms {
        Terms { origin: Origin { revision, ..self.origin }, ..self }
    }

    fn with_month(self, month: Month) -> Terms {
        Terms { month: Some(month), ..self }
    }
}

/// A lane's conversation without a driver, and Redis as the core models it.
pub(super) fn converse(lane: &super::lane::Lane, redis: &mut limits::central::Group, now: Now) {
    let mut state = lane.lock();
    lane.take_calls(&mut state);
    if let Some(request) = state.syncer.poll(now.mono_us * 1_000) {
        let reply = redis.apply(&request, now.mono_us);
        state.syncer.hear(&reply, now.mono_us * 1_000);
    }
}

fn hard(period: u32, included: u64, ends_at_ms: i64) -> Month {
    Month { period, included, hard: true, ends_at_ms }
}
