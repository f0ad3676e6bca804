//! A metric for each value of a closed label, looked up once when it is made: counting costs an index and an addition, and every
//! series is there from the start, at zero.

use std::marker::PhantomData;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::labels::Label;

pub(super) struct Closed<L, M> {
    each: Vec<M>,
    labels: PhantomData<fn(L)>,
}

impl<L: Label> Closed<L, IntCounter> {
    /// `family` has one label.
    pub(super) fn counters(family: &IntCounterVec) -> Closed<L, IntCounter> {
        Closed::of(|label: L| family.with_label_values(&[label.as_str()]))
    }
}

impl<L: Label> Closed<L, Histogram> {
    /// `family` has one label.
    pub(super) fn histograms(family: &HistogramVec) -> Closed<L, Histogram> {
        Closed::of(|label: L| family.with_label_values(&[label.as_str()]))
    }
}

impl<L: Label, M> Closed<L, M> {
    pub(super) fn of(metric: impl Fn(L) -> M) -> Closed<L, M> {
        Closed { each: L::ALL.iter().copied().map(metric).collect(), labels: PhantomData }
    }

    /// None never happens: there is one for each label.
    pub(super) fn get(&self, label: L) -> Option<&M> {
        self.each.get(label.index())
    }
}

impl<L: Label> Closed<L, IntCounter> {
    pub(super) fn add(&self, label: L, count: u64) {
        if let Some(counter) = self.get(label) {
            counter.inc_by(count);
        }
    }
}
