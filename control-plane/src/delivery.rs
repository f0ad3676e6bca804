//! Starts what stands between the rows and the gateways: the builder of the snapshot, the feed that hands it out, the ingest
//! that brings usage back, the seeder of lost quota counts. Wiring only; each part says itself what it does.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::api::state::AppState;
use crate::feed::{Bearer, Feed, FeedMetrics, Listener};
use crate::ingest::{Ingest, IngestMetrics};
use crate::publish::book::Book;
use crate::publish::builder::{Builder, BuilderMetrics};
use crate::quota_seed::{QuotaSeed, QuotaSeedMetrics};
use crate::watched;

/// Spawns the parts; all end with `shutdown`. Errors: what would keep a part from ever working, such as an address in use.
pub async fn start(state: &AppState, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let (store, registry, signals) = (&state.store, state.metrics.registry(), state.revisions.signals());
    let listener = Listener::bind(&state.settings.feed).await.context("the feed cannot listen")?;
    let ingest = Ingest::new(store.clone(), &state.settings.usage, IngestMetrics::register(registry)?)?;
    let quota_seed =
        QuotaSeed::new(store.clone(), state.settings.limits_redis.clone(), QuotaSeedMetrics::register(registry)?);

    let book = Arc::new(Book::default());
    let builder = Builder::new(store.clone(), Arc::clone(&book), BuilderMetrics::register(registry)?);
    state.readiness.watch(Arc::clone(&book));
    watched::spawn("builder", shutdown, builder.run(signals.clone(), shutdown.clone()));

    let bearer = state.settings.feed.token.as_ref().map(|token| Bearer::new(token.expose()));
    let metrics = FeedMetrics::register(registry, &book)?;
    tracing::info!(address = ?state.settings.feed.listen, "the feed is served");
    let feed = Feed::start(store.clone(), book, &state.revisions, bearer, metrics, shutdown);
    watched::spawn("feed", shutdown, serve_feed(listener, feed, shutdown.clone()));

    if let Some(ingest) = ingest {
        watched::spawn("ingest", shutdown, ingest.run(shutdown.clone()));
    }
    if let Some(quota_seed) = quota_seed {
        watched::spawn("quota seed", shutdown, quota_seed.run(shutdown.clone()));
    }
    Ok(())
}

/// A control plane that cannot be followed is of no use: it stops, and whoever runs it starts it anew.
async fn serve_feed(listener: Listener, feed: Feed, shutdown: CancellationToken) {
    if let Err(error) = listener.serve(feed, shutdown.clone()).await {
        tracing::error!(%error, "the feed failed");
        shutdown.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::App;

    #[tokio::test]
    async fn every_part_starts_once_and_an_address_in_use_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("feed.sock");
        let app = App::start_with(&format!("[feed]\nlisten = \"unix:{}\"\n", socket.display())).await;
        let shutdown = CancellationToken::new();
        let _stop = shutdown.clone().drop_guard();
        start(&app.state, &shutdown).await.unwrap();
        assert!(tokio::net::UnixStream::connect(&socket).await.is_ok());
        let names = app.state.metrics.render().unwrap();
        for name in ["control_plane_snapshot_revision", "control_plane_feed_sessions", "control_plane_ingest_stream_up"]
        {
            assert!(names.contains(name), "{name}");
        }
        let again = start(&app.state, &shutdown).await.unwrap_err();
        assert!(format!("{again:#}").contains("another process listens"), "{again:#}");
    }
}
