//! Decides from local memory whether a subscription may send one more request: rate first, then the month's quota. Its state
//! lives here, outside the snapshot, so that it survives every swap. Makes no network call and waits for nobody.

pub mod answer;
mod bucket;
mod quota;
mod slot;
#[cfg(test)]
mod tests;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use snapshot::record::{Policy, Quota, Subscription};
use tokio::sync::watch;

pub use self::answer::{LimitAnswers, LimitItem, LimitKind, LimitRefusal};
use self::slot::Slot;
use crate::clock::Now;
use crate::metrics::Metrics;

/// Shards of the arena: a sweep or a growth holds up one of them at a time. A power of two, as the map wants it.
const SHARDS: usize = 256;
/// How often idle slots are given back.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// What a subscription's requests are counted apart by: those of its test keys take nothing from its live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    Live,
    Test,
}

/// One slot per lane of a subscription that has sent something, shared by its keys. There are never more than twice the
/// subscriptions in the snapshot's history of one period: an unknown key never gets here.
#[derive(Debug)]
pub struct Limiter {
    slots: DashMap<(u64, Lane), Slot>,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter::new()
    }
}

impl Limiter {
    pub fn new() -> Limiter {
        Limiter { slots: DashMap::with_shard_amount(SHARDS) }
    }

    /// Takes one request from each of the subscription's limits, or from none. `policy` and `quota` are the effective ones:
    /// the plan's, with the subscription's override put in.
    pub fn check(
        &self,
        subscription: &Subscription,
        lane: Lane,
        policy: &Policy,
        quota: Option<Quota>,
        now: Now,
    ) -> Result<LimitAnswers, LimitRefusal> {
        let place = (subscription.meter_id, lane);
        // The shard stays read-locked for the nanoseconds of the check, so that no sweep takes the slot away meanwhile.
        if let Some(slot) = self.slots.get(&place) {
            return slot.check(subscription, policy, quota, now);
        }
        let slot = self.slots.entry(place).or_default().downgrade();
        slot.check(subscription, policy, quota, now)
    }

    /// The same figures for a request that is not counted. Takes nothing and makes no slot.
    pub fn peek(
        &self,
        subscription: &Subscription,
        lane: Lane,
        policy: &Policy,
        quota: Option<Quota>,
        now: Now,
    ) -> LimitAnswers {
        match self.slots.get(&(subscription.meter_id, lane)) {
            Some(slot) => slot.peek(subscription, policy, quota, now),
            None => Slot::default().peek(subscription, policy, quota, now),
        }
    }

    /// Gives back the slots that hold nothing. A slot with a used quota stays until its period is over.
    pub fn sweep(&self, now: Now) {
        self.slots.retain(|_, slot| !slot.is_idle(now));
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}

/// Sweeps until told to stop.
pub async fn keep_swept(limiter: Arc<Limiter>, metrics: Arc<Metrics>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
        limiter.sweep(Now::read());
        metrics.limiter_slots.set(i64::try_from(limiter.slots()).unwrap_or(i64::MAX));
    }
}
