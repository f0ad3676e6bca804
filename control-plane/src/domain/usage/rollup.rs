//! Events added up in memory, before the database: by consumer and by product, by minute and by quarter of an hour. Each
//! table's cells come once and in the order of its key, so that two writers lock alike. Pure; knows no table.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::billable::{BillableClasses, billable};
use super::{Compacted, Event, Kind};

/// In milliseconds.
const MINUTE_MS: i64 = 60_000;
const QUARTER_HOUR_MS: i64 = 15 * MINUTE_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Buckets of a latency histogram: as many as the columns `latency_histogram` have elements.
pub const BUCKETS: usize = 20;
/// The first bucket's upper bound, in microseconds; each further one is twice as wide, the last has none.
const FIRST_BOUND_US: i64 = 250;

/// In the order of the primary keys of `usage_minutes` and `usage_quarter_hours`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    pub subscription: i64,
    pub start_ms: i64,
    pub key: i64,
    pub plan: i64,
    pub endpoint: i64,
    pub status_class: i16,
}

/// In the order of the primary keys of `usage_product_minutes` and `usage_product_quarter_hours`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProductCell {
    pub product: i64,
    pub start_ms: i64,
    pub endpoint: i64,
    pub plan: i64,
    pub status_class: i16,
}

/// What is to be rolled up anew: a subscription's hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    pub subscription: i64,
    pub key: i64,
    pub hour_ms: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub requests: i64,
    pub admitted: i64,
    pub failed: i64,
    pub limited: i64,
    pub unpaid: i64,
    pub billable: i64,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us: i64,
    pub upstream_latency_us: i64,
}

/// A cell's sums, and what follows from its subscription and its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    pub product: i64,
    pub sums: Sums,
    /// The youngest of them, in Unix milliseconds.
    pub last_ms: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub sums: Sums,
    pub histogram: [i64; BUCKETS],
}

/// Minutes of one merge.
#[derive(Debug, Default)]
pub struct Rollup {
    minutes: HashMap<Cell, Consumed>,
    product_minutes: HashMap<ProductCell, Served>,
}

/// The same, cell by cell in order.
#[derive(Debug, Default)]
pub struct Tables {
    pub minutes: BTreeMap<Cell, Consumed>,
    pub product_minutes: BTreeMap<ProductCell, Served>,
    pub quarter_hours: BTreeMap<Cell, Consumed>,
    pub product_quarter_hours: BTreeMap<ProductCell, Served>,
    pub marks: BTreeMap<Mark, Consumed>,
}

impl Rollup {
    pub fn add(&mut self, event: &Event, classes: BillableClasses) {
        let sums = Sums {
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
            latency_us: event.latency_us,
            upstream_latency_us: event.upstream_latency_us.unwrap_or(0),
            ..Sums::of(&event.kind, 1, classes)
        };
        self.add_sums(event.at_ms, &event.kind, sums);
    }

    /// Stands in its quarter's first minute, with its mean latency: when exactly, and how slow each was, nobody knows any more.
    pub fn add_compacted(&mut self, row: &Compacted, classes: BillableClasses) {
        let sums = Sums {
            request_bytes: row.request_bytes,
            response_bytes: row.response_bytes,
            latency_us: row.latency_us_sum,
            upstream_latency_us: row.upstream_latency_us_sum,
            ..Sums::of(&row.kind, row.count, classes)
        };
        self.add_sums(row.quarter_hour_ms, &row.kind, sums);
    }

    fn add_sums(&mut self, at_ms: i64, kind: &Kind, sums: Sums) {
        let (start_ms, status_class) = (floor(at_ms, MINUTE_MS), kind.status_class());
        let Kind { subscription, product, key, plan, endpoint, .. } = *kind;
        let consumed =
            self.minutes.entry(Cell { subscription, start_ms, key, plan, endpoint, status_class }).or_default();
        consumed.add(&Consumed { product, sums, last_ms: at_ms });
        let served =
            self.product_minutes.entry(ProductCell { product, start_ms, endpoint, plan, status_class }).or_default();
        served.sums.add(&sums);
        let mean_us = sums.latency_us.checked_div(sums.requests).unwrap_or(0);
        if let Some(bucket) = served.histogram.get_mut(bucket_of(mean_us)) {
            *bucket += sums.requests;
        }
    }

    pub fn into_tables(self) -> Tables {
        let mut tables = Tables::default();
        for (cell, consumed) in &self.minutes {
            let quarter = Cell { start_ms: floor(cell.start_ms, QUARTER_HOUR_MS), ..*cell };
            tables.quarter_hours.entry(quarter).or_default().add(consumed);
            let hour_ms = floor(cell.start_ms, HOUR_MS);
            let mark = Mark { subscription: cell.subscription, key: cell.key, hour_ms };
            tables.marks.entry(mark).or_default().add(consumed);
        }
        for (cell, served) in &self.product_minutes {
            let quarter = ProductCell { start_ms: floor(cell.start_ms, QUARTER_HOUR_MS), ..*cell };
            tables.product_quarter_hours.entry(quarter).or_default().add(served);
        }
        tables.minutes = sorted(self.minutes);
        tables.product_minutes = sorted(self.product_minutes);
        tables
    }
}

