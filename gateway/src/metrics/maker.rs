//! Makes metrics and registers them, so that none is forgotten. Refuses two of one name.

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::closed::Closed;
use super::labels::Label;

pub(super) struct Maker {
    pub(super) registry: Registry,
}

impl Maker {
    /// `prefix`: goes in front of every name.
    pub(super) fn new(prefix: &str) -> Result<Maker, Error> {
        Ok(Maker { registry: Registry::new_custom(Some(prefix.to_owned()), None)? })
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// One counter for each value of a closed label.
    pub(super) fn closed_counters<L: Label>(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<Closed<L, IntCounter>, Error> {
        Ok(Closed::counters(&self.counters(name, help, &[label])?))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::new(name, help)?)
    }

    pub(super) fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::new(name, help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    /// One histogram for each value of a closed label.
    pub(super) fn closed_histograms<L: Label>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[f64],
    ) -> Result<Closed<L, Histogram>, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        Ok(Closed::histograms(&self.register(HistogramVec::new(options, &[label])?)?))
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}
