//! What live usage counts. No label names a topic or a user.

use prometheus::{IntCounter, IntGauge, Registry};

#[derive(Clone)]
pub struct LiveMetrics {
    /// Connections that are open.
    pub(super) connections: IntGauge,
    /// Topics that somebody watches.
    pub(super) topics: IntGauge,
    /// Batches taken from the stream.
    pub(super) batches: IntCounter,
    /// Batches that gateways sent and that did not come, by their sequence numbers.
    pub(super) lost_batches: IntCounter,
    /// Entries and events that could not be read.
    pub(super) bad: IntCounter,
    /// Rows and counts of things that Postgres could not name in time.
    pub(super) unnamed: IntCounter,
    /// Deltas that a watcher missed because his queue was full.
    pub(super) missed: IntCounter,
    /// 1 while the stream is followed.
    pub(super) up: IntGauge,
}

impl LiveMetrics {
    pub fn register(registry: &Registry) -> Result<LiveMetrics, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_live_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(format!("control_plane_live_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        Ok(LiveMetrics {
            connections: gauge("connections", "Connections that are open.")?,
            topics: gauge("topics", "Topics that somebody watches.")?,
            batches: counter("batches_total", "Batches taken from the stream.")?,
            lost_batches: counter("lost_batches_total", "Batches that were sent and did not come.")?,
            bad: counter("bad_entries_total", "Entries and events that could not be read.")?,
            unnamed: counter("unnamed_total", "Rows and counts of things that nobody could name.")?,
            missed: counter("missed_deltas_total", "Deltas that a slow watcher missed.")?,
            up: gauge("stream_up", "1 while the stream is followed.")?,
        })
    }
}
