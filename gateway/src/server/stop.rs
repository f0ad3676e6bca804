//! How the process ends: on which signals, how long it lingers for load balancers, and that it leaves as soon as nothing is in
//! flight and usage is handed over. It refuses to wait for its own sake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::{ExecutionPhase, ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, watch};

use crate::metrics::Metrics;
use crate::settings::Stop;

/// How often the requests in flight are counted while the process waits to leave.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Nothing must be in flight for this long: a connection that was just accepted has sent nothing yet, and a request may be
/// between its last byte and its account.
pub(super) const QUIET: Duration = Duration::from_millis(300);
/// How long usage may take to leave, at most; its own flush is shorter.
pub(super) const FLUSH_MAX: Duration = Duration::from_secs(6);

/// SIGTERM and SIGINT end the process in order, SIGQUIT hands its listeners over. A SIGTERM or SIGINT behind any of
/// them ends it at once.
pub(super) struct StopSignals {
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: Stop,
    pub(super) is_leaving: Arc<AtomicBool>,
}

#[async_trait]
impl ShutdownSignalWatch for StopSignals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::quit()))
        else {
            tracing::error!("signals cannot be listened to; only SIGKILL ends this process");
            return std::future::pending().await;
        };
        let hands_over = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            _ = quit.recv() => true,
        };
        self.is_leaving.store(true, Ordering::Relaxed);
        tokio::spawn(leave_on_second_signal(terminate, interrupt));
        if hands_over {
            tracing::info!("handing the listeners over, then stopping");
            return ShutdownSignal::GracefulUpgrade;
        }
        tracing::info!("stopping: no new connections, requests in flight are finished");
        self.metrics.status.set_draining();
        tokio::time::sleep(self.stop.lame_duck).await;
        ShutdownSignal::GracefulTerminate
    }
}

async fn leave_on_second_signal(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("a second signal: leaving at once");
    std::process::exit(1);
}

/// What tells the background tasks to end, and when they have.
pub(super) struct Background {
    pub(super) stop: watch::Sender<bool>,
    /// Closed when every task has let go of its end.
    pub(super) done: std::sync::mpsc::Receiver<()>,
}

/// Ends the process as soon as it may go, from a thread of its own: the framework always sleeps its whole grace period.
pub(super) fn leave_early(
    mut phases: broadcast::Receiver<ExecutionPhase>,
    metrics: Arc<Metrics>,
    grace_period: Duration,
    background: Background,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("stop".to_owned()).spawn(move || {
        loop {
            match phases.blocking_recv() {
                Ok(ExecutionPhase::ShutdownGracePeriod) => break,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The server is gone without a grace period: nothing to wait for.
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
        metrics.status.set_draining();
        wait_until_quiet(&metrics, grace_period);
        background.stop.send_replace(true);
        // An error here is the good end: every task has finished and dropped its sender.
        let _ended = background.done.recv_timeout(FLUSH_MAX);
        tracing::info!("stopped");
        std::process::exit(0);
    })
}

fn wait_until_quiet(metrics: &Metrics, grace_period: Duration) {
    let deadline = Instant::now() + grace_period;
    let mut quiet_since = None;
    while Instant::now() < deadline {
        let in_flight = metrics.http_requests_in_flight.get();
        if in_flight > 0 {
            quiet_since = None;
        } else if quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let left = metrics.http_requests_in_flight.get();
    if left > 0 {
        tracing::warn!(requests = left, "the grace period is over; what is still in flight is cut");
    }
}
