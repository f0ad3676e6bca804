//! Puts back what Redis has lost of the monthly quotas: gateways name the counts that they miss, and each is computed from the
//! usage that Postgres holds. Any number of control planes may do it at once; a count that is there is never touched. Refuses to
//! be exact beyond what has been counted in Postgres so far.

pub(crate) mod desk;
mod member;
mod metrics;

#[cfg(test)]
pub(crate) mod tests;

use std::convert::Infallible;
use std::time::Duration;

use limits_redis::{LimitsRedis, OpenFault};
use redis::RedisError;
use tokio_util::sync::CancellationToken;

pub use metrics::QuotaSeedMetrics;

use crate::store::quota::{PeriodOf, used_in_periods};
use crate::store::{Store, StoreError};
use desk::Desk;
use member::Member;

/// How often Redis is asked whether a count is missed.
const POLL: Duration = Duration::from_millis(250);
/// Counts computed in one statement, which must end within the store's deadline. Halved when one does not.
const BATCH_MAX: usize = 32;
/// Pause after a failure of Redis or Postgres, doubled up to the maximum.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// A seeder that has not begun.
pub struct QuotaSeed {
    store: Store,
    desk: Desk,
    metrics: QuotaSeedMetrics,
    batch: usize,
    back_off: Duration,
}

#[derive(Debug, thiserror::Error)]
enum SeedError {
    #[error("no connection: {0}")]
    Open(#[from] OpenFault),
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("Postgres: {0}")]
    Store(#[from] StoreError),
}

impl QuotaSeed {
    /// `None` without a Redis: then no gateway counts there either. Does not connect.
    pub fn new(store: Store, redis: Option<LimitsRedis>, metrics: QuotaSeedMetrics) -> Option<QuotaSeed> {
        let desk = Desk::new(redis?);
        Some(QuotaSeed { store, desk, metrics, batch: BATCH_MAX, back_off: BACK_OFF_MIN })
    }

    /// Seeds until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.seed_for_ever() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn seed_for_ever(&mut self) {
        loop {
            let Err(error) = self.seed_while_all_goes_well().await;
            self.metrics.failures.inc();
            self.metrics.up.set(0);
            tracing::warn!(%error, "lost quota counts cannot be put back yet");
            tokio::time::sleep(self.back_off).await;
            self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        }
    }

    async fn seed_while_all_goes_well(&mut self) -> Result<Infallible, SeedError> {
        self.desk.connect().await?;
        loop {
            let seeded = self.seed_some().await?;
            self.metrics.up.set(1);
            self.back_off = BACK_OFF_MIN;
            if seeded == 0 {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Answers how many counts were missed.
    async fn seed_some(&mut self) -> Result<usize, SeedError> {
        if !self.desk.is_settled().await? {
            return Ok(0);
        }
        let texts = self.desk.take(self.batch).await?;
        let members: Vec<Member> = texts.iter().filter_map(|text| Member::parse(text)).collect();
        self.metrics.refuse(texts.len() - members.len());
        if members.is_empty() {
            return Ok(texts.len());
        }
        let wanted: Vec<PeriodOf> = members.iter().map(Member::period_of).collect();
        let used = match used_in_periods(&self.store, &wanted).await {
            Ok(used) => used,
            Err(error) => {
                // A smaller question may be answered in time. What Redis does not take back, its gateway names again.
                self.batch = (self.batch / 2).max(1);
                self.desk.put_back(&texts).await?;
                return Err(error.into());
            }
        };
        self.batch = (self.batch * 2).min(BATCH_MAX);
        self.metrics.refuse(members.len().saturating_sub(used.len()));
        let seeded = self.desk.seed(&used).await?;
        self.metrics.seeded.inc_by(seeded);
        tracing::info!(missed = members.len(), seeded, "quota counts were put back");
        Ok(texts.len())
    }
}
