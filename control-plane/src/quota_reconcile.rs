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

/// One control plane's part: what it saw in its last round, and how far it is with this one. Another one's round only makes its
/// samples older.
pub struct Reconciler {
    desk: Mutex<Desk>,
    memory: Mutex<Memory>,
    metrics: QuotaReconcileMetrics,
}

#[derive(Debug, Default)]
struct Memory {
    past: Past,
    /// The round under way: a run that is cut off, or fails, leaves the rest of it to the next.
    round: Option<Round>,
}

/// What the last whole round saw.
#[derive(Debug, Default)]
struct Past {
    samples: HashMap<i64, Sample>,
    /// When the youngest of them was taken.
    taken_at: Option<Timestamp>,
    rounds: u64,
}

#[derive(Debug, Default)]
struct Round {
    may_lower: bool,
    /// The last subscription that was compared, by meter id.
    after: i64,
    samples: HashMap<i64, Sample>,
    found: Found,
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

    /// One round, or what is left of one. Done twice at once it is harmless: raising goes to the same number, and Redis lowers once
    /// for each finding.
    async fn run(&self, store: &Store) -> anyhow::Result<()> {
        let (mut desk, mut memory) = (self.desk.lock().await, self.memory.lock().await);
        let Memory { past, round: under_way } = &mut *memory;
        desk.connect().await.context("the limits' Redis cannot be reached")?;
        let round = match under_way {
            Some(round) => round,
            None => {
                let may_lower = is_complete(store, past.taken_at).await?;
                under_way.insert(Round { may_lower, ..Round::default() })
            }
        };
        for _ in 0..BATCHES_MAX {
            let (after, limit) = (round.after, i64::try_from(BATCH_MAX).unwrap_or(i64::MAX));
            let batch = store.read("list_limited", |tx| Box::pin(list_limited(tx, after, limit))).await?;
            let Some(last) = batch.last() else { break };
            Comparison { desk: &mut desk, past, round }.run(store, &batch).await?;
            round.after = last.subscription;
        }
        let Round { may_lower, samples, found, .. } = std::mem::take(round);
        *under_way = None;
        past.samples = samples;
        past.rounds += 1;
        if may_lower {
            past.taken_at = Some(Timestamp::now());
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
struct Comparison<'a> {
    desk: &'a mut Desk,
    past: &'a Past,
    round: &'a mut Round,
}

impl Comparison<'_> {
    async fn run(mut self, store: &Store, batch: &[PeriodOf]) -> anyhow::Result<()> {
        let asks = batch.iter().map(|one| (*one, Mend::default())).collect();
        let mut there = Vec::with_capacity(batch.len());
        for (one, count) in self.ask(asks).await? {
            if self.is_quiet(&one, &count) {
                self.keep(&one, count, true);
            } else {
                there.push((one, count));
            }
        }
        if there.is_empty() {
            return Ok(());
        }
        // After the counts were read: what was counted by then was used before.
        let wanted: Vec<PeriodOf> = there.iter().map(|(one, _)| *one).collect();
        let used: HashMap<i64, u64> = used_in_periods(store, &wanted)
            .await?
            .iter()
            .map(|one| (one.subscription, u64::try_from(one.used).unwrap_or(0)))
            .collect();
        let mut wrong = Vec::new();
        for (one, count) in there {
            let Some(used) = used.get(&one.subscription).copied() else { continue };
            match self.judge(&one, &count, used) {
                Some(mend) => wrong.push((one, mend)),
                None => self.keep(&one, count, count.after == used),
            }
        }
        for (one, mended) in self.ask(wrong).await? {
            let Some(used) = used.get(&one.subscription).copied() else { continue };
            if mended.since_us != self.since_us(&one) {
                self.round.found.lowered += mended.before.saturating_sub(mended.after);
            }
            self.keep(&one, mended, mended.after == used);
        }
        Ok(())
    }

    /// What has to be done about a count; `None`: nothing.
    fn judge(&mut self, one: &PeriodOf, count: &Mended, used: u64) -> Option<Mend> {
        let excess = self.sample_of(one).map_or(0, |sample| excess(&sample.count, count, used));
        let found = &mut self.round.found;
        found.compared += 1;
        found.too_low += used.saturating_sub(count.before);
        found.too_high += excess;
        let excess = if self.round.may_lower { excess } else { 0 };
        let is_wrong = excess > 0 || used > count.before;
        is_wrong.then(|| Mend { least: used, excess, since_us: self.since_us(one), ..Mend::default() })
    }

    /// Those of which Redis has a count; a mend needs no period, it is the subscription's.
    async fn ask(&mut self, asks: Vec<(PeriodOf, Mend)>) -> anyhow::Result<Vec<(PeriodOf, Mended)>> {
        let (mut of, mut calls) = (Vec::with_capacity(asks.len()), Vec::with_capacity(asks.len()));
        for (one, mend) in asks {
            if let (Ok(subscription), Ok(period)) = (u64::try_from(one.subscription), u32::try_from(one.period)) {
                of.push(one);
                calls.push((subscription, Mend { period, ..mend }));
            }
        }
        let told = self.desk.mend(&calls).await.context("the limits' Redis failed")?;
        Ok(of.into_iter().zip(told).filter_map(|(one, count)| count.map(|count| (one, count))).collect())
    }

    fn since_us(&self, one: &PeriodOf) -> u64 {
        self.sample_of(one).map_or(0, |sample| sample.count.since_us)
    }

    /// While usage up to the samples is still to come they are kept, and no other is taken: all are as old as `taken_at`.
    fn keep(&mut self, one: &PeriodOf, count: Mended, is_right: bool) {
        let fresh = Sample { period: u32::try_from(one.period).unwrap_or(0), count, is_right };
        let kept = if self.round.may_lower { Some(fresh) } else { self.sample_of(one).copied() };
        if let Some(sample) = kept {
            self.round.samples.insert(one.subscription, sample);
        }
    }

    fn sample_of(&self, one: &PeriodOf) -> Option<&Sample> {
        self.past.samples.get(&one.subscription).filter(|sample| i64::from(sample.period) == i64::from(one.period))
    }

    /// Nobody has used it since it was right. Now and then it is compared nevertheless: usage of a gateway that was cut off from
    /// Redis may have come.
    fn is_quiet(&self, one: &PeriodOf, count: &Mended) -> bool {
        let turn = self.past.rounds.wrapping_add(one.subscription.unsigned_abs()).is_multiple_of(QUIET_ROUNDS);
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
