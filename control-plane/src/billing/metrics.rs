//! The state of billing as gauges, kept fresh by every control plane: what is held back and why, what is unpaid, who was warned.
//! Amounts are not among them: they have currencies.

use std::time::Duration;

use prometheus::{IntGauge, Registry};
use tokio_util::sync::CancellationToken;

use crate::store::billing_totals::{BillingTotals, find_billing_totals};
use crate::store::{Store, StoreError};

/// How often each control plane looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct BillingMetrics {
    gauges: Vec<(IntGauge, Pick)>,
}

/// Which of the totals a gauge shows.
type Pick = fn(&BillingTotals) -> i64;

impl BillingMetrics {
    pub fn register(registry: &Registry) -> Result<BillingMetrics, prometheus::Error> {
        let all: [(&str, &str, Pick); 10] = [
            ("invoices_held_back", "Drafts of months that are over.", |totals| totals.held_back),
            ("invoices_held_back_seconds", "Since the oldest of their months ended.", |totals| totals.held_back_s),
            ("invoices_held_back_by_gateways", "For want of a gateway's usage.", |totals| totals.held_back_by_gateways),
            ("invoices_held_back_by_audit", "For rollups that differ.", |totals| totals.held_back_by_audit),
            ("invoices_held_back_by_grace", "For the hour of grace alone.", |totals| totals.held_back_by_grace),
            ("invoices_overdue", "Invoices that are due and not paid.", |totals| totals.overdue),
            ("subscriptions_past_due", "Subscriptions that are past due.", |totals| totals.past_due),
            ("subscriptions_refused_unpaid", "Of them, refused with 402.", |totals| totals.refused_unpaid),
            ("budget_alerts_last_day", "Warnings of budgets in a day.", |totals| totals.budget_alerts),
            ("quota_alerts_last_day", "Warnings of quotas in a day.", |totals| totals.quota_alerts),
        ];
        let mut gauges = Vec::with_capacity(all.len());
        for (name, help, pick) in all {
            let gauge = IntGauge::new(format!("control_plane_billing_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            gauges.push((gauge, pick));
        }
        Ok(BillingMetrics { gauges })
    }

    pub async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let totals = store.read("find_billing_totals", |tx| Box::pin(find_billing_totals(tx))).await?;
        for (gauge, pick) in &self.gauges {
            gauge.set(pick(&totals));
        }
        Ok(())
    }

    /// Keeps the gauges fresh until `shutdown`.
    pub async fn watch(self, store: Store, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.refresh(&store).await {
                tracing::debug!(%error, "the state of billing could not be read");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}
