//! What the gateway counts about itself, over a registry of its own. A metric is a field; label values are closed sets.
//! Refuses labels that a client or a tenant could choose.

mod closed;
pub mod labels;
pub mod status;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::Method;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use self::closed::Closed;
use self::labels::{
    ApplyFailure, AuthResult, CodeClass, ConnectionRefusal, DropReason, Label, LimitResult, LimitWindow, ResolveResult,
};
use self::status::{PartState, Status};
use crate::clock::unix_ms;

/// Upper bounds in seconds for whole requests and upstreams.
const LATENCY_BUCKETS_S: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds in seconds for the gateway's own share.
const OVERHEAD_BUCKETS_S: &[f64] = &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25];

/// One finished request, as the metrics see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestSeen<'a> {
    pub method: &'a Method,
    /// What the client got; 499 when it was gone.
    pub status: u16,
    /// `proxied`, or the code of the rejection.
    pub verdict: &'static str,
    pub total: Duration,
    /// None: no upstream was contacted.
    pub upstream: Option<Duration>,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

pub struct Metrics {
    registry: Registry,
    /// How the parts are; not a metric itself, but shown as some.
    pub status: Status,

    http_requests_total: IntCounterVec,
    http_request_duration_seconds: Closed<CodeClass, Histogram>,
    http_upstream_duration_seconds: Histogram,
    http_overhead_duration_seconds: Histogram,
    http_request_bytes_total: IntCounter,
    http_response_bytes_total: IntCounter,
    /// Requests between their header and their last byte.
    pub http_requests_in_flight: IntGauge,
    auth_results_total: Closed<AuthResult, IntCounter>,
    rate_limit_decisions_total: Closed<LimitWindow, Closed<LimitResult, IntCounter>>,
    /// Subscriptions whose limits are held in memory.
    pub limiter_slots: IntGauge,

    connections_refused_total: Closed<ConnectionRefusal, IntCounter>,
    upstream_resolutions_total: Closed<ResolveResult, IntCounter>,
    /// Distinct upstream names of the snapshot.
    pub upstream_hosts: IntGauge,
    /// Times an upstream address was left out after failures.
    pub upstream_ejections_total: IntCounter,
    /// Requests sent to an upstream once more.
    pub upstream_retries_total: IntCounter,

    config_revision: IntGauge,
    config_newest_revision: IntGauge,
    config_age_seconds: IntGauge,
    /// Unix time of the last change taken in.
    pub config_last_applied_timestamp_seconds: IntGauge,
    config_apply_failures_total: Closed<ApplyFailure, IntCounter>,
    /// Records of the last change that were refused; acknowledged as such.
    pub config_refused_records: IntGauge,
    part_up: IntGaugeVec,
    /// Conversations begun with a control plane.
    pub feed_connects_total: IntCounter,
    /// Writes of the last good snapshot that failed; serving goes on.
    pub snapshot_save_failures_total: IntCounter,
    /// Writes of the last good snapshot.
    pub snapshot_saves_total: IntCounter,

    /// Usage events taken from requests.
    pub usage_events_total: IntCounter,
    usage_events_dropped_total: Closed<DropReason, IntCounter>,
    /// Usage events that wait to be put into a batch.
    pub usage_queue_depth: IntGauge,
    /// Sealed batches that Redis has not confirmed.
    pub usage_unsent_batches: IntGauge,
    /// Batches that Redis confirmed.
    pub usage_batches_sent_total: IntCounter,
    /// Sends that failed; the batch is sent again under its own sequence.
    pub usage_send_failures_total: IntCounter,
    /// Length of the stream after the last send.
    pub usage_stream_length: IntGauge,
}

