//! Holds the gateways' quota counts in Redis against the bill, again and again. A count is raised at once to what has been
//! counted in Postgres: nobody can have used less. It is lowered only by what is surely too much: what a sample of it said, less
//! what was given back since, less everything counted by now, and only where every gateway has told that nothing older than the
//! sample is to come. So tokens that died with a gateway and requests that failed by our own making come back, a lost debt is
//! found, and neither can grow. Refuses to make a count that is not there: `quota_seed` does.

mod metrics;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use limits::script::{Mend, Mended};
use limits_redis::LimitsRedis;
use tokio::sync::Mutex;

pub use metrics::QuotaReconcileMetrics;

use crate::jobs::Job;
use crate::quota_seed::desk::Desk;
use crate::store::metering::{Completeness, period_completeness};
use crate::store::quota::{PeriodOf, list_limited, used_in_periods};
use crate::store::{Store, StoreError};

/// From one round to the next: what is wrong when a sample is taken is right one round later. A request that lasts longer is
/// counted when it ends, and may be lent back until then.
const INTERVAL: Duration = Duration::from_secs(25);
/// Subscriptions in one statement, which must end within the store's deadline.
const BATCH_MAX: usize = 200;
/// Subscriptions in one round, so that a fault of ours cannot keep it running: all that a control plane is made for.
const BATCHES_MAX: usize = 10_000;
/// Tokens that were out when a sample was taken are used or given back within this time.
const TOKENS_LIVE: SignedDuration = SignedDuration::from_secs(2);
/// A count that was right and that nobody has used since is looked up in Postgres once in so many rounds.
const QUIET_ROUNDS: u64 = 8;

/// What a count said, and when it was last known to be right.
#[derive(Clone, Copy, Debug)]
struct Sample {
    period: u32,
    count: Mended,
    is_right: bool,
}

/// One control plane's part: what it saw in its last round. Another one's round only makes its samples older.
pub struct Reconciler {
    desk: Mutex<Desk>,
    memory: Mutex<Memory>,
    metrics: QuotaReconcileMetrics,
}

#[derive(Debug, Default)]
struct Memory {
    samples: HashMap<i64, Sample>,
    /// When the youngest of them was taken.
    taken_at: Option<Timestamp>,
    round: u64,
}

/// What a round found, in requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    compared: u64,
    too_low: u64,
    too_high: u64,
    lowered: u64,
}

impl Reconciler {
    /// `None` without a Redis: then no gateway counts there either. Does not connect.
    pub fn new(redis: Option<LimitsRedis>, metrics: QuotaReconcileMetrics) -> Option<Reconciler> {
        let desk = Mutex::new(Desk::new(redis?));
        Some(Reconciler { desk, memory: Mutex::default(), metrics })
    }

    pub fn job(self) -> Job {
        let this = Arc::new(self);
        Job::new("quota_reconciliation", INTERVAL, move |store| {
            let this = Arc::clone(&this);
            async move { this.run(&store).await }
        })
    }

    /// One round. Done twice at once it is harmless: raising goes to the same number, and Redis lowers once for each finding.
    async fn run(&self, store: &Store) -> anyhow::Result<()> {
        let (mut desk, mut memory) = (self.desk.lock().await, self.memory.lock().await);
        desk.connect().await.context("the limits' Redis cannot be reached")?;
        let may_lower = is_complete(store, memory.taken_at).await?;
        let (mut found, mut next, mut after) = (Found::default(), HashMap::new(), 0);
        for _ in 0..BATCHES_MAX {
            let limit = i64::try_from(BATCH_MAX).unwrap_or(i64::MAX);
            let batch = store.read("list_limited", |tx| Box::pin(list_limited(tx, after, limit))).await?;
            let Some(last) = batch.last() else { break };
            after = last.subscription;
            let round = Round { desk: &mut desk, memory: &memory, may_lower, next: &mut next, found: &mut found };
            round.compare(store, &batch).await?;
        }
        memory.samples = next;
        memory.round += 1;
        if may_lower {
            memory.taken_at = Some(Timestamp::now());
        }
        self.metrics.show(found, may_lower);
        if found.too_low + found.lowered > 0 {
            tracing::info!(?found, "quota counts did not agree with the bill, and were set right");
        }
        Ok(())
    }
}

/// Whether all usage up to the samples has been counted. Without samples there is nothing to be lowered, and nothing to wait for.
async fn is_complete(store: &Store, taken_at: Option<Timestamp>) -> Result<bool, StoreError> {
    let Some(until) = taken_at.and_then(|at| at.checked_add(TOKENS_LIVE).ok()) else { return Ok(true) };
    if until > Timestamp::now() {
        return Ok(false);
    }
    let told = store.read("quota_completeness", |tx| Box::pin(period_completeness(tx, until))).await?;
    Ok(told == Completeness::Complete)
}

