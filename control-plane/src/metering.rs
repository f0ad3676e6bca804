//! What metering does beside the merges: hours and days made anew from what has changed, the audit of all rollups, and the
//! gauges of both. Refuses to count a request itself.

use prometheus::{IntGauge, Registry};
use tokio_util::sync::CancellationToken;

use crate::settings::Retention;
use crate::store::metering::{self, Totals};
use crate::store::{Store, StoreError};

mod rollup;

#[cfg(test)]
mod tests;

pub use rollup::roll_up;

/// How often each control plane looks at the state of metering, for its gauges.
const LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(15);

/// Compares the rollups of today, of yesterday, and of one older day: all days of the last weeks in turn.
pub async fn audit(store: &Store) -> Result<(), StoreError> {
    let days = store.read("list_days_to_audit", |tx| Box::pin(metering::list_days_to_audit(tx))).await?;
    for day in days {
        let audit = metering::audit_day(store, day).await?;
        if !audit.is_equal {
            tracing::error!(?audit, "the rollups of a day do not agree; its invoices are not final");
        }
    }
    Ok(())
}

/// How far hours can still be made anew: below it, what they are made from may be gone.
pub fn oldest_hour(retention: &Retention, now: jiff::Timestamp) -> jiff::Timestamp {
    let days = retention.usage_quarter_hour_days.min(retention.usage_hour_days).saturating_sub(2);
    let back = jiff::SignedDuration::from_hours(i64::from(days) * 24);
    now.checked_sub(back).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The state of metering as numbers, kept fresh by every control plane.
#[derive(Clone)]
pub struct MeteringMetrics {
    gauges: Vec<(IntGauge, Pick)>,
}

/// Which of the totals a gauge shows.
type Pick = fn(&Totals) -> i64;

impl MeteringMetrics {
    pub fn register(registry: &Registry) -> Result<MeteringMetrics, prometheus::Error> {
        let all: [(&str, &str, Pick); 11] = [
            ("days_differing", "Days whose rollups do not agree.", |totals| totals.days_differing),
            ("epochs_differing", "Epochs whose batches and days do not agree.", |totals| totals.epochs_differing),
            ("epochs_with_gaps", "Epochs with batches missing.", |totals| totals.epochs_with_gaps),
            ("missing_batches", "Batches missing between others.", |totals| totals.missing_batches),
            ("silent_epochs", "Epochs neither ended nor reporting.", |totals| totals.silent_epochs),
            ("open_epochs", "Epochs that have not ended.", |totals| totals.open_epochs),
            ("written_off_epochs", "Epochs given up by an operator.", |totals| totals.written_off_epochs),
            ("nodes_never_reported", "Gateways that never sent usage.", |totals| totals.nodes_never_reported),
            ("pending_rollups", "Marks of hours to be made anew.", |totals| totals.pending_marks),
            ("set_aside", "Entries and events that could not be read.", |totals| totals.set_aside),
            ("skewed_events", "Events counted with an unlikely time.", |totals| totals.skewed_events),
        ];
        let mut gauges = Vec::with_capacity(all.len());
        for (name, help, pick) in all {
            let gauge = IntGauge::new(format!("control_plane_metering_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            gauges.push((gauge, pick));
        }
        Ok(MeteringMetrics { gauges })
    }

    pub async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let totals = store.read("find_totals", |tx| Box::pin(metering::find_totals(tx))).await?;
        for (gauge, pick) in &self.gauges {
            gauge.set(pick(&totals));
        }
        Ok(())
    }
}

/// Keeps the gauges fresh until `shutdown`.
pub async fn watch(store: Store, metrics: MeteringMetrics, shutdown: CancellationToken) {
    loop {
        if let Err(error) = metrics.refresh(&store).await {
            tracing::debug!(%error, "the state of metering could not be read");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}
