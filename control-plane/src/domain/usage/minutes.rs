//! Events added up by minute, key, plan version, endpoint and status class, in memory and before the database: one row per
//! cell, in the order of the table's key, so that two writers lock alike.

use std::collections::BTreeMap;

use super::Event;
use super::billable::{BillableClasses, billable};

/// A minute, in milliseconds.
const MINUTE_MS: i64 = 60_000;

/// In the order of the primary key of `usage_minutes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinuteKey {
    pub subscription: i64,
    pub minute_ms: i64,
    pub key: i64,
    pub plan: i64,
    pub endpoint: i64,
    pub status_class: i16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinuteSums {
    pub product: i64,
    pub requests: i64,
    pub admitted: i64,
    pub failed: i64,
    pub billable: i64,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us: i64,
}

#[derive(Debug, Default)]
pub struct Minutes {
    pub cells: BTreeMap<MinuteKey, MinuteSums>,
}

impl Minutes {
    pub fn add(&mut self, event: &Event, classes: BillableClasses) {
        let cell = MinuteKey {
            subscription: event.subscription,
            minute_ms: event.at_ms - event.at_ms.rem_euclid(MINUTE_MS),
            key: event.key,
            plan: event.plan,
            endpoint: event.endpoint,
            status_class: event.status_class(),
        };
        let sums = self.cells.entry(cell).or_default();
        sums.product = event.product;
        sums.requests += 1;
        sums.admitted += i64::from(event.is_admitted());
        sums.failed += i64::from(event.is_failed());
        sums.billable += i64::from(billable(event, classes));
        sums.request_bytes = sums.request_bytes.saturating_add(event.request_bytes);
        sums.response_bytes = sums.response_bytes.saturating_add(event.response_bytes);
        sums.latency_us = sums.latency_us.saturating_add(event.latency_us);
    }
}