impl Metrics {
    /// Errors: two metrics of one name, which a test excludes.
    pub fn new(version: &str) -> Result<Metrics, prometheus::Error> {
        let make = Maker { registry: Registry::new_custom(Some("gateway".to_owned()), None)? };
        make.gauges("build_info", "1, labelled with the version", &["version"])?.with_label_values(&[version]).set(1);
        Ok(Metrics {
            status: Status::default(),
            http_requests_total: make.counters(
                "http_requests_total",
                "Requests answered, refused ones too",
                &["method", "code", "verdict"],
            )?,
            http_request_duration_seconds: make.histograms(
                "http_request_duration_seconds",
                "From the request's header to the answer's last byte",
                &["code_class"],
                LATENCY_BUCKETS_S,
            )?,
            http_upstream_duration_seconds: make.histogram(
                "http_upstream_duration_seconds",
                "Time spent waiting for the upstream",
                LATENCY_BUCKETS_S,
            )?,
            http_overhead_duration_seconds: make.histogram(
                "http_overhead_duration_seconds",
                "The gateway's own share",
                OVERHEAD_BUCKETS_S,
            )?,
            http_request_bytes_total: make.counter("http_request_bytes_total", "Bytes of request bodies")?,
            http_response_bytes_total: make.counter("http_response_bytes_total", "Bytes of response bodies")?,
            http_requests_in_flight: make.gauge("http_requests_in_flight", "Requests being served")?,
            auth_results_total: make.counters("auth_results_total", "Credentials looked at", &["result"])?,
            rate_limit_decisions_total: make.counters(
                "rate_limit_decisions_total",
                "Decisions of the limiter",
                &["window", "result"],
            )?,
            limiter_slots: make.gauge("limiter_slots", "Subscriptions whose limits are held in memory")?,
            connections_refused_total: make.counters(
                "connections_refused_total",
                "Connections closed for abuse",
                &["reason"],
            )?,
            upstream_resolutions_total: make.counters(
                "upstream_resolutions_total",
                "Names of upstreams resolved",
                &["result"],
            )?,
            upstream_hosts: make.gauge("upstream_hosts", "Distinct upstream names")?,
            upstream_ejections_total: make.counter("upstream_ejections_total", "Upstream addresses left out")?,
            upstream_retries_total: make.counter("upstream_retries_total", "Requests sent to an upstream once more")?,
            config_revision: make.gauge("config_revision", "The revision that is served")?,
            config_newest_revision: make.gauge("config_newest_revision", "The newest revision heard of")?,
            config_age_seconds: make.gauge(
                "config_age_seconds",
                "Since the served snapshot was last known to be the newest; -1 without one",
            )?,
            config_last_applied_timestamp_seconds: make
                .gauge("config_last_applied_timestamp_seconds", "Unix time of the last change taken in")?,
            config_apply_failures_total: make.counters(
                "config_apply_failures_total",
                "Messages of the feed that could not be taken in",
                &["reason"],
            )?,
            config_refused_records: make.gauge("config_refused_records", "Records of the last change refused")?,
            part_up: make.gauges("part_up", "1 when the part answers", &["part"])?,
            feed_connects_total: make.counter("feed_connects_total", "Conversations begun with a control plane")?,
            snapshot_save_failures_total: make.counter("snapshot_save_failures_total", "Failed writes to disk")?,
            snapshot_saves_total: make.counter("snapshot_saves_total", "Writes of the last good snapshot")?,
            usage_events_total: make.counter("usage_events_total", "Usage events recorded")?,
            usage_events_dropped_total: make.counters(
                "usage_events_dropped_total",
                "Usage events lost",
                &["reason"],
            )?,
            usage_queue_depth: make.gauge("usage_queue_depth", "Usage events not yet in a batch")?,
            usage_unsent_batches: make.gauge("usage_unsent_batches", "Batches not yet confirmed")?,
            usage_batches_sent_total: make.counter("usage_batches_sent_total", "Batches confirmed")?,
            usage_send_failures_total: make.counter("usage_send_failures_total", "Sends to Redis that failed")?,
            usage_stream_length: make.gauge("usage_stream_length", "Entries in the usage stream")?,
            registry: make.registry,
        })
    }

    /// Counts one finished request.
    pub fn observe_request(&self, seen: &RequestSeen<'_>) {
        let mut digits = [0u8; 3];
        let code = code_text(seen.status, &mut digits);
        self.http_requests_total.with_label_values(&[labels::method(seen.method), code, seen.verdict]).inc();
        let class = labels::code_class(seen.status);
        self.http_request_duration_seconds.with_label_values(&[class]).observe(seen.total.as_secs_f64());
        if let Some(upstream) = seen.upstream {
            self.http_upstream_duration_seconds.observe(upstream.as_secs_f64());
        }
        let own = seen.total.saturating_sub(seen.upstream.unwrap_or_default());
        self.http_overhead_duration_seconds.observe(own.as_secs_f64());
        self.http_request_bytes_total.inc_by(seen.request_bytes);
        self.http_response_bytes_total.inc_by(seen.response_bytes);
    }

    pub fn auth_result(&self, result: AuthResult) {
        self.auth_results_total.with_label_values(&[result.as_str()]).inc();
    }

    pub fn limit_decision(&self, window: LimitWindow, result: LimitResult) {
        self.rate_limit_decisions_total.with_label_values(&[window.as_str(), result.as_str()]).inc();
    }

    pub fn connection_refused(&self, reason: ConnectionRefusal) {
        self.connections_refused_total.with_label_values(&[reason.as_str()]).inc();
    }

    pub fn resolved(&self, result: ResolveResult) {
        self.upstream_resolutions_total.with_label_values(&[result.as_str()]).inc();
    }

    pub fn apply_failed(&self, reason: ApplyFailure) {
        self.config_apply_failures_total.with_label_values(&[reason.as_str()]).inc();
    }

    pub fn usage_dropped(&self, reason: DropReason, events: u64) {
        self.usage_events_dropped_total.with_label_values(&[reason.as_str()]).inc_by(events);
    }

    /// Events lost for this reason so far.
    pub fn usage_dropped_so_far(&self, reason: DropReason) -> u64 {
        self.usage_events_dropped_total.with_label_values(&[reason.as_str()]).get()
    }

    /// The exposition text, with the figures that follow from the status brought up to date.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.show_status();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn show_status(&self) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let status = &self.status;
        self.config_revision.set(status.served().map_or(0, |served| gauge(served.token.revision)));
        self.config_newest_revision.set(gauge(status.newest_revision()));
        self.config_age_seconds.set(status.snapshot_age_s(unix_ms()).map_or(-1, gauge));
        for (part, state) in [("feed", status.feed()), ("redis", status.redis())] {
            self.part_up.with_label_values(&[part]).set(i64::from(state == PartState::Up));
        }
    }
}

fn code_text(status: u16, digits: &mut [u8; 3]) -> &str {
    if !(100..=999).contains(&status) {
        return "other";
    }
    let mut rest = status;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    std::str::from_utf8(digits).unwrap_or("other")
}

/// Makes a metric and registers it.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }
}
