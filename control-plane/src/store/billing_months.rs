//! `billing_months`, `billing_clocks` and `billing_marks`: a publisher's months in order, made when they are needed, and the simulation
//! clock that ends one early. Refuses gaps and overlaps: a month begins where the one before it ended.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{StoreError, Transaction, Values};
use crate::domain::period::{BillingPeriod, PeriodFault, id_of};

/// Months made at once for a publisher that nobody looked at for long: a hundred years of the simulation clock.
const MONTHS_MADE_MAX: u32 = 1_200;

#[derive(Debug, thiserror::Error)]
pub enum MonthFault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Period(#[from] PeriodFault),
}

/// A publisher's month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonthRow {
    pub organization: Uuid,
    pub month: Date,
    /// Billing time.
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    pub time_zone: String,
    /// Event time.
    pub usage_from: Timestamp,
    pub usage_until: Timestamp,
    pub ended_by_clock: bool,
}

impl MonthRow {
    pub fn period(&self) -> BillingPeriod {
        BillingPeriod { id: id_of(self.month), starts_at: self.starts_at, ends_at: self.ends_at }
    }

    /// How far billing time is ahead of the time of events in this month.
    pub fn ahead(&self) -> SignedDuration {
        self.starts_at.duration_since(self.usage_from)
    }

    fn read(row: &Row) -> Result<MonthRow, StoreError> {
        Ok(MonthRow {
            organization: row.try_get("organization_id")?,
            month: row.try_get("month")?,
            starts_at: row.try_get("starts_at")?,
            ends_at: row.try_get("ends_at")?,
            time_zone: row.try_get("time_zone")?,
            usage_from: row.try_get("usage_from")?,
            usage_until: row.try_get("usage_until")?,
            ended_by_clock: row.try_get("ended_by_clock")?,
        })
    }
}

/// What time it is for a publisher's bills.
struct Clock {
    now: Timestamp,
    ahead: SignedDuration,
    time_zone: String,
}

pub async fn billing_now(tx: &Transaction<'_>, publisher: Uuid) -> Result<Timestamp, StoreError> {
    Ok(tx.query_one_cached("-- billing_now\nSELECT billing_now($1)", &[&publisher]).await?.try_get(0)?)
}

/// The month that runs now for the publisher; it is made, with those before it, where nobody has asked yet.
pub async fn current(tx: &Transaction<'_>, publisher: Uuid) -> Result<MonthRow, MonthFault> {
    let clock = clock(tx, publisher).await?;
    let mut last = match latest(tx, publisher).await? {
        Some(last) => last,
        None => {
            let first = BillingPeriod::around(clock.now, &clock.time_zone)?;
            let from = before(first.starts_at, clock.ahead)?;
            make(tx, publisher, &first, from, &clock).await?
        }
    };
    for _ in 0..MONTHS_MADE_MAX {
        if clock.now < last.ends_at {
            break;
        }
        let next = last.period().following(&clock.time_zone)?;
        last = make(tx, publisher, &next, last.usage_until, &clock).await?;
    }
    // Only a clock that was set back finds the newest month still to come.
    match last.starts_at <= clock.now {
        true => Ok(last),
        false => at(tx, publisher, clock.now).await,
    }
}

async fn clock(tx: &Transaction<'_>, publisher: Uuid) -> Result<Clock, StoreError> {
    let sql = "-- billing_months.clock
        SELECT billing_now(o.id) AS now, coalesce(c.ahead_s, 0) AS ahead_s, o.time_zone
        FROM organizations o LEFT JOIN billing_clocks c ON c.organization_id = o.id WHERE o.id = $1";
    let row = tx.query_one_cached(sql, &[&publisher]).await?;
    Ok(Clock {
        now: row.try_get("now")?,
        ahead: SignedDuration::from_secs(row.try_get("ahead_s")?),
        time_zone: row.try_get("time_zone")?,
    })
}

/// Event time is earlier than billing time by `ahead`.
fn before(at: Timestamp, ahead: SignedDuration) -> Result<Timestamp, StoreError> {
    at.checked_sub(ahead).map_err(|error| StoreError::BadRow(format!("billing_clocks: {error}")))
}

async fn latest(tx: &Transaction<'_>, publisher: Uuid) -> Result<Option<MonthRow>, StoreError> {
    let sql = "-- billing_months.latest
        SELECT * FROM billing_months WHERE organization_id = $1 ORDER BY month DESC LIMIT 1";
    tx.query_opt_cached(sql, &[&publisher]).await?.as_ref().map(MonthRow::read).transpose()
}

async fn at(tx: &Transaction<'_>, publisher: Uuid, now: Timestamp) -> Result<MonthRow, MonthFault> {
    let sql = "-- billing_months.at
        SELECT * FROM billing_months WHERE organization_id = $1 AND (starts_at <= $2 OR month = (
            SELECT min(month) FROM billing_months WHERE organization_id = $1)) ORDER BY month DESC LIMIT 1";
    Ok(MonthRow::read(&tx.query_one_cached(sql, &[&publisher, &now]).await?)?)
}

/// Somebody else may make the same month at the same time; one row is made, and both read it.
async fn make(
    tx: &Transaction<'_>,
    publisher: Uuid,
    period: &BillingPeriod,
    usage_from: Timestamp,
    clock: &Clock,
) -> Result<MonthRow, StoreError> {
    let sql = "-- billing_months.make
        INSERT INTO billing_months (organization_id, month, starts_at, ends_at, time_zone, usage_from, usage_until)
        VALUES ($1, $2, $3, $4, $5, $6::timestamptz, greatest($6::timestamptz, $7::timestamptz)) ON CONFLICT DO NOTHING";
    let (month, until) = (period.month(), before(period.ends_at, clock.ahead)?);
    let values: Values<'_> =
        &[&publisher, &month, &period.starts_at, &period.ends_at, &clock.time_zone, &usage_from, &until];
    tx.execute_cached(sql, values).await?;
    get(tx, publisher, month).await?.ok_or(StoreError::RowCount { statement: "billing_months.make", found: 0 })
}

