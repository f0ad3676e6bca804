//! What is known of the metering as a whole: its producers, how complete a period is, and whether every rollup says the same.
//! Refuses to mend anything: a difference is shown.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Store, StoreError, Transaction};
use crate::domain::usage::Producer;

mod producers;

pub use producers::{ProducerFilter, ProducerRow, find_producer, list_producers, write_off};

/// An open epoch that has sent nothing for so long is silent, in seconds. An idle gateway reports every 30 s.
pub const SILENT_AFTER_S: i32 = 300;
/// Days back that the audit watches; usage is as late as that at most, or flagged.
pub const AUDITED_DAYS: i32 = 35;
/// Reasons told at once; the rest is counted.
const REASONS_MAX: i64 = 100;
/// The audit of one day reads it whole.
const AUDIT_TIMEOUT: &str = "SET LOCAL statement_timeout = '60s'";

/// Whether an invoice for a period that has ended can be final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completeness {
    Complete,
    /// Usage may still come, or is in doubt.
    Provisional {
        reasons: Vec<Reason>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reason {
    /// `gap`: batches are missing. `open`: the node has not said that nothing older will come. `silent`: as open, and it does
    /// not report any more. `never_reported`: the node has never sent usage. `audit_differs`: rollups do not agree.
    pub kind: String,
    pub node_id: Option<Uuid>,
    pub epoch: Option<Uuid>,
    pub detail: String,
}

/// One UTC day as each table has it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DayAudit {
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// Requests in the batches that were counted.
    pub batches: i64,
    /// The same from each rollup.
    pub quarter_hours: i64,
    pub hours: i64,
    pub days: i64,
    pub products: i64,
    /// Roll-ups that were still to be made; until then hours and days lag.
    pub pending_marks: i64,
    pub is_equal: bool,
    #[schema(value_type = String, format = DateTime)]
    pub checked_at: Timestamp,
}

/// The state of metering in numbers.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct Totals {
    /// Days on which the rollups do not agree.
    pub days_differing: i64,
    /// Epochs whose batches and whose days do not agree.
    pub epochs_differing: i64,
    /// Epochs with batches missing, and how many are.
    pub epochs_with_gaps: i64,
    pub missing_batches: i64,
    /// Epochs that have not ended and do not report.
    pub silent_epochs: i64,
    pub open_epochs: i64,
    pub written_off_epochs: i64,
    /// Gateways that the feed knows and that never sent usage.
    pub nodes_never_reported: i64,
    /// Roll-ups to be made.
    pub pending_marks: i64,
    /// Entries and events that could not be read.
    pub set_aside: i64,
    /// Counted with an unlikely time.
    pub skewed_events: i64,
}

/// Compares a day's sums, all seen at one moment, and keeps the outcome.
pub async fn audit_day(store: &Store, day: Date) -> Result<DayAudit, StoreError> {
    let sql = "-- audit_day
        INSERT INTO usage_audits AS a (day, batches, quarter_hours, hours, days, products, pending_marks)
        SELECT d.day, (SELECT coalesce(sum(events), 0) FROM ingested_days WHERE day = d.day),
            (SELECT coalesce(sum(request_count), 0) FROM usage_quarter_hours WHERE quarter_hour >= d.lower AND quarter_hour < d.upper),
            (SELECT coalesce(sum(request_count), 0) FROM usage_hours WHERE hour >= d.lower AND hour < d.upper),
            (SELECT coalesce(sum(request_count), 0) FROM usage_days WHERE day = d.day),
            (SELECT coalesce(sum(request_count), 0) FROM usage_product_days WHERE day = d.day),
            (SELECT count(*) FROM usage_dirty WHERE hour >= d.lower AND hour < d.upper)
        FROM (SELECT $1::date AS day, $1::date::timestamp AT TIME ZONE 'UTC' AS lower,
            ($1::date + 1)::timestamp AT TIME ZONE 'UTC' AS upper) AS d
        ON CONFLICT (day) DO UPDATE SET batches = excluded.batches, quarter_hours = excluded.quarter_hours, hours = excluded.hours,
            days = excluded.days, products = excluded.products, pending_marks = excluded.pending_marks, checked_at = now()
        RETURNING a.*";
    store
        .run_slow_tx("audit_day", |tx| {
            Box::pin(async move {
                tx.batch_execute(AUDIT_TIMEOUT).await?;
                DayAudit::read(&tx.query_one_cached(sql, &[&day]).await?)
            })
        })
        .await
}