/// One batch of one round.
struct Round<'a> {
    desk: &'a mut Desk,
    memory: &'a Memory,
    may_lower: bool,
    next: &'a mut HashMap<i64, Sample>,
    found: &'a mut Found,
}

impl Round<'_> {
    async fn compare(mut self, store: &Store, batch: &[PeriodOf]) -> anyhow::Result<()> {
        let mut there = Vec::with_capacity(batch.len());
        for one in batch {
            let count = match u32::try_from(one.period) {
                Ok(period) => self.ask(one.subscription, Mend { period, ..Mend::default() }).await?,
                Err(_) => None,
            };
            if let Some(count) = count {
                if self.is_quiet(one, &count) {
                    self.keep(one, count, true);
                } else {
                    there.push((*one, count));
                }
            }
        }
        if there.is_empty() {
            return Ok(());
        }
        // After the counts were read: what was counted by then was used before.
        let wanted: Vec<PeriodOf> = there.iter().map(|(one, _)| *one).collect();
        let used: HashMap<i64, i64> =
            used_in_periods(store, &wanted).await?.iter().map(|one| (one.subscription, one.used)).collect();
        for (one, count) in there {
            if let Some(used) = used.get(&one.subscription) {
                self.settle(&one, count, u64::try_from(*used).unwrap_or(0)).await?;
            }
        }
        Ok(())
    }

    async fn settle(&mut self, one: &PeriodOf, count: Mended, used: u64) -> anyhow::Result<()> {
        self.found.compared += 1;
        let sample = self.sample_of(one).copied();
        let excess = sample.map_or(0, |sample| excess(&sample.count, &count, used));
        self.found.too_low += used.saturating_sub(count.before);
        self.found.too_high += excess;
        let excess = if self.may_lower { excess } else { 0 };
        let mut left = count;
        if excess > 0 || used > count.before {
            let period = u32::try_from(one.period).unwrap_or(0);
            let since_us = sample.map_or(0, |sample| sample.count.since_us);
            let Some(mended) = self.ask(one.subscription, Mend { period, least: used, excess, since_us }).await? else {
                return Ok(());
            };
            if mended.since_us != since_us {
                self.found.lowered += mended.before.saturating_sub(mended.after);
            }
            left = mended;
        }
        self.keep(one, left, left.after == used);
        Ok(())
    }

    async fn ask(&mut self, subscription: i64, mend: Mend) -> anyhow::Result<Option<Mended>> {
        let Ok(subscription) = u64::try_from(subscription) else { return Ok(None) };
        self.desk.mend(subscription, mend).await.context("the limits' Redis failed")
    }

    /// While usage up to the samples is still to come they are kept, and no other is taken: all are as old as `taken_at`.
    fn keep(&mut self, one: &PeriodOf, count: Mended, is_right: bool) {
        let fresh = Sample { period: u32::try_from(one.period).unwrap_or(0), count, is_right };
        let kept = if self.may_lower { Some(fresh) } else { self.sample_of(one).copied() };
        if let Some(sample) = kept {
            self.next.insert(one.subscription, sample);
        }
    }

    fn sample_of(&self, one: &PeriodOf) -> Option<&Sample> {
        self.memory.samples.get(&one.subscription).filter(|sample| i64::from(sample.period) == i64::from(one.period))
    }

    /// Nobody has used it since it was right. Now and then it is compared nevertheless: usage of a gateway that was cut off from
    /// Redis may have come.
    fn is_quiet(&self, one: &PeriodOf, count: &Mended) -> bool {
        let turn = self.memory.round.wrapping_add(one.subscription.unsigned_abs()).is_multiple_of(QUIET_ROUNDS);
        !turn && self.sample_of(one).is_some_and(|sample| sample.is_right && sample.count.after == count.before)
    }
}

/// What was surely too much in a sample: more than has been counted by now, where everything up to then has been, and what was
/// given back since is left out. A rate that began anew meanwhile has given back all that it says.
fn excess(sample: &Mended, now: &Mended, used: u64) -> u64 {
    let given_back = match now.born_us == sample.born_us {
        true => now.credited.saturating_sub(sample.credited),
        false => now.credited,
    };
    // Somebody else has lowered it since: the sample says nothing any more.
    if now.since_us != sample.since_us {
        return 0;
    }
    sample.after.saturating_sub(given_back).saturating_sub(used)
}
