//! The metrics of finished requests.

use std::sync::OnceLock;
use std::time::Duration;

use http::Method;
use prometheus::{Error, Histogram, IntCounter, IntCounterVec};

use super::closed::Closed;
use super::labels::{self, CodeClass};
use super::maker::Maker;

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

/// The verdict of what an upstream answered; other verdicts are the codes of rejections.
pub const PROXIED: &str = "proxied";
/// Statuses that HTTP has: 100 to 599.
const STATUSES: usize = 500;

pub(super) struct RequestMetrics {
    total: IntCounterVec,
    proxied: Proxied,
    duration_seconds: Closed<CodeClass, Histogram>,
    upstream_duration_seconds: Histogram,
    overhead_duration_seconds: Histogram,
    request_bytes_total: IntCounter,
    response_bytes_total: IntCounter,
}

impl RequestMetrics {
    pub(super) fn new(make: &Maker) -> Result<RequestMetrics, Error> {
        let total = make.counters(
            "http_requests_total",
            "Requests answered, refused ones too",
            &["method", "code", "verdict"],
        )?;
        Ok(RequestMetrics {
            total,
            proxied: Proxied::default(),
            duration_seconds: make.closed_histograms(
                "http_request_duration_seconds",
                "From the request's header to the answer's last byte",
                "code_class",
                LATENCY_BUCKETS_S,
            )?,
            upstream_duration_seconds: make.histogram(
                "http_upstream_duration_seconds",
                "Time spent waiting for the upstream",
                LATENCY_BUCKETS_S,
            )?,
            overhead_duration_seconds: make.histogram(
                "http_overhead_duration_seconds",
                "The gateway's own share",
                OVERHEAD_BUCKETS_S,
            )?,
            request_bytes_total: make.counter("http_request_bytes_total", "Bytes of request bodies")?,
            response_bytes_total: make.counter("http_response_bytes_total", "Bytes of response bodies")?,
        })
    }

    pub(super) fn observe(&self, seen: &RequestSeen<'_>) {
        match self.proxied.counter(seen, &self.total) {
            Some(counter) => counter.inc(),
            None => counter(&self.total, seen).inc(),
        }
        if let Some(histogram) = self.duration_seconds.get(CodeClass::of(seen.status)) {
            histogram.observe(seen.total.as_secs_f64());
        }
        if let Some(upstream) = seen.upstream {
            self.upstream_duration_seconds.observe(upstream.as_secs_f64());
        }
        let own = seen.total.saturating_sub(seen.upstream.unwrap_or_default());
        self.overhead_duration_seconds.observe(own.as_secs_f64());
        self.request_bytes_total.inc_by(seen.request_bytes);
        self.response_bytes_total.inc_by(seen.response_bytes);
    }
}

/// The counters of proxied requests by method and status, each looked up once: the look-up hashes three texts.
#[derive(Default)]
struct Proxied {
    by_method: [OnceLock<Box<[OnceLock<IntCounter>]>>; labels::METHODS],
}

impl Proxied {
    fn counter(&self, seen: &RequestSeen<'_>, total: &IntCounterVec) -> Option<&IntCounter> {
        if seen.verdict != PROXIED {
            return None;
        }
        let by_status = self.by_method.get(labels::method_index(seen.method))?;
        let by_status = by_status.get_or_init(|| (0..STATUSES).map(|_| OnceLock::new()).collect());
        let cell = by_status.get(usize::from(seen.status.checked_sub(100)?))?;
        Some(cell.get_or_init(|| counter(total, seen)))
    }
}

fn counter(total: &IntCounterVec, seen: &RequestSeen<'_>) -> IntCounter {
    let mut digits = [0u8; 3];
    let code = code_text(seen.status, &mut digits);
    total.with_label_values(&[labels::method(seen.method), code, seen.verdict])
}

fn code_text(status: u16, digits: &mut [u8; 3]) -> &str {
    if !(100..=599).contains(&status) {
        return "other";
    }
    let mut rest = status;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    std::str::from_utf8(digits).unwrap_or("other")
}