/// Today, yesterday, and of the others the one that was not looked at for longest.
pub async fn list_days_to_audit(tx: &Transaction<'_>) -> Result<Vec<Date>, StoreError> {
    let sql = "-- list_days_to_audit
        WITH today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS day)
        SELECT day FROM today UNION ALL SELECT day - 1 FROM today UNION ALL (
            SELECT t.day - n FROM today t CROSS JOIN generate_series(2, $1) AS n LEFT JOIN usage_audits a ON a.day = t.day - n
            ORDER BY a.checked_at NULLS FIRST, n LIMIT 1)";
    let rows = tx.query_cached(sql, &[&AUDITED_DAYS]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The last comparisons, newest day first.
pub async fn list_audits(tx: &Transaction<'_>) -> Result<Vec<DayAudit>, StoreError> {
    let sql = "-- list_audits
        SELECT * FROM usage_audits WHERE day > (now() AT TIME ZONE 'UTC')::date - $1::int OR NOT is_equal ORDER BY day DESC LIMIT 400";
    tx.query_cached(sql, &[&AUDITED_DAYS]).await?.iter().map(DayAudit::read).collect()
}

pub async fn find_totals(tx: &Transaction<'_>) -> Result<Totals, StoreError> {
    let sql = "-- find_totals
        WITH producers AS (
            SELECT count(*) FILTER (WHERE missing > 0) AS gaps, coalesce(sum(missing), 0)::bigint AS missing,
                count(*) FILTER (WHERE is_open AND last_batch_at < now() - make_interval(secs => $1)) AS silent,
                count(*) FILTER (WHERE is_open) AS open, count(*) FILTER (WHERE written_off_at IS NOT NULL) AS written_off,
                coalesce(sum(skewed_events), 0)::bigint AS skewed
            FROM (SELECT w.*, written_off_at IS NULL AND NOT is_closed AS is_open,
                CASE WHEN written_off_at IS NULL AND highest_seq > contiguous_seq THEN highest_seq - contiguous_seq - (
                    SELECT count(*) FROM ingested_batches b WHERE b.node_id = w.node_id AND b.epoch = w.epoch
                        AND b.seq > w.contiguous_seq) ELSE 0 END AS missing FROM ingest_watermarks w) AS w)
        SELECT p.*, (SELECT count(*) FROM usage_audits WHERE NOT is_equal) AS days_differing,
            (SELECT count(*) FROM ingest_watermarks w WHERE w.last_batch_at > now() - make_interval(days => $2)
                AND w.events <> (SELECT coalesce(sum(d.events), 0) FROM ingested_days d
                    WHERE d.node_id = w.node_id AND d.epoch = w.epoch)) AS epochs_differing,
            (SELECT count(*) FROM nodes n WHERE n.state <> 'removed'
                AND NOT EXISTS (SELECT FROM ingest_watermarks w WHERE w.node_id = n.id)) AS never_reported,
            (SELECT count(*) FROM usage_dirty) AS marks,
            (SELECT count(*) FROM ingest_failures) AS set_aside
        FROM producers p";
    let row = tx.query_one_cached(sql, &[&f64::from(SILENT_AFTER_S), &AUDITED_DAYS]).await?;
    Ok(Totals {
        days_differing: row.try_get("days_differing")?,
        epochs_differing: row.try_get("epochs_differing")?,
        epochs_with_gaps: row.try_get("gaps")?,
        missing_batches: row.try_get("missing")?,
        silent_epochs: row.try_get("silent")?,
        open_epochs: row.try_get("open")?,
        written_off_epochs: row.try_get("written_off")?,
        nodes_never_reported: row.try_get("never_reported")?,
        pending_marks: row.try_get("marks")?,
        set_aside: row.try_get("set_aside")?,
        skewed_events: row.try_get("skewed")?,
    })
}

/// Whether everything that happened before `period_end` has been counted, as far as anybody can know: every producer has ended
/// in order, or has said that nothing older will come, or was written off; and no rollup of that time is in doubt.
pub async fn period_completeness(tx: &Transaction<'_>, period_end: Timestamp) -> Result<Completeness, StoreError> {
    let mut reasons = producers::list_unfinished(tx, period_end, REASONS_MAX).await?;
    let sql = "-- list_nodes_never_reported
        SELECT n.id, n.name FROM nodes n WHERE n.state <> 'removed' AND n.first_seen_at < $1
            AND NOT EXISTS (SELECT FROM ingest_watermarks w WHERE w.node_id = n.id) ORDER BY n.name LIMIT $2";
    for row in tx.query_cached(sql, &[&period_end, &REASONS_MAX]).await? {
        let detail =
            format!("The gateway {} has never reported usage. Remove it if it is gone.", row.try_get::<_, &str>(1)?);
        reasons.push(Reason { kind: "never_reported".into(), node_id: Some(row.try_get(0)?), epoch: None, detail });
    }
    let sql = "-- list_days_differing
        SELECT day FROM usage_audits WHERE NOT is_equal AND day < ($1 AT TIME ZONE 'UTC')::date + 1 ORDER BY day LIMIT $2";
    for row in tx.query_cached(sql, &[&period_end, &REASONS_MAX]).await? {
        let detail = format!("The rollups of {} do not agree.", row.try_get::<_, Date>(0)?);
        reasons.push(Reason { kind: "audit_differs".into(), node_id: None, epoch: None, detail });
    }
    Ok(if reasons.is_empty() { Completeness::Complete } else { Completeness::Provisional { reasons } })
}

impl DayAudit {
    fn read(row: &Row) -> Result<DayAudit, StoreError> {
        Ok(DayAudit {
            day: row.try_get("day")?,
            batches: row.try_get("batches")?,
            quarter_hours: row.try_get("quarter_hours")?,
            hours: row.try_get("hours")?,
            days: row.try_get("days")?,
            products: row.try_get("products")?,
            pending_marks: row.try_get("pending_marks")?,
            is_equal: row.try_get("is_equal")?,
            checked_at: row.try_get("checked_at")?,
        })
    }
}

fn read_producer(row: &Row) -> Result<Producer, StoreError> {
    Ok(Producer { node: row.try_get("node_id")?, epoch: row.try_get("epoch")? })
}
