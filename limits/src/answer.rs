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
    /// Requests that the fleet would admit right now, as far as this node can tell.
    pub remaining: u64,
    /// Seconds until `remaining` grows if nobody asks meanwhile, rounded up; 0 when nothing is missing.
    pub grows_s: u64,
}

/// Projects the figures of one key.
pub fn project(policy: &Policy, slot: &Slot, now_ns: u64) -> Answer {
    let limit = i64::from(policy.burst());
    let owed = i64::from(slot.owed());
    let level = match slot.contact() {
        Some(contact) if !has_turned(policy, slot, now_ns) => {
            let gained = gained(policy, now_ns.saturating_sub(contact.at_ns));
            contact.level.saturating_add(gained).min(limit).saturating_sub(owed)
        }
        _ => limit.saturating_sub(owed),
    };
    let held = i64::from(slot.held(Tick::of(now_ns)));
    let next_ns = slot.grows_at_ns().saturating_sub(now_ns);
    // Tokens in hand do not pay debts: a level below zero stays in sight.
    let left = if held > 0 { level.max(0).saturating_add(held) } else { level };
    figures(policy, left, next_ns)
}

/// The figures of a key that has so many tokens left; negative while debts are repaid. `next_ns`: how long it is until a
/// window gains anything, 0 where nobody knows.
pub fn figures(policy: &Policy, left: i64, next_ns: u64) -> Answer {
    let limit = i64::from(policy.burst());
    let remaining = left.clamp(0, limit);
    let next_s = (next_ns > 0).then(|| next_ns.div_ceil(SECOND_NS));
    let grows_s = match policy.algorithm() {
        _ if remaining == limit => 0,
        // A bucket below zero pays its debts first.
        Algorithm::TokenBucket => seconds_to_gain(policy, 1 - left.min(0)),
        Algorithm::FixedWindow => next_s.unwrap_or(MINUTE_S),
        Algorithm::SlidingWindow => next_s.unwrap_or(1),
    };
    Answer { remaining: remaining.unsigned_abs(), grows_s }
}

/// A fixed window of which the last contact told has ended: the present one is whole.
fn has_turned(policy: &Policy, slot: &Slot, now_ns: u64) -> bool {
    let ends_ns = slot.grows_at_ns();
    policy.algorithm() == Algorithm::FixedWindow && ends_ns > 0 && now_ns >= ends_ns
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
    // More than what fits is more than any bucket holds.
    let units = elapsed_ns.checked_mul(u64::from(policy.per_minute()));
    units.map_or(i64::MAX, |units| i64::try_from(units / (MINUTE_S * SECOND_NS)).unwrap_or(i64::MAX))
}

fn seconds_to_gain(policy: &Policy, tokens: i64) -> u64 {
    (tokens.max(0).unsigned_abs() * MINUTE_S).div_ceil(u64::from(policy.per_minute()))
}