impl Sums {
    fn of(kind: &Kind, count: i64, classes: BillableClasses) -> Sums {
        let counted = |holds: bool| if holds { count } else { 0 };
        Sums {
            requests: count,
            admitted: counted(kind.is_admitted()),
            failed: counted(kind.is_failed()),
            limited: counted(kind.is_limited()),
            unpaid: counted(kind.is_unpaid()),
            billable: counted(billable(kind, classes)),
            ..Sums::default()
        }
    }

    fn add(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.admitted += other.admitted;
        self.failed += other.failed;
        self.limited += other.limited;
        self.unpaid += other.unpaid;
        self.billable += other.billable;
        self.request_bytes = self.request_bytes.saturating_add(other.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(other.response_bytes);
        self.latency_us = self.latency_us.saturating_add(other.latency_us);
        self.upstream_latency_us = self.upstream_latency_us.saturating_add(other.upstream_latency_us);
    }
}

impl Consumed {
    fn add(&mut self, other: &Consumed) {
        self.product = other.product;
        self.last_ms = self.last_ms.max(other.last_ms);
        self.sums.add(&other.sums);
    }
}

impl Served {
    fn add(&mut self, other: &Served) {
        self.sums.add(&other.sums);
        for (bucket, more) in self.histogram.iter_mut().zip(other.histogram) {
            *bucket += more;
        }
    }
}

/// Where a latency is counted, from 0: bucket n ends at 250 µs · 2^n. As the SQL function `latency_bucket`, less one.
pub fn bucket_of(latency_us: i64) -> usize {
    let mut bound_us = FIRST_BOUND_US;
    for bucket in 0..BUCKETS - 1 {
        if latency_us <= bound_us {
            return bucket;
        }
        bound_us *= 2;
    }
    BUCKETS - 1
}

fn floor(at_ms: i64, step_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(step_ms)
}

fn sorted<K: Ord + Hash, V>(cells: HashMap<K, V>) -> BTreeMap<K, V> {
    cells.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::{Outcome, RATE_LIMITED};

    fn kind(outcome: Outcome, status: i16) -> Kind {
        let (key, subscription, product, endpoint, plan) = (1, 2, 3, 4, 5);
        let (failed_by, upstream_contacted, test_key) = (None, true, false);
        Kind { key, subscription, product, endpoint, plan, status, outcome, failed_by, upstream_contacted, test_key }
    }

    fn row(quarter_hour_ms: i64, kind: Kind, count: i64) -> Compacted {
        let (request_bytes, response_bytes) = (count * 10, count * 100);
        let (latency_us_sum, upstream_latency_us_sum) = (count * 600, count * 500);
        Compacted {
            quarter_hour_ms,
            kind,
            count,
            request_bytes,
            response_bytes,
            latency_us_sum,
            upstream_latency_us_sum,
        }
    }

    #[test]
    fn the_quarter_hours_hold_what_the_minutes_hold() {
        let mut rollup = Rollup::default();
        let classes = BillableClasses::default();
        for minute in 0..40 {
            rollup.add_compacted(&row(minute * MINUTE_MS, kind(Outcome::Proxied, 200), minute + 1), classes);
            rollup.add_compacted(&row(minute * MINUTE_MS, kind(RATE_LIMITED, 429), 2), classes);
        }
        let tables = rollup.into_tables();
        assert_eq!((tables.minutes.len(), tables.quarter_hours.len(), tables.marks.len()), (80, 6, 1));
        let sum = |cells: &BTreeMap<Cell, Consumed>| {
            cells.values().fold(Sums::default(), |mut all, cell| {
                all.add(&cell.sums);
                all
            })
        };
        let sums = sum(&tables.quarter_hours);
        assert_eq!(sums, sum(&tables.minutes));
        assert_eq!((sums.requests, sums.admitted, sums.billable, sums.limited), (900, 820, 820, 80));
        let served = tables.product_quarter_hours.values().flat_map(|cell| cell.histogram).sum::<i64>();
        assert_eq!(served, 900);
        assert_eq!(tables.marks.values().next().map(|mark| mark.last_ms), Some(39 * MINUTE_MS));
    }

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        let cases = [(0, 0), (250, 0), (251, 1), (500, 1), (501, 2), (65_536_000, 18), (65_536_001, 19)];
        for (latency_us, bucket) in cases {
            assert_eq!(bucket_of(latency_us), bucket, "{latency_us}");
        }
        assert_eq!(bucket_of(i64::MAX), BUCKETS - 1);
    }
}
