//! One control plane from start to stop: schema, store, what runs beside the requests, the REST listener. Refuses to serve
//! on a schema that is not its own.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::health::Readiness;
use crate::api::state::AppState;
use crate::billing::metrics::BillingMetrics;
use crate::changes::Revisions;
use crate::jobs::{JobMetrics, Queue, Scheduler};
use crate::live::{Live, LiveMetrics, Pace};
use crate::metering::MeteringMetrics;
use crate::metrics::Metrics;
use crate::passwords::Passwords;
use crate::quota_reconcile::{QuotaReconcileMetrics, Reconciler};
use crate::settings::Settings;
use crate::store::Store;
use crate::throttle::Throttles;
use crate::{delivery, jobs, metering, migrate, watched};

pub(crate) mod connections;

#[cfg(test)]
mod tests;

/// Runs until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    run_until(settings, shutdown).await
}

/// Runs until `shutdown` is cancelled.
pub async fn run_until(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    if settings.database.migrate_at_start {
        let report = migrate::run(&settings.database.link()?).await?;
        tracing::info!(version = report.version, applied = report.applied.len(), "the schema is at head");
    }
    let state = start_parts(settings, &shutdown)?;
    delivery::start(&state, &shutdown).await?;
    let address = state.settings.rest.listen;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(%address, "REST is served");
    let live = state.live.clone();
    connections::serve(listener, state, shutdown).await;
    live.ended().await;
    Ok(())
}

/// The state with everything that runs beside the requests.
fn start_parts(settings: Settings, shutdown: &CancellationToken) -> anyhow::Result<AppState> {
    let metrics = Metrics::new()?;
    let store = Store::new(&settings.database, metrics.clone())?;
    let revisions = Revisions::start(store.clone(), settings.retention.config_change_days, shutdown);
    let queue = Queue::new(settings.usage.redis_url.as_ref().map(|url| url.expose()))?;
    let quotas = Reconciler::new(settings.limits_redis.clone(), QuotaReconcileMetrics::register(metrics.registry())?);
    let (jobs, job_metrics) =
        (jobs::all(&settings.retention, settings.billing, quotas), JobMetrics::register(metrics.registry())?);
    let scheduler = Scheduler::new(store.clone(), queue, jobs, Uuid::now_v7().to_string(), job_metrics);
    watched::spawn("jobs", shutdown, scheduler.run(shutdown.clone()));
    let gauges = MeteringMetrics::register(metrics.registry())?;
    watched::spawn("metering", shutdown, metering::watch(store.clone(), gauges, shutdown.clone()));
    let billing = BillingMetrics::register(metrics.registry())?;
    watched::spawn("billing gauges", shutdown, billing.watch(store.clone(), shutdown.clone()));
    let live_metrics = LiveMetrics::register(metrics.registry())?;
    let live = Live::start(store.clone(), &settings.usage, live_metrics, Pace::default(), shutdown)?;
    Ok(AppState {
        settings: Arc::new(settings),
        store,
        revisions,
        passwords: Passwords::new()?,
        throttles: Throttles::default(),
        metrics,
        live,
        readiness: Readiness::default(),
    })
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; only a kill will stop this process");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    shutdown.cancel();
}
