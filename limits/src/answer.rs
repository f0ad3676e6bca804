//! The figures that a client reads in the headers, projected from the last contact with Redis and what the node holds. Writes
//! no header, and promises no more than an estimate: other nodes spend meanwhile.

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use crate::policy::{Algorithm, Policy};
use crate::slot::Slot;
use crate::slot::lease::Tick;
use crate::terms::FORGET_AFTER_NS;

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_S: u64 = 60;
/// After so long without a word from Redis nothing of a window is used any more.
const WINDOW_OVER_NS: u64 = FORGET_AFTER_NS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The bucket's size, or the window's limit.
    pub limit: u64,
    /// Requests that the fleet would admit right now, as far as this node can tell.
    pub remaining: u64,
    /// Seconds until nothing would be missing, rounded up; 0 when nothing is.
    pub reset_s: u64,
}

/// Projects the figures of one key.
pub fn project(policy: &Policy, slot: &Slot, now_ns: u64) -> Answer {
    let limit = i64::from(policy.burst());
    let level = match slot.contact() {
        None => limit - i64::from(slot.owed()),
        Some(contact) => {
            let gained = gained(policy, now_ns.saturating_sub(contact.at_ns));
            contact.level.saturating_add(gained).saturating_sub(i64::from(slot.owed())).min(limit)
        }
    };
    let held = i64::from(slot.held(Tick::of(now_ns)));
    figures(policy, level.max(0).saturating_add(held))
}

/// The figures of a key that has so many tokens left.
pub fn figures(policy: &Policy, left: i64) -> Answer {
    let limit = i64::from(policy.burst());
    let remaining = left.clamp(0, limit);
    let missing = limit - remaining;
    let reset_s = match policy.algorithm() {
        Algorithm::TokenBucket => seconds_to_gain(policy, missing),
        Algorithm::SlidingWindow | Algorithm::FixedWindow if missing == 0 => 0,
        Algorithm::SlidingWindow | Algorithm::FixedWindow => MINUTE_S,
    };
    Answer { limit: limit.unsigned_abs(), remaining: remaining.unsigned_abs(), reset_s }
}

/// Seconds of a `Retry-After`, at least one.
pub fn retry_after_s(retry_ns: u64) -> u64 {
    retry_ns.div_ceil(SECOND_NS).max(1)
}

/// Windows gain nothing that a node could foresee, until they are over.
fn gained(policy: &Policy, elapsed_ns: u64) -> i64 {
    if policy.algorithm() != Algorithm::TokenBucket {
        return if elapsed_ns < WINDOW_OVER_NS { 0 } else { i64::from(policy.burst()).saturating_mul(2) };
    }
    let tokens = u128::from(elapsed_ns) * u128::from(policy.per_minute()) / u128::from(MINUTE_S * SECOND_NS);
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn seconds_to_gain(policy: &Policy, tokens: i64) -> u64 {
    (tokens.max(0).unsigned_abs() * MINUTE_S).div_ceil(u64::from(policy.per_minute()))
}
