//! What the control plane counts: each metric is a field with a sentence. Labels are closed sets: route patterns, statement
//! names, codes; never a path, an id or a user. Refuses to push anywhere: `/metrics` is read.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds; the same steps as the gateway's histograms, so that dashboards can lay them side by side.
pub(crate) const DURATION_BUCKETS_S: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    /// Requests answered, by method, route pattern and status.
    http_requests: IntCounterVec,
    /// Time to answer, by method and route pattern.
    http_duration: HistogramVec,
    /// Problems answered, by code.
    problems: IntCounterVec,
    /// Time of a unit of work in the store, by its name and whether it succeeded.
    store_duration: HistogramVec,
    /// Transactions tried again, by name.
    store_retries: IntCounterVec,
    /// Requests refused by a throttle of the public endpoints, by kind.
    throttled: IntCounterVec,
    /// Handlers that panicked.
    panics: IntCounter,
    _build: IntGaugeVec,
}

impl Metrics {
    /// Errors: a metric named twice, which is a mistake of ours and shows at the first start.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(format!("control_plane_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let durations = |name: &str, help: &str, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let options =
                HistogramOpts::new(format!("control_plane_{name}"), help).buckets(DURATION_BUCKETS_S.to_vec());
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let panics = IntCounter::new("control_plane_http_panics_total", "Handlers that panicked.")?;
        registry.register(Box::new(panics.clone()))?;
        let build = IntGaugeVec::new(Opts::new("control_plane_build_info", "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build.clone()))?;
        let inner = Inner {
            http_requests: counters("http_requests_total", "Requests answered.", &["method", "route", "status"])?,
            http_duration: durations("http_request_duration_seconds", "Time to answer.", &["method", "route"])?,
            problems: counters("http_problems_total", "Problems answered, by code.", &["code"])?,
            store_duration: durations("store_duration_seconds", "Units of work in Postgres.", &["name", "outcome"])?,
            store_retries: counters("store_retries_total", "Transactions tried again.", &["name"])?,
            throttled: counters("http_throttled_total", "Requests refused by a throttle.", &["kind"])?,
            panics,
            _build: build,
            registry,
        };
        Ok(Metrics { inner: Arc::new(inner) })
    }

    /// Where the other rooms (feed, ingest) register theirs; names begin with `control_plane_`.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub fn observe_http(&self, method: &str, route: &str, status: u16, elapsed: Duration) {
        self.inner.http_requests.with_label_values(&[method, route, &status.to_string()]).inc();
        self.inner.http_duration.with_label_values(&[method, route]).observe(elapsed.as_secs_f64());
    }

    pub fn count_problem(&self, code: &'static str) {
        self.inner.problems.with_label_values(&[code]).inc();
    }

    pub fn observe_store(&self, name: &'static str, elapsed: Duration, is_ok: bool) {
        let outcome = if is_ok { "ok" } else { "error" };
        self.inner.store_duration.with_label_values(&[name, outcome]).observe(elapsed.as_secs_f64());
    }

    pub fn count_store_retry(&self, name: &'static str) {
        self.inner.store_retries.with_label_values(&[name]).inc();
    }

    pub fn count_throttled(&self, kind: &'static str) {
        self.inner.throttled.with_label_values(&[kind]).inc();
    }

    pub fn count_panic(&self) {
        self.inner.panics.inc();
    }

    /// The text form that Prometheus reads.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.inner.registry.gather(), &mut buffer)?;
        String::from_utf8(buffer).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}
