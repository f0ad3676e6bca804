//! Latencies of single subscriptions and keys, from the log of requests: rollups by subscription keep no histogram, for it would
//! double each of their rows. Refuses to read more than a bounded part of the log: of a time with more there is only the mean.

use std::collections::HashMap;

use jiff::Timestamp;

use super::super::{StoreError, Transaction};
use super::compose::Composed;
use super::source::Question;
use crate::domain::analytics::sums::BUCKETS;

/// Rows of the log read for one chart: some 50 ms.
const LOGGED_MAX: i64 = 50_000;

/// Histograms by point and group.
pub(super) type Histograms = HashMap<(Timestamp, Option<i64>), Vec<i64>>;

/// `subscriptions`: these alone, whatever else the question is bound to. `group` gives the group of a row `r`. Empty where the
/// question does not reach its rows by subscription, or reaches too many.
pub(super) async fn list_histograms(
    tx: &Transaction<'_>,
    question: &Question<'_>,
    subscriptions: Option<&[i64]>,
    group: impl FnOnce(&mut Composed) -> String,
) -> Result<Histograms, StoreError> {
    if subscriptions.is_none() && !question.bound.reaches_by_subscription() {
        return Ok(Histograms::new());
    }
    let mut q = Composed::named("logged");
    let (from, to) = (q.bind(question.window.from), q.bind(question.window.to));
    q.push(&format!(
        "WITH logged AS MATERIALIZED (SELECT l.occurred_at, l.subscription_meter_id, l.key_meter_id, l.product_meter_id, \
         l.endpoint_meter_id, l.plan_meter_id, (l.status / 100)::smallint AS status_class, l.latency_us FROM usage_logs l \
         WHERE l.occurred_at >= {from} AND l.occurred_at < {to}"
    ));
    match subscriptions {
        Some(subscriptions) => {
            let place = q.bind(subscriptions.to_vec());
            q.push(&format!(" AND l.subscription_meter_id = ANY({place})"));
        }
        None => question.bound.push_reach(&mut q, "l"),
    }
    let most = q.bind(LOGGED_MAX + 1);
    let (group, at) = (group(&mut q), point(&mut q, question));
    q.push(&format!(
        " LIMIT {most})\nSELECT {at} AS at, {group} AS grp, width_bucket(r.latency_us, {}) + 1 AS bucket, count(*) AS count, \
         (SELECT count(*) FROM logged) AS seen FROM logged r WHERE true",
        bounds()
    ));
    question.bound.push_fine_conditions(&mut q);
    q.push(" GROUP BY 1, 2, 3");
    let mut found = Histograms::new();
    for row in q.rows(tx).await? {
        if row.try_get::<_, i64>("seen")? > LOGGED_MAX {
            return Ok(Histograms::new());
        }
        let histogram = found.entry((row.try_get("at")?, row.try_get("grp")?)).or_insert_with(|| vec![0; BUCKETS]);
        let place = usize::try_from(row.try_get::<_, i32>("bucket")? - 1).unwrap_or(0);
        if let Some(bucket) = histogram.get_mut(place) {
            *bucket += row.try_get::<_, i64>("count")?;
        }
    }
    Ok(found)
}

/// The point of the window that a row belongs to.
fn point(q: &mut Composed, question: &Question<'_>) -> String {
    match question.window.step.fixed() {
        Some(step) => {
            format!("date_bin('{} seconds', r.occurred_at, timestamptz '2000-01-01 00:00:00+00')", step.as_secs())
        }
        None => {
            let zone = q.bind(question.window.zone.name.clone());
            format!("date_trunc('day', r.occurred_at, {zone}::text)")
        }
    }
}

/// Where buckets begin, but for the first: as the SQL function `latency_bucket` has them.
fn bounds() -> String {
    let begins = (0..BUCKETS - 1).map(|bucket| ((250_i64 << bucket) + 1).to_string());
    format!("ARRAY[{}]::bigint[]", begins.collect::<Vec<_>>().join(", "))
}
