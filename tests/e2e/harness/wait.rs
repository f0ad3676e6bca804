//! Waiting for something that will come true, with patience and without guessing how long it takes.

use std::time::{Duration, Instant};

/// Generous, because machines under test are busy; a passing test never waits that long.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`; fails with `what` after half a minute.
pub async fn eventually<T, F>(what: &str, ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_within(PATIENCE, what, ask).await
}

/// Where half a minute may be too little even on a machine that does nothing else.
pub async fn eventually_within<T, F>(patience: Duration, what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
