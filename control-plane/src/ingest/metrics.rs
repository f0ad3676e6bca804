//! What the ingest counts. Labels are closed sets.

use prometheus::{IntCounter, IntGauge, Registry};

#[derive(Clone)]
pub struct IngestMetrics {
    /// Events counted in Postgres.
    pub(super) events: IntCounter,
    /// Batches counted in Postgres.
    pub(super) batches: IntCounter,
    /// Batches that came again and were not counted again.
    pub(super) duplicates: IntCounter,
    /// Entries, and events of entries, that could not be read and were moved aside.
    pub(super) failures: IntCounter,
    /// Events whose time is far from this clock's.
    pub(super) skewed: IntCounter,
    /// Writes that Postgres did not take and that were tried again.
    pub(super) retries: IntCounter,
    /// 1 while the stream answers.
    pub(super) up: IntGauge,
}

impl IngestMetrics {
    pub fn register(registry: &Registry) -> Result<IngestMetrics, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(format!("control_plane_ingest_{name}"), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let up = IntGauge::new("control_plane_ingest_stream_up", "1 while the stream answers.")?;
        registry.register(Box::new(up.clone()))?;
        Ok(IngestMetrics {
            events: counter("events_total", "Events counted.")?,
            batches: counter("batches_total", "Batches counted.")?,
            duplicates: counter("duplicate_batches_total", "Batches that came again.")?,
            failures: counter("failed_entries_total", "Entries and single events moved aside unread.")?,
            skewed: counter("skewed_events_total", "Events whose time is far from this clock's.")?,
            retries: counter("write_retries_total", "Writes tried again.")?,
            up,
        })
    }

    /// Whether the stream answers, for health.
    pub fn is_up(&self) -> bool {
        self.up.get() == 1
    }
}