pub async fn get(tx: &Transaction<'_>, publisher: Uuid, month: Date) -> Result<Option<MonthRow>, StoreError> {
    let sql = "-- billing_months.get\nSELECT * FROM billing_months WHERE organization_id = $1 AND month = $2";
    tx.query_opt_cached(sql, &[&publisher, &month]).await?.as_ref().map(MonthRow::read).transpose()
}

/// The `count` months before this one, the latest first.
pub async fn earlier(tx: &Transaction<'_>, month: &MonthRow, count: i64) -> Result<Vec<MonthRow>, StoreError> {
    let sql = "-- billing_months.earlier
        SELECT * FROM billing_months WHERE organization_id = $1 AND month < $2 ORDER BY month DESC LIMIT $3";
    let rows = tx.query_cached(sql, &[&month.organization, &month.month, &count]).await?;
    rows.iter().map(MonthRow::read).collect()
}

/// Months that are over, of everybody or one publisher, and not settled; the oldest first, `limit` of them after `after`.
pub async fn unsettled(
    tx: &Transaction<'_>,
    only: Option<Uuid>,
    after: Option<&MonthRow>,
    limit: i64,
) -> Result<Vec<MonthRow>, StoreError> {
    let sql = "-- billing_months.unsettled
        SELECT m.* FROM billing_months m
        WHERE m.settled_at IS NULL AND m.ends_at <= billing_now(m.organization_id)
          AND ($1::uuid IS NULL OR m.organization_id = $1)
          AND ($2::date IS NULL OR (m.month, m.organization_id) > ($2, $3))
        ORDER BY m.month, m.organization_id LIMIT $4";
    let (month, organization) = (after.map(|last| last.month), after.map(|last| last.organization));
    tx.query_cached(sql, &[&only, &month, &organization, &limit]).await?.iter().map(MonthRow::read).collect()
}

pub async fn settle(tx: &Transaction<'_>, month: &MonthRow) -> Result<(), StoreError> {
    let sql = "-- billing_months.settle
        UPDATE billing_months SET settled_at = now() WHERE organization_id = $1 AND month = $2 AND settled_at IS NULL";
    tx.execute_cached(sql, &[&month.organization, &month.month]).await.map(|_| ())
}

/// Publishers whose months must go on: somebody holds a subscription of theirs.
pub async fn publishers(tx: &Transaction<'_>, after: Option<Uuid>, limit: i64) -> Result<Vec<Uuid>, StoreError> {
    let sql = "-- billing_months.publishers
        SELECT o.id FROM organizations o WHERE ($1::uuid IS NULL OR o.id > $1) AND EXISTS (
            SELECT FROM subscriptions s JOIN api_products p ON p.id = s.product_id WHERE p.organization_id = o.id)
        ORDER BY o.id LIMIT $2";
    let rows = tx.query_cached(sql, &[&after, &limit]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// Ends the running month now: what was counted in this quarter of an hour stays with it, and billing time goes to its end. The
/// caller has locked the publisher's clock.
pub async fn end_by_clock(tx: &Transaction<'_>, month: &MonthRow) -> Result<(), StoreError> {
    let sql = "-- billing_months.mark
        INSERT INTO billing_marks (organization_id, month, subscription_meter_id, plan_meter_id, quarter_hour, billable_count, used_count)
        SELECT $1::uuid, $2::date, u.subscription_meter_id, u.plan_meter_id, u.quarter_hour, sum(u.billable_count),
            coalesce(sum(u.admitted_count - u.failed_count) FILTER (WHERE k.environment = 'live'), 0)
        FROM usage_quarter_hours u JOIN api_products p ON p.meter_id = u.product_meter_id
        LEFT JOIN api_keys k ON k.meter_id = u.key_meter_id
        WHERE p.organization_id = $1 AND u.quarter_hour = date_bin('15 minutes', now(), timestamptz '2000-01-01 00:00:00+00')
        GROUP BY 3, 4, 5 HAVING sum(u.billable_count) > 0 OR sum(u.admitted_count) > 0";
    tx.execute_cached(sql, &[&month.organization, &month.month]).await?;
    let sql = "-- billing_months.end_by_clock
        UPDATE billing_months SET ended_by_clock = true,
            usage_until = date_bin('15 minutes', now(), timestamptz '2000-01-01 00:00:00+00')
        WHERE organization_id = $1 AND month = $2";
    let found = tx.execute_cached(sql, &[&month.organization, &month.month]).await?;
    StoreError::expect_one("billing_months.end_by_clock", found)?;
    let sql = "-- billing_clocks.set
        INSERT INTO billing_clocks (organization_id, ahead_s)
        SELECT organization_id, extract(epoch FROM ends_at - usage_until)::bigint FROM billing_months
        WHERE organization_id = $1 AND month = $2
        ON CONFLICT (organization_id) DO UPDATE SET ahead_s = excluded.ahead_s, updated_at = now()";
    tx.execute_cached(sql, &[&month.organization, &month.month]).await.map(|_| ())
}

/// One move of a publisher's clock at a time.
pub async fn lock_clock(tx: &Transaction<'_>, publisher: Uuid) -> Result<(), StoreError> {
    let sql =
        "-- billing_clocks.lock\nSELECT pg_advisory_xact_lock(hashtextextended('billing_clock:' || $1::uuid::text, 0))";
    tx.query_one_cached(sql, &[&publisher]).await.map(|_| ())
}
