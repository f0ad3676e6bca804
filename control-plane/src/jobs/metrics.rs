//! What each job's runs look like, as far as this control plane ran them. The label is the job's name: a closed set.

use std::time::Duration;

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Seconds.
const DURATION_BUCKETS_S: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];

#[derive(Clone)]
pub struct JobMetrics {
    /// Runs that ended, by job and outcome.
    runs: IntCounterVec,
    /// How long a run took, by job.
    duration: HistogramVec,
    /// When a run here last succeeded, in Unix seconds.
    last_success: GaugeVec,
}

impl JobMetrics {
    pub fn register(registry: &Registry) -> Result<JobMetrics, prometheus::Error> {
        let runs = IntCounterVec::new(Opts::new("control_plane_job_runs_total", "Runs ended."), &["job", "outcome"])?;
        let options = HistogramOpts::new("control_plane_job_duration_seconds", "How long runs took.");
        let duration = HistogramVec::new(options.buckets(DURATION_BUCKETS_S.to_vec()), &["job"])?;
        let name = "control_plane_job_last_success_timestamp_seconds";
        let last_success = GaugeVec::new(Opts::new(name, "When a run here last succeeded."), &["job"])?;
        registry.register(Box::new(runs.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(last_success.clone()))?;
        Ok(JobMetrics { runs, duration, last_success })
    }

    pub(super) fn observe(&self, job: &str, elapsed: Duration, is_ok: bool) {
        self.runs.with_label_values(&[job, if is_ok { "ok" } else { "error" }]).inc();
        self.duration.with_label_values(&[job]).observe(elapsed.as_secs_f64());
        if is_ok {
            self.last_success.with_label_values(&[job]).set(jiff::Timestamp::now().as_duration().as_secs_f64());
        }
    }
}
