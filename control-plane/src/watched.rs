//! Tasks without which a control plane is of no use. One that ends or panics before it was told to stops the process in order,
//! and whoever runs it starts it anew. Starts nothing again itself.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Spawns a task that ends only with `shutdown`.
pub(crate) fn spawn<F>(name: &'static str, shutdown: &CancellationToken, work: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(watch(name, shutdown.clone(), tokio::spawn(work)));
}

async fn watch(name: &'static str, shutdown: CancellationToken, task: JoinHandle<()>) {
    let outcome = task.await;
    // A runtime that ends cancels its tasks; that is no fault of theirs.
    if shutdown.is_cancelled() || outcome.as_ref().is_err_and(tokio::task::JoinError::is_cancelled) {
        return;
    }
    tracing::error!(task = name, panicked = outcome.is_err(), "a background task ended; the control plane stops");
    shutdown.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_by_itself_stops_the_control_plane() {
        let (panicking, ending) = (CancellationToken::new(), CancellationToken::new());
        spawn("panicking", &panicking, async { panic!("on purpose") });
        spawn("ending", &ending, async {});
        panicking.cancelled().await;
        ending.cancelled().await;
    }
}
