//! What the gateway counts about itself, over a registry of its own. A metric is a field; label values are closed sets.
//! Refuses labels that a client or a tenant could choose.

mod closed;
mod config;
pub mod labels;
mod limits;
mod maker;
mod requests;
pub mod status;
#[cfg(test)]
mod tests;
mod usage;

use prometheus::{Encoder, IntCounter, IntGauge, IntGaugeVec, Registry, TextEncoder};

use self::closed::Closed;
pub use self::config::ConfigMetrics;
use self::labels::{AuthResult, CapClass, ConnectionRefusal, Label as _, ProductCap, ResolveResult};
pub use self::limits::LimitMetrics;
use self::maker::Maker;
use self::requests::RequestMetrics;
pub use self::requests::{PROXIED, RequestSeen};
use self::status::{PartState, Status};
pub use self::usage::UsageMetrics;

pub struct Metrics {
    registry: Registry,
    /// How the parts are; not a metric itself, but shown as some.
    pub status: Status,
    requests: RequestMetrics,
    pub config: ConfigMetrics,
    pub usage: UsageMetrics,
    pub limits: LimitMetrics,

    /// Requests between their header and their last byte.
    pub http_requests_in_flight: IntGauge,
    auth_results_total: Closed<AuthResult, IntCounter>,
    connections_refused_total: Closed<ConnectionRefusal, IntCounter>,

    product_refusals_total: Closed<ProductCap, Closed<CapClass, IntCounter>>,
    /// Connections to upstreams, idle ones too.
    pub upstream_connections_open: IntGauge,

    upstream_resolutions_total: Closed<ResolveResult, IntCounter>,
    /// Distinct upstream names of the snapshot.
    pub upstream_hosts: IntGauge,
    /// Times an upstream address was left out after failures.
    pub upstream_ejections_total: IntCounter,
    /// Requests sent to an upstream once more.
    pub upstream_retries_total: IntCounter,

    part_up: IntGaugeVec,
}

impl Metrics {
    /// Errors: two metrics of one name, which a test excludes.
    pub fn new(version: &str) -> Result<Metrics, prometheus::Error> {
        let make = Maker::new("gateway")?;
        let refusals = make.counters(
            "product_refusals_total",
            "Requests refused because their product held as much as it may",
            &["cap", "class"],
        )?;
        let refusals_of =
            |cap: ProductCap| Closed::of(|class: CapClass| refusals.with_label_values(&[cap.as_str(), class.as_str()]));
        make.gauges("build_info", "1, labelled with the version", &["version"])?.with_label_values(&[version]).set(1);
        Ok(Metrics {
            status: Status::default(),
            requests: RequestMetrics::new(&make)?,
            config: ConfigMetrics::new(&make)?,
            usage: UsageMetrics::new(&make)?,
            limits: LimitMetrics::new(&make)?,
            http_requests_in_flight: make.gauge("http_requests_in_flight", "Requests being served")?,
            auth_results_total: make.closed_counters("auth_results_total", "Credentials looked at", "result")?,
            connections_refused_total: make.closed_counters(
                "connections_refused_total",
                "Connections closed for abuse",
                "reason",
            )?,
            product_refusals_total: Closed::of(refusals_of),
            upstream_connections_open: make
                .gauge("upstream_connections_open", "Connections to upstreams, idle ones too")?,
            upstream_resolutions_total: make.closed_counters(
                "upstream_resolutions_total",
                "Names of upstreams resolved",
                "result",
            )?,
            upstream_hosts: make.gauge("upstream_hosts", "Distinct upstream names")?,
            upstream_ejections_total: make.counter("upstream_ejections_total", "Upstream addresses left out")?,
            upstream_retries_total: make.counter("upstream_retries_total", "Requests sent to an upstream once more")?,
            part_up: make.gauges("part_up", "1 when the part answers", &["part"])?,
            registry: make.registry,
        })
    }

    /// Counts one finished request.
    pub fn observe_request(&self, seen: &RequestSeen<'_>) {
        self.requests.observe(seen);
    }

    pub fn auth_result(&self, result: AuthResult) {
        self.auth_results_total.add(result, 1);
    }

    pub fn connection_refused(&self, reason: ConnectionRefusal) {
        self.connections_refused_total.add(reason, 1);
    }

    pub fn product_refused(&self, cap: ProductCap, class: CapClass) {
        if let Some(by_class) = self.product_refusals_total.get(cap) {
            by_class.add(class, 1);
        }
    }

    pub fn resolved(&self, result: ResolveResult) {
        self.upstream_resolutions_total.add(result, 1);
    }

    /// The Redis of limits is of use: it is connected, and no conversation with it counts it as down.
    pub fn limits_redis(&self) -> PartState {
        match self.status.limits_redis() {
            PartState::Up if self.limits.lanes_down.get() > 0 => PartState::Down,
            state => state,
        }
    }

    /// The exposition text, with the figures that follow from the status brought up to date.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.config.show(&self.status);
        let parts =
            [("feed", self.status.feed()), ("redis", self.status.redis()), ("limits_redis", self.limits_redis())];
        for (part, state) in parts {
            self.part_up.with_label_values(&[part]).set(i64::from(state == PartState::Up));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
