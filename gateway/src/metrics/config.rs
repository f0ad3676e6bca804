//! The metrics of the feed, of the snapshot that is served, and of its copy on disk.

use prometheus::{Error, IntCounter, IntGauge};

use super::closed::Closed;
use super::labels::ApplyFailure;
use super::maker::Maker;
use super::status::Status;
use crate::clock::unix_ms;

pub struct ConfigMetrics {
    revision: IntGauge,
    newest_revision: IntGauge,
    revisions_behind: IntGauge,
    saved_revision: IntGauge,
    age_seconds: IntGauge,
    /// Unix time of the last change taken in.
    pub last_applied_timestamp_seconds: IntGauge,
    apply_failures_total: Closed<ApplyFailure, IntCounter>,
    /// Records of the last change that were refused; acknowledged as such.
    pub refused_records: IntGauge,
    /// Conversations begun with a control plane.
    pub feed_connects_total: IntCounter,
    /// Writes of the last good snapshot that failed; serving goes on.
    pub save_failures_total: IntCounter,
    /// Writes of the last good snapshot.
    pub saves_total: IntCounter,
}

impl ConfigMetrics {
    pub(super) fn new(make: &Maker) -> Result<ConfigMetrics, Error> {
        Ok(ConfigMetrics {
            revision: make.gauge("config_revision", "The revision that is served")?,
            newest_revision: make.gauge("config_newest_revision", "The newest revision heard of")?,
            revisions_behind: make.gauge(
                "config_revisions_behind",
                "Revisions heard of that are not served yet; -1 where nothing of the newest's epoch is served",
            )?,
            saved_revision: make.gauge(
                "config_saved_revision",
                "The revision of the last good snapshot on disk; 0 without one of the served epoch",
            )?,
            age_seconds: make.gauge(
                "config_age_seconds",
                "Since the served snapshot was last known to be the newest; -1 without one",
            )?,
            last_applied_timestamp_seconds: make
                .gauge("config_last_applied_timestamp_seconds", "Unix time of the last change taken in")?,
            apply_failures_total: make.closed_counters(
                "config_apply_failures_total",
                "Messages of the feed that could not be taken in",
                "reason",
            )?,
            refused_records: make.gauge("config_refused_records", "Records of the last change that were refused")?,
            feed_connects_total: make.counter("feed_connects_total", "Conversations begun with a control plane")?,
            save_failures_total: make
                .counter("snapshot_save_failures_total", "Writes of the last good snapshot that failed")?,
            saves_total: make.counter("snapshot_saves_total", "Writes of the last good snapshot")?,
        })
    }

    pub fn apply_failed(&self, reason: ApplyFailure) {
        self.apply_failures_total.add(reason, 1);
    }

    pub(super) fn show(&self, status: &Status) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.revision.set(status.served().map_or(0, |served| gauge(served.token.revision)));
        self.newest_revision.set(gauge(status.newest_revision()));
        self.revisions_behind.set(status.revisions_behind().map_or(-1, gauge));
        self.saved_revision.set(status.saved_revision().map_or(0, gauge));
        self.age_seconds.set(status.snapshot_age_s(unix_ms()).map_or(-1, gauge));
    }
}
