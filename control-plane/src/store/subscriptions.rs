//! `subscriptions`: what organizations bought. Reads are bound to the organizations that may see the row: the consumer's
//! and the publisher's.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::periods::EndedPeriod;
use super::row::closed_text;
use super::{After, StoreError, Transaction, Values};
use crate::domain::period::BillingPeriod;
use crate::domain::plan::{Algorithm, RateAndBurst};
use crate::domain::subscription::{Party, SubscriptionStatus};

#[derive(Clone, Debug)]
pub struct SubscriptionRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub product_id: Uuid,
    pub product_name: String,
    pub product_slug: String,
    pub plan_id: Uuid,
    pub plan_name: String,
    pub plan_version: i32,
    pub next_plan_id: Option<Uuid>,
    pub user_id: Uuid,
    pub organization_id: Uuid,
    pub organization_name: String,
    pub organization_slug: String,
    pub publisher_organization_id: Uuid,
    pub publisher_organization_slug: String,
    pub status: SubscriptionStatus,
    pub requested_at: Timestamp,
    pub activated_at: Option<Timestamp>,
    pub cancelled_at: Option<Timestamp>,
    pub cancel_at: Option<Timestamp>,
    pub cancelled_by: Option<Party>,
    pub past_due_since: Option<Timestamp>,
    /// From then on the gateway answers 402.
    pub refuse_unpaid_from: Option<Timestamp>,
    /// What time it is for the publisher's bills.
    pub billing_now: Timestamp,
    pub override_requests_per_minute: Option<i32>,
    pub override_burst_limit: Option<i32>,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
    pub period_id: i32,
    pub note: String,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The two organizations that have to do with a subscription.
#[derive(Clone, Copy, Debug)]
pub struct Parties {
    pub consumer: Uuid,
    pub publisher: Uuid,
}

/// Which side's list is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Consumer { organization: Uuid },
    Publisher { organization: Uuid, product: Uuid },
}

/// What a list is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscriptionFilter {
    pub status: Option<SubscriptionStatus>,
    pub plan: Option<Uuid>,
    pub product: Option<Uuid>,
}

/// A subscription to be written. `period`: it begins at once.
#[derive(Clone, Debug)]
pub struct NewSubscription<'a> {
    pub id: Uuid,
    pub product: Uuid,
    pub plan: Uuid,
    pub user: Uuid,
    pub organization: Uuid,
    pub period: Option<BillingPeriod>,
    pub note: &'a str,
}

macro_rules! columns {
    () => {
        "s.id, s.meter_id, s.product_id, p.name AS product_name, p.slug AS product_slug, s.plan_id, n.name AS plan_name, \
         n.version AS plan_version, s.next_plan_id, s.user_id, s.organization_id, o.name AS organization_name, \
         o.slug AS organization_slug, p.organization_id AS publisher_organization_id, \
         w.slug AS publisher_organization_slug, s.status, s.requested_at, \
         s.activated_at, s.cancelled_at, s.cancel_at, s.cancelled_by, s.past_due_since, s.refuse_unpaid_from, \
         billing_now(p.organization_id) AS billing_now, s.override_requests_per_minute, \
         s.override_burst_limit, s.period_start, s.period_end, s.period_id, s.note, s.version, s.created_at, s.updated_at"
    };
}

macro_rules! joined {
    () => {
        " FROM subscriptions s JOIN api_products p ON p.id = s.product_id JOIN plans n ON n.id = s.plan_id \
          JOIN organizations o ON o.id = s.organization_id \
          JOIN organizations w ON w.id = p.organization_id "
    };
}

pub async fn parties_of(tx: &Transaction<'_>, id: Uuid) -> Result<Option<Parties>, StoreError> {
    let sql = "-- subscriptions.parties_of\n\
        SELECT s.organization_id AS consumer, p.organization_id AS publisher \
        FROM subscriptions s JOIN api_products p ON p.id = s.product_id WHERE s.id = $1";
    let Some(row) = tx.query_opt_cached(sql, &[&id]).await? else { return Ok(None) };
    Ok(Some(Parties { consumer: row.try_get("consumer")?, publisher: row.try_get("publisher")? }))
}

