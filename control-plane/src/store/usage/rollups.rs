//! The rollups that a merge adds to: minutes and quarter hours, by consumer and by product; and the marks from which hours and
//! days are made. Adding is exact because the merge counts each batch once.

use std::collections::BTreeMap;

use super::timestamp;
use crate::domain::usage::rollup::{Cell, Consumed, Mark, ProductCell, Served, Sums, Tables};
use crate::store::{StoreError, Transaction};

/// The columns that every rollup has, in the order of `Arrays`.
pub(in crate::store) const COUNTS: [&str; 10] = [
    "request_count",
    "admitted_count",
    "failed_count",
    "limited_count",
    "unpaid_count",
    "billable_count",
    "request_bytes",
    "response_bytes",
    "latency_us_sum",
    "upstream_latency_us_sum",
];

/// Every table of one merge, in the order in which any transaction takes their locks.
pub async fn add_rollup(tx: &Transaction<'_>, tables: &Tables) -> Result<(), StoreError> {
    add_consumed(tx, "usage_minutes", "minute", &tables.minutes).await?;
    add_served(tx, "usage_product_minutes", "minute", &tables.product_minutes).await?;
    add_consumed(tx, "usage_quarter_hours", "quarter_hour", &tables.quarter_hours).await?;
    add_served(tx, "usage_product_quarter_hours", "quarter_hour", &tables.product_quarter_hours).await?;
    insert_marks(tx, &tables.marks).await
}

async fn add_consumed(
    tx: &Transaction<'_>,
    table: &str,
    time: &str,
    cells: &BTreeMap<Cell, Consumed>,
) -> Result<(), StoreError> {
    let (counts, added) = (COUNTS.join(", "), added("u"));
    let sql = format!(
        "-- add_{table}
        INSERT INTO {table} AS u (subscription_meter_id, {time}, key_meter_id, plan_meter_id, endpoint_meter_id, status_class,
            product_meter_id, {counts})
        SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
            $16::bigint[], $17::bigint[])
        ON CONFLICT (subscription_meter_id, {time}, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
        DO UPDATE SET {added}"
    );
    let sums = Arrays::of(cells.values().map(|cell| &cell.sums));
    let numbers = |pick: fn(&Cell) -> i64| cells.keys().map(pick).collect::<Vec<_>>();
    let classes: Vec<i16> = cells.keys().map(|cell| cell.status_class).collect();
    let times: Vec<_> = cells.keys().map(|cell| timestamp(cell.start_ms)).collect();
    let products: Vec<i64> = cells.values().map(|cell| cell.product).collect();
    let (subscriptions, keys) = (numbers(|cell| cell.subscription), numbers(|cell| cell.key));
    let (plans, endpoints) = (numbers(|cell| cell.plan), numbers(|cell| cell.endpoint));
    let [a, b, c, d, e, f, g, h, i, j] = &sums.0;
    let values: crate::store::Values<'_> =
        &[&subscriptions, &times, &keys, &plans, &endpoints, &classes, &products, a, b, c, d, e, f, g, h, i, j];
    tx.execute_cached(&sql, values).await.map(|_| ())
}

async fn add_served(
    tx: &Transaction<'_>,
    table: &str,
    time: &str,
    cells: &BTreeMap<ProductCell, Served>,
) -> Result<(), StoreError> {
    let (counts, added) = (COUNTS.join(", "), added("u"));
    let buckets = each_bucket(|n| format!("u.latency_histogram[{n}] + excluded.latency_histogram[{n}]"));
    // An array of arrays would come apart in unnest: the histograms lie in one, twenty elements each.
    let sql = format!(
        "-- add_{table}
        INSERT INTO {table} AS u (product_meter_id, {time}, endpoint_meter_id, plan_meter_id, status_class, {counts},
            latency_histogram)
        SELECT c.a, c.b, c.c, c.d, c.e, c.f, c.g, c.h, c.i, c.j, c.k, c.l, c.m, c.n, c.o,
            ($16::bigint[])[(c.place - 1) * 20 + 1 : c.place * 20]
        FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::smallint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
            $15::bigint[]) WITH ORDINALITY AS c (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, place) ORDER BY c.place
        ON CONFLICT (product_meter_id, {time}, endpoint_meter_id, plan_meter_id, status_class)
        DO UPDATE SET {added}, latency_histogram = ARRAY[{buckets}]"
    );
    let sums = Arrays::of(cells.values().map(|cell| &cell.sums));
    let numbers = |pick: fn(&ProductCell) -> i64| cells.keys().map(pick).collect::<Vec<_>>();
    let classes: Vec<i16> = cells.keys().map(|cell| cell.status_class).collect();
    let times: Vec<_> = cells.keys().map(|cell| timestamp(cell.start_ms)).collect();
    let histograms: Vec<i64> = cells.values().flat_map(|cell| cell.histogram).collect();
    let products = numbers(|cell| cell.product);
    let (plans, endpoints) = (numbers(|cell| cell.plan), numbers(|cell| cell.endpoint));
    let [a, b, c, d, e, f, g, h, i, j] = &sums.0;
    let values: crate::store::Values<'_> =
        &[&products, &times, &endpoints, &plans, &classes, a, b, c, d, e, f, g, h, i, j, &histograms];
    tx.execute_cached(&sql, values).await.map(|_| ())
}

async fn insert_marks(tx: &Transaction<'_>, marks: &BTreeMap<Mark, Consumed>) -> Result<(), StoreError> {
    let sql = "-- insert_marks
        INSERT INTO usage_dirty (subscription_meter_id, product_meter_id, key_meter_id, hour, used_at)
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[])";
    let subscriptions: Vec<i64> = marks.keys().map(|mark| mark.subscription).collect();
    let keys: Vec<i64> = marks.keys().map(|mark| mark.key).collect();
    let hours: Vec<_> = marks.keys().map(|mark| timestamp(mark.hour_ms)).collect();
    let products: Vec<i64> = marks.values().map(|consumed| consumed.product).collect();
    let used: Vec<_> = marks.values().map(|consumed| timestamp(consumed.last_ms)).collect();
    tx.execute_cached(sql, &[&subscriptions, &products, &keys, &hours, &used]).await.map(|_| ())
}

/// `request_count = u.request_count + excluded.request_count, …`
fn added(table: &str) -> String {
    COUNTS.map(|count| format!("{count} = {table}.{count} + excluded.{count}")).join(", ")
}

/// One expression for each element of a histogram.
pub(in crate::store) fn each_bucket(expression: impl Fn(usize) -> String) -> String {
    (1..=crate::domain::usage::rollup::BUCKETS).map(expression).collect::<Vec<_>>().join(", ")
}

/// Sums as columns, in the order of `COUNTS`.
struct Arrays([Vec<i64>; 10]);

impl Arrays {
    fn of<'a>(sums: impl Iterator<Item = &'a Sums>) -> Arrays {
        let mut columns: [Vec<i64>; 10] = Default::default();
        for sums in sums {
            let values = [
                sums.requests,
                sums.admitted,
                sums.failed,
                sums.limited,
                sums.unpaid,
                sums.billable,
                sums.request_bytes,
                sums.response_bytes,
                sums.latency_us,
                sums.upstream_latency_us,
            ];
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(value);
            }
        }
        Arrays(columns)
    }
}
