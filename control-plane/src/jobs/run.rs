//! One run of one job: begun behind its fence, renewed while it lasts, bounded, and its end noted where operators look. Refuses
//! to go on once somebody else holds the job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use super::queue::{LEASE, Queue, Taken};
use super::{Job, JobMetrics};
use crate::store::{Store, jobs};

/// The longest run. What is left then is the next one's.
pub(super) const RUN_MAX: Duration = Duration::from_secs(600);
/// A lease is renewed well before it ends.
const RENEW_INTERVAL: Duration = Duration::from_secs(LEASE.as_secs() / 3);

#[derive(Clone)]
pub(super) struct Runner {
    pub(super) store: Store,
    pub(super) queue: Arc<Queue>,
    pub(super) holder: Arc<str>,
    pub(super) metrics: JobMetrics,
}

impl Runner {
    pub(super) async fn run(&self, job: &Job, taken: Taken) {
        match self.begin(job, taken).await {
            Ok(true) => {}
            Ok(false) => return,
            // The lease ends by itself, or sooner: then it is tried again.
            Err(error) => {
                tracing::warn!(job = job.name, error = format!("{error:#}"), "a job cannot begin");
                return self.postpone(job, taken, job.retry_interval()).await;
            }
        }
        let started = Instant::now();
        let outcome = self.work(job, taken).await;
        self.metrics.observe(job.name, started.elapsed(), outcome.is_ok());
        let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            tracing::warn!(job = job.name, %error, "a job failed and will be tried again");
        }
        let ended = jobs::end_job(&self.store, job.name, taken.fence, started.elapsed(), error.as_deref()).await;
        if let Err(error) = ended {
            tracing::warn!(job = job.name, %error, "the end of a job could not be noted");
        }
        self.postpone(job, taken, if error.is_none() { job.interval } else { job.retry_interval() }).await;
    }

    /// Answers whether the run is the newest.
    async fn begin(&self, job: &Job, taken: Taken) -> anyhow::Result<bool> {
        if !taken.in_redis {
            return Ok(true);
        }
        match jobs::begin_job(&self.store, job.name, taken.fence, &self.holder).await? {
            None => Ok(true),
            Some(newest) => {
                tracing::warn!(job = job.name, newest, "a newer run of the job has begun elsewhere");
                self.queue.raise(job, newest).await.context("the fence cannot be raised")?;
                Ok(false)
            }
        }
    }

    async fn work(&self, job: &Job, taken: Taken) -> anyhow::Result<()> {
        let bounded = tokio::time::timeout(RUN_MAX, (job.work)(self.store.clone()));
        tokio::select! {
            outcome = bounded => outcome.unwrap_or_else(|_| Err(anyhow!("it took more than {} s", RUN_MAX.as_secs()))),
            () = self.renew_until_lost(job, taken) => Err(anyhow!("another control plane has taken it over")),
        }
    }

    async fn renew_until_lost(&self, job: &Job, taken: Taken) {
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            match self.queue.postpone(job, taken, LEASE).await {
                Ok(true) => {}
                Ok(false) => return,
                // Without Redis nobody is told that the lease has ended; doing it twice is harmless.
                Err(error) => tracing::debug!(job = job.name, %error, "a lease could not be renewed"),
            }
        }
    }

    async fn postpone(&self, job: &Job, taken: Taken, after: Duration) {
        if let Err(error) = self.queue.postpone(job, taken, after).await {
            tracing::debug!(job = job.name, %error, "the next run waits for the lease to end");
        }
    }
}
