//! Asks a running process for its health over plain HTTP. Follows nothing, retries nothing.

use std::time::Duration;

use anyhow::Context as _;

/// A health check that takes longer is a failed one.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// Ends well where `url` answers 200; otherwise the error says what it answered.
pub fn ask(url: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(ANSWER_WAIT).build()?;
        client.get(url).send().await
    });
    let status = answer.with_context(|| format!("no answer from {url}"))?.status();
    anyhow::ensure!(status == reqwest::StatusCode::OK, "{url} answered {status}");
    Ok(())
}
