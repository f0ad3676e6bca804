//! How far the gateways' quota counts were from the bill, as the last round here saw it.

use prometheus::{IntCounter, IntGauge, Registry};

use super::Found;

#[derive(Clone)]
pub struct QuotaReconcileMetrics {
    /// Counts compared in the last round.
    pub(super) compared: IntGauge,
    /// Requests by which counts were below the bill in the last round.
    pub(super) too_low: IntGauge,
    /// Requests by which counts were surely above it.
    pub(super) too_high: IntGauge,
    /// 1 while counts may not be lowered, because usage is still to come.
    pub(super) waiting: IntGauge,
    /// Requests by which counts were raised.
    pub(super) raised: IntCounter,
    /// Requests by which counts were lowered.
    pub(super) lowered: IntCounter,
}

impl QuotaReconcileMetrics {
    pub fn register(registry: &Registry) -> Result<QuotaReconcileMetrics, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(format!("control_plane_quota_reconcile_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_quota_reconcile_{name}_total"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        Ok(QuotaReconcileMetrics {
            compared: gauge("compared", "Quota counts compared with the bill in the last round.")?,
            too_low: gauge("too_low", "Requests by which counts were below the bill.")?,
            too_high: gauge("too_high", "Requests by which counts were surely above the bill.")?,
            waiting: gauge("waiting", "1 while counts are not lowered, because usage is still to come.")?,
            raised: counter("raised", "Requests by which counts were raised.")?,
            lowered: counter("lowered", "Requests by which counts were lowered.")?,
        })
    }

    pub(super) fn show(&self, found: Found, may_lower: bool) {
        let shown = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.compared.set(shown(found.compared));
        self.too_low.set(shown(found.too_low));
        self.too_high.set(shown(found.too_high));
        self.waiting.set(i64::from(!may_lower));
        self.raised.inc_by(found.too_low);
        self.lowered.inc_by(found.lowered);
    }
}
