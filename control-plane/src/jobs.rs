//! Background jobs that run once however many control planes there are: whoever asks first takes what is due, holds it by a
//! lease in Redis and is fenced in Postgres. Refuses to promise more than that: a lease can be lost while its run goes on, so
//! every job's work must be harmless when it is done twice, even at once.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

mod list;
mod metrics;
mod queue;
mod run;

#[cfg(test)]
mod tests;

pub use list::all;
pub use metrics::JobMetrics;
pub use queue::{Queue, QueueError};

use queue::Taken;

/// How often a control plane asks for work when there is none.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// How often, where Postgres is asked: each job is a statement there.
const ASK_INTERVAL_POSTGRES: Duration = Duration::from_secs(2);
/// After a failure a job is due again this soon, or after its interval where that is shorter.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Something to be done again and again.
pub struct Job {
    /// Names it in Redis, in `background_jobs` and in metrics: never changed, never reused.
    name: &'static str,
    /// From the end of one run to the next.
    interval: Duration,
    work: Box<dyn Fn(Store) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

impl Job {
    pub fn new<F>(name: &'static str, interval: Duration, work: impl Fn(Store) -> F + Send + Sync + 'static) -> Job
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Job { name, interval, work: Box::new(move |store| Box::pin(work(store))) }
    }

    fn retry_interval(&self) -> Duration {
        self.interval.min(RETRY_INTERVAL)
    }
}

/// One control plane's part in the jobs.
pub struct Scheduler {
    runner: run::Runner,
    jobs: Vec<Arc<Job>>,
}

impl Scheduler {
    /// `holder` names this process among the control planes.
    pub fn new(store: Store, queue: Queue, jobs: Vec<Job>, holder: String, metrics: JobMetrics) -> Scheduler {
        let runner = run::Runner { store, queue: Arc::new(queue), holder: holder.into(), metrics };
        Scheduler { runner, jobs: jobs.into_iter().map(Arc::new).collect() }
    }

    /// Takes what is due and runs it, each job once at a time, until `shutdown`. What runs then is left to the others.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.run_for_ever() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn run_for_ever(&mut self) {
        let mut running: JoinSet<()> = JoinSet::new();
        loop {
            while let Some(ended) = running.try_join_next() {
                if let Err(error) = ended {
                    // Its lease ends by itself, and then somebody runs it again.
                    tracing::error!(%error, "a job panicked");
                }
            }
            // A lease that was lost may bring a job here that still runs.
            let taken = if running.len() < self.jobs.len() { self.take().await } else { None };
            match taken {
                Some((job, taken)) => {
                    let runner = self.runner.clone();
                    running.spawn(async move { runner.run(&job, taken).await });
                }
                None => tokio::time::sleep(self.ask_interval()).await,
            }
        }
    }

    async fn take(&mut self) -> Option<(Arc<Job>, Taken)> {
        let runner = &self.runner;
        match runner.queue.take(&runner.store, &self.jobs, &runner.holder).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "no job can be taken for now");
                None
            }
        }
    }

    fn ask_interval(&self) -> Duration {
        if self.runner.queue.is_redis_up() { ASK_INTERVAL } else { ASK_INTERVAL_POSTGRES }
    }
}
