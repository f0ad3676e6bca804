//! What the feed counts. No node's name is ever a label.

use prometheus::{IntCounter, IntGauge, Registry};

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
    /// Gateways that did not take a message in time, and were cut off.
    pub(super) stalled: IntCounter,
}

impl FeedMetrics {
    pub fn register(registry: &Registry) -> Result<FeedMetrics, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_feed_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let sessions = IntGauge::new("control_plane_feed_sessions", "Gateways connected here.")?;
        registry.register(Box::new(sessions.clone()))?;
        Ok(FeedMetrics {
            sessions,
            full_sends: counter("full_sends_total", "Full snapshots sent.")?,
            deltas: counter("deltas_total", "Deltas sent.")?,
            acks: counter("acks_total", "Acknowledgements taken.")?,
            partial_acks: counter("partial_acks_total", "Acknowledgements with refusals.")?,
            stalled: counter("stalled_total", "Gateways cut off for not taking a message in time.")?,
        })
    }
}
