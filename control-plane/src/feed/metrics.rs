//! What the feed counts. No node's name is ever a label.

use std::sync::Arc;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::lags::Lags;
use crate::metrics::DURATION_BUCKETS_S;
use crate::publish::book::Book;

#[derive(Clone)]
pub struct FeedMetrics {
    /// Gateways connected here.
    pub(super) sessions: IntGauge,
    /// Full snapshots sent.
    pub(super) full_sends: IntCounter,
    /// Deltas sent.
    pub(super) deltas: IntCounter,
    /// Acknowledgements taken.
    pub(super) acks: IntCounter,
    /// Acknowledgements with refusals.
    pub(super) partial_acks: IntCounter,
    /// From the step of the builder that first held something new to a gateway's word that it serves it.
    pub(super) ack_seconds: Histogram,
    /// How far the connected gateways are behind.
    pub(super) lags: Lags,
    /// Gateways that did not take a message in time, and were cut off.
    pub(super) stalled: IntCounter,
}

impl FeedMetrics {
    pub fn register(registry: &Registry, book: &Arc<Book>) -> Result<FeedMetrics, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_feed_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let sessions = IntGauge::new("control_plane_feed_sessions", "Gateways connected here.")?;
        registry.register(Box::new(sessions.clone()))?;
        let options = HistogramOpts::new(
            "control_plane_feed_ack_seconds",
            "From a change in the snapshot to its acknowledgement.",
        );
        let ack_seconds = Histogram::with_opts(options.buckets(DURATION_BUCKETS_S.to_vec()))?;
        registry.register(Box::new(ack_seconds.clone()))?;
        Ok(FeedMetrics {
            sessions,
            full_sends: counter("full_sends_total", "Full snapshots sent.")?,
            deltas: counter("deltas_total", "Deltas sent.")?,
            acks: counter("acks_total", "Acknowledgements taken.")?,
            partial_acks: counter("partial_acks_total", "Acknowledgements with refusals.")?,
            ack_seconds,
            lags: Lags::register(registry, Arc::clone(book))?,
            stalled: counter("stalled_total", "Gateways cut off for not taking a message in time.")?,
        })
    }
}