pub async fn insert(tx: &Transaction<'_>, new: &NewSubscription<'_>) -> Result<(), StoreError> {
    let sql = "-- subscriptions.insert\n\
        INSERT INTO subscriptions (id, product_id, plan_id, user_id, organization_id, status, activated_at, period_start, \
            period_end, period_id, note) \
        VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $6 = 'active' THEN billing_now_of_product($2) END, $7, $8, $9, $10)";
    let status = if new.period.is_some() { SubscriptionStatus::Active } else { SubscriptionStatus::Pending };
    let values: Values<'_> = &[
        &new.id,
        &new.product,
        &new.plan,
        &new.user,
        &new.organization,
        &status.as_str(),
        &new.period.map(|period| period.starts_at),
        &new.period.map(|period| period.ends_at),
        &new.period.map_or(0, |period| period.id),
        &new.note,
    ];
    StoreError::expect_one("subscriptions.insert", tx.execute_cached(sql, values).await?)
}

/// `organization` is either party; anybody else finds nothing.
pub async fn get(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<SubscriptionRow>, StoreError> {
    let sql = concat!(
        "-- subscriptions.get\nSELECT ",
        columns!(),
        joined!(),
        "WHERE s.id = $1 AND $2 IN (s.organization_id, p.organization_id)"
    );
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(SubscriptionRow::try_from).transpose()
}

/// As `get`, and keeps other writers of the subscription and of its keys waiting.
pub async fn lock(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<SubscriptionRow>, StoreError> {
    // Read by a statement of its own: one that had to wait would join the row of now with the plan of when it began, and find none.
    let sql = "-- subscriptions.lock
        SELECT 1 FROM subscriptions s WHERE s.id = $1 AND $2 IN (s.organization_id, (
            SELECT p.organization_id FROM api_products p WHERE p.id = s.product_id)) FOR NO KEY UPDATE";
    match tx.query_opt_cached(sql, &[&id, &organization]).await? {
        Some(_) => get(tx, organization, id).await,
        None => Ok(None),
    }
}

pub async fn list(
    tx: &Transaction<'_>,
    side: Side,
    filter: SubscriptionFilter,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<SubscriptionRow>, StoreError> {
    let status = filter.status.map(SubscriptionStatus::as_str);
    let (created_at, after_id) = After::split(after);
    let rows = match side {
        Side::Consumer { organization } => {
            let sql = concat!(
                "-- subscriptions.list_of_consumer\nSELECT ",
                columns!(),
                joined!(),
                "WHERE s.organization_id = $1 AND ($2::text IS NULL OR s.status = $2) AND ($3::uuid IS NULL OR s.plan_id = $3) \
                 AND ($7::uuid IS NULL OR s.product_id = $7) \
                 AND ($4::timestamptz IS NULL OR (s.created_at, s.id) > ($4, $5)) ORDER BY s.created_at, s.id LIMIT $6"
            );
            let values: Values<'_> =
                &[&organization, &status, &filter.plan, &created_at, &after_id, &limit, &filter.product];
            tx.query_cached(sql, values).await?
        }
        Side::Publisher { organization, product } => {
            let sql = concat!(
                "-- subscriptions.list_of_product\nSELECT ",
                columns!(),
                joined!(),
                "WHERE p.organization_id = $1 AND s.product_id = $7 AND ($2::text IS NULL OR s.status = $2) \
                 AND ($3::uuid IS NULL OR s.plan_id = $3) \
                 AND ($4::timestamptz IS NULL OR (s.created_at, s.id) > ($4, $5)) ORDER BY s.created_at, s.id LIMIT $6"
            );
            tx.query_cached(sql, &[&organization, &status, &filter.plan, &created_at, &after_id, &limit, &product])
                .await?
        }
    };
    rows.iter().map(SubscriptionRow::try_from).collect()
}

/// Begins, in `period`.
pub async fn activate(tx: &Transaction<'_>, id: Uuid, period: &BillingPeriod) -> Result<(), StoreError> {
    let sql = "-- subscriptions.activate\n\
        UPDATE subscriptions SET status = 'active', activated_at = billing_now_of_product(product_id), \
            period_start = $2, period_end = $3, period_id = $4 WHERE id = $1";
    let values: Values<'_> = &[&id, &period.starts_at, &period.ends_at, &period.id];
    StoreError::expect_one("subscriptions.activate", tx.execute_cached(sql, values).await?)
}

/// Ends a suspension; what is unpaid stays so. The period went on meanwhile.
pub async fn resume(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- subscriptions.resume\n\
        UPDATE subscriptions SET status = CASE WHEN past_due_since IS NULL THEN 'active' ELSE 'past_due' END WHERE id = $1";
    StoreError::expect_one("subscriptions.resume", tx.execute_cached(sql, &[&id]).await?)
}

pub async fn suspend(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- subscriptions.suspend\nUPDATE subscriptions SET status = 'suspended' WHERE id = $1";
    StoreError::expect_one("subscriptions.suspend", tx.execute_cached(sql, &[&id]).await?)
}

pub async fn cancel_now(tx: &Transaction<'_>, id: Uuid, by: Party) -> Result<(), StoreError> {
    let sql = "-- subscriptions.cancel_now\n\
        UPDATE subscriptions SET status = 'cancelled', cancelled_at = billing_now_of_product(product_id), cancel_at = NULL, cancelled_by = $2, \
            next_plan_id = NULL WHERE id = $1";
    StoreError::expect_one("subscriptions.cancel_now", tx.execute_cached(sql, &[&id, &by.as_str()]).await?)
}

/// Where both sides cancel it stays the publisher's, so that the consumer cannot take it back.
pub async fn cancel_at_period_end(tx: &Transaction<'_>, id: Uuid, by: Party) -> Result<(), StoreError> {
    let sql = "-- subscriptions.cancel_at_period_end\n\
        UPDATE subscriptions SET cancel_at = period_end, \
            cancelled_by = CASE WHEN cancel_at IS NOT NULL AND cancelled_by = 'publisher' THEN cancelled_by ELSE $2 END \
        WHERE id = $1 AND period_end IS NOT NULL";
    StoreError::expect_one("subscriptions.cancel_at_period_end", tx.execute_cached(sql, &[&id, &by.as_str()]).await?)
}

/// Takes a cancellation back that has not happened yet.
pub async fn keep(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- subscriptions.keep\nUPDATE subscriptions SET cancel_at = NULL, cancelled_by = NULL \
        WHERE id = $1 AND cancel_at > billing_now_of_product(product_id)";
    StoreError::expect_one("subscriptions.keep", tx.execute_cached(sql, &[&id]).await?)
}

/// A subscription whose wanted end has passed is over, whether or not a job has said so yet. Returns whose row moved.
pub async fn end_elapsed(tx: &Transaction<'_>, organization: Uuid, product: Uuid) -> Result<Option<Uuid>, StoreError> {
    let sql = "-- subscriptions.end_elapsed\n\
        UPDATE subscriptions SET status = 'cancelled', cancelled_at = cancel_at, next_plan_id = NULL \
        WHERE organization_id = $1 AND product_id = $2 AND status <> 'cancelled' \
            AND cancel_at <= billing_now_of_product(product_id) RETURNING id";
    let row = tx.query_opt_cached(sql, &[&organization, &product]).await?;
    row.map(|row| row.try_get("id").map_err(StoreError::from)).transpose()
}

/// A dearer plan takes effect at once, and nothing waits any more.
pub async fn change_plan(tx: &Transaction<'_>, id: Uuid, plan: Uuid) -> Result<(), StoreError> {
    let sql = "-- subscriptions.change_plan\nUPDATE subscriptions SET plan_id = $2, next_plan_id = NULL WHERE id = $1";
    StoreError::expect_one("subscriptions.change_plan", tx.execute_cached(sql, &[&id, &plan]).await?)
}

/// A window knows no burst of its own: an override that was made for a bucket ends with it.
pub async fn drop_unsuited_override(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- subscriptions.drop_unsuited_override\n\
        UPDATE subscriptions s SET override_requests_per_minute = NULL, override_burst_limit = NULL \
        FROM rate_limit_policies l WHERE s.id = $1 AND l.plan_id = s.plan_id AND l.algorithm <> 'token_bucket' \
            AND s.override_burst_limit <> s.override_requests_per_minute";
    tx.execute_cached(sql, &[&id]).await.map(|_| ())
}

/// A cheaper plan waits for the period's end; `None` takes a waiting one back.
pub async fn plan_next(tx: &Transaction<'_>, id: Uuid, plan: Option<Uuid>) -> Result<(), StoreError> {
    let sql = "-- subscriptions.plan_next\nUPDATE subscriptions SET next_plan_id = $2 WHERE id = $1";
    StoreError::expect_one("subscriptions.plan_next", tx.execute_cached(sql, &[&id, &plan]).await?)
}

pub async fn set_override(tx: &Transaction<'_>, id: Uuid, rate: Option<RateAndBurst>) -> Result<(), StoreError> {
    let sql = "-- subscriptions.set_override\n\
        UPDATE subscriptions SET override_requests_per_minute = $2, override_burst_limit = $3 WHERE id = $1";
    let values: Values<'_> =
        &[&id, &rate.map(|rate| rate.requests_per_minute.get()), &rate.map(|rate| rate.burst_limit.get())];
    StoreError::expect_one("subscriptions.set_override", tx.execute_cached(sql, values).await?)
}

/// How the subscription's plan counts; an override must suit it.
pub async fn algorithm(tx: &Transaction<'_>, id: Uuid) -> Result<Algorithm, StoreError> {
    let sql = "-- subscriptions.algorithm\n\
        SELECT l.algorithm FROM subscriptions s JOIN rate_limit_policies l ON l.plan_id = s.plan_id WHERE s.id = $1";
    closed_text(&tx.query_one_cached(sql, &[&id]).await?, "algorithm", Algorithm::parse)
}

impl SubscriptionRow {
    /// Whether the end that somebody wanted has come, also before a job has cancelled it.
    pub fn end_has_come(&self) -> bool {
        self.cancel_at.is_some_and(|at| at <= self.billing_now)
    }

    /// What has to move into the month that runs, whether or not a job has come by: as `periods::lock_ended` finds it. `None` also
    /// for one whose own end has come.
    pub fn ended_period(&self) -> Option<EndedPeriod> {
        let period_end = self.period_end.filter(|end| *end <= self.billing_now)?;
        let is_over = self.status == SubscriptionStatus::Cancelled || self.end_has_come();
        (!is_over).then_some(EndedPeriod {
            id: self.id,
            organization_id: self.organization_id,
            period_id: self.period_id,
            period_end,
            plan: self.plan_id,
            next_plan: self.next_plan_id,
            publisher: self.publisher_organization_id,
        })
    }
}

impl TryFrom<&Row> for SubscriptionRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(SubscriptionRow {
            id: row.try_get("id")?,
            meter_id: row.try_get("meter_id")?,
            product_id: row.try_get("product_id")?,
            product_name: row.try_get("product_name")?,
            product_slug: row.try_get("product_slug")?,
            plan_id: row.try_get("plan_id")?,
            plan_name: row.try_get("plan_name")?,
            plan_version: row.try_get("plan_version")?,
            next_plan_id: row.try_get("next_plan_id")?,
            user_id: row.try_get("user_id")?,
            organization_id: row.try_get("organization_id")?,
            organization_name: row.try_get("organization_name")?,
            organization_slug: row.try_get("organization_slug")?,
            publisher_organization_id: row.try_get("publisher_organization_id")?,
            publisher_organization_slug: row.try_get("publisher_organization_slug")?,
            status: closed_text(row, "status", SubscriptionStatus::parse)?,
            requested_at: row.try_get("requested_at")?,
            activated_at: row.try_get("activated_at")?,
            cancelled_at: row.try_get("cancelled_at")?,
            cancel_at: row.try_get("cancel_at")?,
            cancelled_by: match row.try_get::<_, Option<&str>>("cancelled_by")? {
                Some(_) => Some(closed_text(row, "cancelled_by", Party::parse)?),
                None => None,
            },
            past_due_since: row.try_get("past_due_since")?,
            refuse_unpaid_from: row.try_get("refuse_unpaid_from")?,
            billing_now: row.try_get("billing_now")?,
            override_requests_per_minute: row.try_get("override_requests_per_minute")?,
            override_burst_limit: row.try_get("override_burst_limit")?,
            period_start: row.try_get("period_start")?,
            period_end: row.try_get("period_end")?,
            period_id: row.try_get("period_id")?,
            note: row.try_get("note")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}
