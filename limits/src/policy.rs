//! What a plan promises about its rate, as a type that cannot be wrong. Refuses figures beyond which Redis' doubles would not
//! be exact, and knows nothing of the fleet.

use thiserror::Error;

/// Requests per minute, at most.
pub const PER_MINUTE_MAX: u32 = 50_000_000;
/// Tokens in a bucket, at most: 3 × this × 60·10⁶ units stay below 2⁵³.
pub const BURST_MAX: u32 = 50_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    TokenBucket,
    SlidingWindow,
    FixedWindow,
}

/// What a node does while Redis does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnRedisDown {
    /// Its share of the rate, from an empty bucket of its own.
    FairShare,
    /// Everything.
    Open,
    /// Only what it has leased. Never admits on overdraft, Redis or not.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    #[error("requests per minute must be 1 to {PER_MINUTE_MAX}, not {0}")]
    PerMinute(u32),
    #[error("the burst must be 1 to {BURST_MAX}, not {0}")]
    Burst(u32),
}

/// How a subscription's rate is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    revision: u64,
    algorithm: Algorithm,
    per_minute: u32,
    burst: u32,
    on_redis_down: OnRedisDown,
    strict: bool,
}

impl Policy {
    /// `revision` orders the versions of one subscription's policy: Redis follows the highest that it has seen. For windows
    /// the burst is the limit, whatever is given.
    pub fn new(revision: u64, algorithm: Algorithm, per_minute: u32, burst: u32) -> Result<Policy, PolicyError> {
        let burst = if algorithm == Algorithm::TokenBucket { burst } else { per_minute };
        if !(1..=PER_MINUTE_MAX).contains(&per_minute) {
            return Err(PolicyError::PerMinute(per_minute));
        }
        if !(1..=BURST_MAX).contains(&burst) {
            return Err(PolicyError::Burst(burst));
        }
        Ok(Policy { revision, algorithm, per_minute, burst, on_redis_down: OnRedisDown::FairShare, strict: false })
    }

    /// As `new`, with the nearest figures that there may be.
    pub fn clamped(revision: u64, algorithm: Algorithm, per_minute: u32, burst: u32) -> Policy {
        let per_minute = per_minute.clamp(1, PER_MINUTE_MAX);
        let burst = if algorithm == Algorithm::TokenBucket { burst.clamp(1, BURST_MAX) } else { per_minute };
        Policy { revision, algorithm, per_minute, burst, on_redis_down: OnRedisDown::FairShare, strict: false }
    }

    pub fn on_redis_down(self, on_redis_down: OnRedisDown) -> Policy {
        Policy { on_redis_down, ..self }
    }

    /// No overdraft: nothing beyond the exact bucket, at the price of a short wait on a cold node.
    pub fn strict(self, strict: bool) -> Policy {
        Policy { strict, ..self }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// B, or L for a window.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    pub fn when_down(&self) -> OnRedisDown {
        self.on_redis_down
    }

    pub fn is_strict(&self) -> bool {
        self.strict
    }
}
