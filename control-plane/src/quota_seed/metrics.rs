//! What the seeding of quotas counts.

use prometheus::{IntCounter, IntGauge, Registry};

#[derive(Clone)]
pub struct QuotaSeedMetrics {
    /// Counts put back.
    pub(super) seeded: IntCounter,
    /// Names in the set that no subscription's month has.
    pub(super) refused: IntCounter,
    /// Times that Redis or Postgres failed.
    pub(super) failures: IntCounter,
    /// 1 while Redis answers.
    pub(super) up: IntGauge,
}

impl QuotaSeedMetrics {
    pub fn register(registry: &Registry) -> Result<QuotaSeedMetrics, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_quota_seed_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let up = IntGauge::new("control_plane_quota_seed_up", "1 while the limits' Redis answers.")?;
        registry.register(Box::new(up.clone()))?;
        Ok(QuotaSeedMetrics {
            seeded: counter("seeded_total", "Quota counts put back into Redis.")?,
            refused: counter("refused_total", "Names of missed counts that no subscription has.")?,
            failures: counter("failures_total", "Failures of Redis or Postgres on the way.")?,
            up,
        })
    }

    pub(super) fn refuse(&self, count: usize) {
        self.refused.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}
