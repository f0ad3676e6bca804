//! Sums of usage, and what they say: ratios, means, percentiles. A percentile out of a histogram is as exact as its buckets
//! are narrow: each reaches twice as far as the one before.

/// Buckets of a latency histogram: the n-th (from 1) holds at most 250 · 2^(n-1) µs, the last one the rest.
pub const BUCKETS: usize = 20;
/// Upper end of the first bucket, in microseconds.
const FIRST_US: f64 = 250.0;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub requests: i64,
    pub admitted: i64,
    /// Admitted, and answered by an error of the gateway's own making.
    pub failed: i64,
    /// 429.
    pub rate_limited: i64,
    /// 402 of the gateway.
    pub payment_required: i64,
    pub billable: i64,
    /// Status 400 to 499.
    pub client_errors: i64,
    /// Status 500 to 599.
    pub errors: i64,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us: i64,
    pub upstream_latency_us: i64,
    /// Requests by bucket of latency; empty where it is not kept.
    pub histogram: Vec<i64>,
}

impl Sums {
    pub fn add(&mut self, other: &Sums) {
        self.combine(other, i64::saturating_add);
    }

    /// What remains of a whole when a part is taken off. A whole that was read before its part may lag behind it: never
    /// negative.
    pub fn remove(&mut self, part: &Sums) {
        self.combine(part, |whole, part| whole.saturating_sub(part).max(0));
    }

    fn combine(&mut self, other: &Sums, with: fn(i64, i64) -> i64) {
        let pairs = [
            (&mut self.requests, other.requests),
            (&mut self.admitted, other.admitted),
            (&mut self.failed, other.failed),
            (&mut self.rate_limited, other.rate_limited),
            (&mut self.payment_required, other.payment_required),
            (&mut self.billable, other.billable),
            (&mut self.client_errors, other.client_errors),
            (&mut self.errors, other.errors),
            (&mut self.request_bytes, other.request_bytes),
            (&mut self.response_bytes, other.response_bytes),
            (&mut self.latency_us, other.latency_us),
            (&mut self.upstream_latency_us, other.upstream_latency_us),
        ];
        for (sum, more) in pairs {
            *sum = with(*sum, more);
        }
        if self.histogram.is_empty() {
            self.histogram.clone_from(&other.histogram);
        } else {
            self.histogram.iter_mut().zip(&other.histogram).for_each(|(sum, more)| *sum = with(*sum, *more));
        }
    }

    /// 403 of the gateway: every other refusal has a count of its own.
    pub fn forbidden(&self) -> i64 {
        (self.requests - self.admitted - self.rate_limited - self.payment_required).max(0)
    }

    pub fn error_ratio(&self) -> Option<f64> {
        ratio(self.errors, self.requests)
    }

    pub fn latency_mean_ms(&self) -> Option<f64> {
        ratio(self.latency_us, self.requests).map(us_to_ms)
    }

    /// Over all requests, also those that never reached the upstream.
    pub fn upstream_latency_mean_ms(&self) -> Option<f64> {
        ratio(self.upstream_latency_us, self.requests).map(us_to_ms)
    }

    /// The latency that the share `of` of the requests did not exceed.
    pub fn latency_percentile_ms(&self, of: f64) -> Option<f64> {
        percentile_us(&self.histogram, of).map(us_to_ms)
    }
}

/// Counts of requests are far below what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// To the microsecond.
fn us_to_ms(us: f64) -> f64 {
    us.round() / 1_000.0
}

/// Within a bucket the logarithms are taken to be spread evenly; in the first one, the latencies themselves. In the last one
/// nothing is known but its lower end.
#[allow(clippy::cast_precision_loss)]
fn percentile_us(histogram: &[i64], of: f64) -> Option<f64> {
    let total: i64 = histogram.iter().sum();
    if total <= 0 {
        return None;
    }
    let wanted = of.clamp(0.0, 1.0) * total as f64;
    let (mut below, mut upper) = (0.0, FIRST_US);
    for (place, count) in histogram.iter().enumerate() {
        let count = *count as f64;
        let is_here = count > 0.0 && below + count >= wanted;
        if is_here && place + 1 == BUCKETS {
            return Some(upper / 2.0);
        }
        if is_here {
            let share = ((wanted - below) / count).clamp(0.0, 1.0);
            return Some(if place == 0 { upper * share } else { upper / 2.0 * share.exp2() });
        }
        below += count;
        upper *= 2.0;
    }
    None
}
