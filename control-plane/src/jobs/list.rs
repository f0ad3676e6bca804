//! The table of contents of the jobs: what runs, and how often. Refuses logic; each job's room says what it does.

use std::time::Duration;

use jiff::Timestamp;

use super::Job;
use crate::quota_reconcile::Reconciler;
use crate::settings::{Billing, Retention};
use crate::store::{self, Store, usage};
use crate::{billing, housekeeping, metering};

const ROLL_UP_INTERVAL: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

pub fn all(retention: &Retention, terms: Billing, quotas: Option<Reconciler>) -> Vec<Job> {
    let mut jobs = vec![
        with(retention, "usage_partitions", HOUR, |store, retention| async move {
            Ok(store::housekeeping::keep_partitions(&store, &retention).await?)
        }),
        with(retention, "usage_rollups", ROLL_UP_INTERVAL, |store, retention| async move {
            let oldest = metering::oldest_hour(&retention, Timestamp::now());
            Ok(metering::roll_up(&store, oldest).await.map(|_| ())?)
        }),
        Job::new("usage_audit", MINUTE, |store| async move { Ok(metering::audit(&store).await?) }),
        with(retention, "ingest_pruning", HOUR, |store, retention| async move {
            usage::prune_batches(&store).await?;
            let days = i32::try_from(retention.ingest_failure_days).unwrap_or(i32::MAX);
            Ok(usage::prune_failures(&store, days).await.map(|_| ())?)
        }),
        Job::new("subscription_periods", HOUR, |store| async move { Ok(housekeeping::move_periods(&store).await?) }),
        Job::new("billing", MINUTE, move |store| async move { billing::job::run_once(&store, &terms).await }),
        Job::new("budgets", HOUR, |store| async move { billing::job::compare_budgets(&store).await }),
        Job::new("expired_rows", HOUR, |store| async move { Ok(housekeeping::remove_expired(&store).await?) }),
    ];
    jobs.extend(quotas.map(Reconciler::job));
    jobs
}

fn with<F>(
    retention: &Retention,
    name: &'static str,
    interval: Duration,
    work: impl Fn(Store, Retention) -> F + Send + Sync + 'static,
) -> Job
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let retention = retention.clone();
    Job::new(name, interval, move |store| work(store, retention.clone()))
}
