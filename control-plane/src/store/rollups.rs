//! Hours and days made anew from the finer rollup, whole cells at a time: late usage is taken in like any other, and a run that
//! is repeated changes nothing. Marks are deleted in the transaction that does what they ask for.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::usage::{COUNTS, each_bucket};
use super::{Store, StoreError, Transaction};

/// What a merge has changed in one subscription's hour.
#[derive(Clone, Copy, Debug)]
pub struct MarkRow {
    pub id: i64,
    pub subscription: i64,
    pub product: i64,
    pub key: i64,
    pub hour: Timestamp,
    pub used_at: Timestamp,
}

/// Places in time: parallel lists, as a statement takes them.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub meters: Vec<i64>,
    pub starts: Vec<Timestamp>,
}

/// The oldest marks.
pub async fn list_marks(store: &Store, limit: i64) -> Result<Vec<MarkRow>, StoreError> {
    let sql = "-- list_marks
        SELECT id, subscription_meter_id, product_meter_id, key_meter_id, hour, used_at FROM usage_dirty ORDER BY id LIMIT $1";
    let rows = store.read("list_marks", |tx| Box::pin(async move { tx.query_cached(sql, &[&limit]).await })).await?;
    let read = |row: &Row| -> Result<MarkRow, StoreError> {
        Ok(MarkRow {
            id: row.try_get(0)?,
            subscription: row.try_get(1)?,
            product: row.try_get(2)?,
            key: row.try_get(3)?,
            hour: row.try_get(4)?,
            used_at: row.try_get(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Key of the advisory lock of whoever makes cells anew.
const ROLLUPS_LOCK: i64 = 0x6170_6968_7562_0003;

/// One roll-up at a time, until the transaction ends. Call it first: two at once, as when a lease was lost, would each make a cell
/// without what the other is about to, and the last word would stand for ever.
pub async fn lock(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.query_one_cached("-- rollups.lock\nSELECT pg_advisory_xact_lock($1)::text", &[&ROLLUPS_LOCK]).await.map(|_| ())
}

/// Before the work: what is committed later has marks of its own, which this does not see.
pub async fn delete_marks(tx: &Transaction<'_>, ids: &[i64]) -> Result<(), StoreError> {
    let sql = "-- delete_marks\nDELETE FROM usage_dirty WHERE id = ANY($1)";
    tx.execute_cached(sql, &[&ids]).await.map(|_| ())
}

/// Each (subscription, hour), and the UTC days that they lie in.
pub async fn remake_consumer_rollups(tx: &Transaction<'_>, hours: &Places, days: &Places) -> Result<(), StoreError> {
    let cells = "key_meter_id, plan_meter_id, endpoint_meter_id, status_class";
    let hourly = Remake {
        name: "remake_hours",
        into: "usage_hours",
        from: "usage_quarter_hours",
        columns: &format!("subscription_meter_id, hour, {cells}"),
        values: &format!("f.subscription_meter_id, p.start, {cells}"),
        meter: "subscription_meter_id",
        within: "f.quarter_hour >= p.start AND f.quarter_hour < p.start + interval '1 hour'
            AND f.quarter_hour >= $3 AND f.quarter_hour < $4::timestamptz + interval '1 hour'",
        extra: &[("product_meter_id", "min(f.product_meter_id)".into())],
    };
    hourly.run(tx, hours).await?;
    let daily = Remake {
        name: "remake_days",
        into: "usage_days",
        from: "usage_hours",
        columns: &format!("subscription_meter_id, day, {cells}"),
        values: &format!("f.subscription_meter_id, (p.start AT TIME ZONE 'UTC')::date, {cells}"),
        meter: "subscription_meter_id",
        within: "f.hour >= p.start AND f.hour < p.start + interval '24 hours'
            AND f.hour >= $3 AND f.hour < $4::timestamptz + interval '24 hours'",
        extra: &[("product_meter_id", "min(f.product_meter_id)".into())],
    };
    daily.run(tx, days).await?;
    let errors =
        |class: i16| format!("coalesce(sum(f.request_count) FILTER (WHERE f.status_class = {class}), 0)::bigint");
    let whole = Remake {
        name: "remake_subscription_days",
        into: "usage_subscription_days",
        from: "usage_days",
        columns: "product_meter_id, day, subscription_meter_id",
        values: "f.product_meter_id, f.day, f.subscription_meter_id",
        meter: "subscription_meter_id",
        within: "f.day = (p.start AT TIME ZONE 'UTC')::date AND $3 <= $4::timestamptz",
        extra: &[("client_error_count", errors(4)), ("server_error_count", errors(5))],
    };
    whole.run(tx, days).await
}

/// Each (product, hour), and the UTC days that they lie in.
pub async fn remake_product_rollups(tx: &Transaction<'_>, hours: &Places, days: &Places) -> Result<(), StoreError> {
    let cells = "endpoint_meter_id, plan_meter_id, status_class";
    let buckets = each_bucket(|n| format!("sum(f.latency_histogram[{n}])"));
    let histogram = [("latency_histogram", format!("ARRAY[{buckets}]::bigint[]"))];
    let hourly = Remake {
        name: "remake_product_hours",
        into: "usage_product_hours",
        from: "usage_product_quarter_hours",
        columns: &format!("product_meter_id, hour, {cells}"),
        values: &format!("f.product_meter_id, p.start, {cells}"),
        meter: "product_meter_id",
        within: "f.quarter_hour >= p.start AND f.quarter_hour < p.start + interval '1 hour'
            AND f.quarter_hour >= $3 AND f.quarter_hour < $4::timestamptz + interval '1 hour'",
        extra: &histogram,
    };
    hourly.run(tx, hours).await?;
    let daily = Remake {
        name: "remake_product_days",
        into: "usage_product_days",
        from: "usage_product_hours",
        columns: &format!("product_meter_id, day, {cells}"),
        values: &format!("f.product_meter_id, (p.start AT TIME ZONE 'UTC')::date, {cells}"),
        meter: "product_meter_id",
        within: "f.hour >= p.start AND f.hour < p.start + interval '24 hours'
            AND f.hour >= $3 AND f.hour < $4::timestamptz + interval '24 hours'",
        extra: &histogram,
    };
    daily.run(tx, days).await
}

/// When keys were last used, to the minute. A clock that is ahead does not show.
pub async fn touch_keys(tx: &Transaction<'_>, used: &Places) -> Result<(), StoreError> {
    let sql = "-- touch_keys
        WITH used AS (
            SELECT k.id, least(u.at, now()) AS at FROM unnest($1::bigint[], $2::timestamptz[]) AS u (meter_id, at)
            JOIN api_keys k ON k.meter_id = u.meter_id
            WHERE k.last_used_at IS NULL OR k.last_used_at < least(u.at, now()) - interval '1 minute'
            ORDER BY k.id FOR NO KEY UPDATE OF k)
        UPDATE api_keys k SET last_used_at = used.at FROM used WHERE k.id = used.id";
    tx.execute_cached(sql, &[&used.meters, &used.starts]).await.map(|_| ())
}

/// How one rollup follows from the finer one.
struct Remake<'a> {
    name: &'static str,
    into: &'a str,
    from: &'a str,
    /// The primary key of `into`, and the values that make it.
    columns: &'a str,
    values: &'a str,
    /// The column that the places' meters are compared with.
    meter: &'a str,
    /// Which rows of `from` lie in a place. `$3` and `$4` are the first and the last start, so that whole partitions are left out.
    within: &'a str,
    /// Further columns, and how they are summed up.
    extra: &'a [(&'static str, String)],
}

impl Remake<'_> {
    async fn run(&self, tx: &Transaction<'_>, places: &Places) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (places.starts.iter().min(), places.starts.iter().max()) else { return Ok(()) };
        tx.execute_cached(&self.sql(), &[&places.meters, &places.starts, first, last]).await.map(|_| ())
    }

    /// Cells that would stay as they are are not written.
    fn sql(&self) -> String {
        let Remake { name, into, from, columns, values, meter, within, extra } = self;
        let names: Vec<&str> = COUNTS.into_iter().chain(extra.iter().map(|(column, _)| *column)).collect();
        let counts = COUNTS.map(|count| format!("sum(f.{count})::bigint"));
        let sums: Vec<&str> =
            counts.iter().map(String::as_str).chain(extra.iter().map(|(_, sum)| sum.as_str())).collect();
        let each = |form: &dyn Fn(&str) -> String| names.iter().map(|name| form(name)).collect::<Vec<_>>().join(", ");
        let (set, old, new) = (
            each(&|name| format!("{name} = excluded.{name}")),
            each(&|name| format!("t.{name}")),
            each(&|name| format!("excluded.{name}")),
        );
        let (names, sums) = (names.join(", "), sums.join(", "));
        format!(
            "-- {name}
            INSERT INTO {into} AS t ({columns}, {names})
            SELECT {values}, {sums}
            FROM unnest($1::bigint[], $2::timestamptz[]) AS p (meter, start)
            JOIN {from} f ON f.{meter} = p.meter AND {within}
            GROUP BY {values} ORDER BY {values}
            ON CONFLICT ({columns}) DO UPDATE SET {set} WHERE ({old}) IS DISTINCT FROM ({new})"
        )
    }
}
