//! What the builder counts.

use prometheus::{IntCounter, IntGauge, Registry};

#[derive(Clone)]
pub struct BuilderMetrics {
    /// Newest revision built.
    pub(super) revision: IntGauge,
    /// Records in the snapshot.
    pub(super) records: IntGauge,
    /// What the snapshot takes in memory.
    pub(super) bytes: IntGauge,
    /// Whole builds.
    pub(super) full_builds: IntCounter,
    /// Steps that failed and were tried again.
    pub(super) failures: IntCounter,
    /// Products quarantined since the start.
    pub(super) quarantined: IntCounter,
}

impl BuilderMetrics {
    pub fn register(registry: &Registry) -> Result<BuilderMetrics, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(format!("control_plane_snapshot_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_snapshot_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        Ok(BuilderMetrics {
            revision: gauge("revision", "Newest revision built.")?,
            records: gauge("records", "Records in the snapshot.")?,
            bytes: gauge("bytes", "What the snapshot takes in memory.")?,
            full_builds: counter("full_builds_total", "Whole builds.")?,
            failures: counter("build_failures_total", "Steps that failed and were tried again.")?,
            quarantined: counter("quarantined_total", "Products whose release did not compile.")?,
        })
    }
}
