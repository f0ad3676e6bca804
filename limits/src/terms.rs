//! The figures that follow from a policy and the size of the fleet: overdraft, tick, life of a lease, and the bound that they
//! promise together. Every constant of the protocol stands here. Refuses to hold state.

use crate::policy::{Algorithm, OnRedisDown, Policy};

/// Units of one token: a bucket of n requests per minute gains exactly n units per microsecond, so that no rate is rounded.
pub const UNITS: i64 = 60_000_000;
pub const MS_NS: u64 = 1_000_000;
pub const US_NS: u64 = 1_000;
/// Δ: how often a key asks, at most this rarely.
pub const TICK_MAX_NS: u64 = 100 * MS_NS;
/// δ: the shortest time between two batches of one link.
pub const BATCH_GAP_NS: u64 = 2 * MS_NS;
/// H in ticks: how long a lease lives, counted from the moment the question was sent.
pub const LEASE_TICKS: u64 = 5;
/// H, at most; the windows of Redis look back this much further.
pub const LEASE_MAX_US: u64 = LEASE_TICKS * TICK_MAX_NS / US_NS;
/// R, at most: Redis drops older refunds.
pub const REFUND_AGE_MAX_US: u64 = (7 * TICK_MAX_NS + 6 * MS_NS) / US_NS;
/// What a lease is meant to last beyond a tick: the way there and back.
pub const FORECAST_EXTRA_NS: u64 = 3 * MS_NS;
/// The longest that a request may wait for an answer under way.
pub const WAIT_MAX_NS: u64 = 5 * MS_NS;
/// An overdraft on a bucket that is at least half full may be reported this late: the bound is one of tokens, not of time.
pub const LAZY_REPORT_NS: u64 = 5_000 * MS_NS;
/// As above, where a month is counted too: before the bill knows of it, so that no count is mended for a report under way.
pub const LAZY_MONTH_REPORT_NS: u64 = 1_000 * MS_NS;
/// Such reports are made so often, of all keys at once.
pub const LAZY_ROUND_NS: u64 = 250 * MS_NS;
/// A key that is denied for longer looks this often whether tokens have come back from other nodes.
pub const RECHECK_NS: u64 = 1_000 * MS_NS;
/// A key that was quiet for so long is forgotten: whatever it had used has flowed back in.
pub const FORGET_AFTER_NS: u64 = 66_000 * MS_NS;
/// As above, where Redis has lost the month's count and this node spends its part of it.
pub const FORGET_ALONE_AFTER_NS: u64 = 10 * FORGET_AFTER_NS;
/// Tokens of one lease, at most: what a slot's word holds.
pub const LEASE_TOKENS_MAX: u32 = (1 << 24) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// e: tokens that a node may owe.
    pub overdraft: u32,
    /// Δ_k.
    pub tick_ns: u64,
    /// H.
    pub lease_ns: u64,
    /// Tokens of one question, at most: half of the bucket.
    pub want_max: u32,
    /// N.
    pub fleet: u32,
}

impl Terms {
    /// `fleet`: the most nodes that may run at once.
    pub fn of(policy: &Policy, fleet: u32) -> Terms {
        let fleet = fleet.max(1);
        let burst = policy.burst();
        let tick_ns = tick_ns(policy);
        // Below one token a node the overdraft alone could exceed the bucket, so it is taken away.
        let strict = policy.is_strict() || policy.when_down() == OnRedisDown::Closed || burst < fleet;
        let overdraft = if strict { 0 } else { (burst / fleet.saturating_mul(2)).max(1) };
        Terms {
            overdraft,
            tick_ns,
            lease_ns: LEASE_TICKS * tick_ns,
            want_max: (burst / 2).clamp(1, LEASE_TOKENS_MAX),
            fleet,
        }
    }
}

/// Δ_k = B / 4r, between the gap and the tick.
fn tick_ns(policy: &Policy) -> u64 {
    let quarter_ns = u64::from(policy.burst()) * 15_000 * MS_NS / u64::from(policy.per_minute());
    match policy.algorithm() {
        Algorithm::TokenBucket => quarter_ns.clamp(BATCH_GAP_NS, TICK_MAX_NS),
        Algorithm::SlidingWindow | Algorithm::FixedWindow => TICK_MAX_NS,
    }
}
