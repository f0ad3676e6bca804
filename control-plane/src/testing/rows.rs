//! Rows that only time or traffic would bring about: usage in the billing record, months that are over.

use uuid::Uuid;

use super::App;
use crate::api::fixture::Shop;

/// Billable requests in the billing record: `count` more in the quarter of an hour that `at` (SQL) lies in, under the plan.
pub(crate) async fn use_api(app: &App, subscription: Uuid, plan: Uuid, at: &str, count: i64) {
    let sql = format!(
        "INSERT INTO usage_quarter_hours AS u (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id,
            status_class, product_meter_id, request_count, admitted_count, failed_count, limited_count, billable_count, request_bytes,
            response_bytes, latency_us_sum, upstream_latency_us_sum)
         SELECT s.meter_id, date_bin('15 minutes', {at}, timestamptz '2000-01-01 00:00:00+00'),
            coalesce((SELECT min(k.meter_id) FROM api_keys k WHERE k.subscription_id = s.id), 0), l.meter_id, 1, 2, p.meter_id,
            {count}, {count}, 0, 0, {count}, 0, 0, 0, 0
         FROM subscriptions s JOIN api_products p ON p.id = s.product_id, plans l WHERE s.id = '{subscription}' AND l.id = '{plan}'
         ON CONFLICT (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
         DO UPDATE SET request_count = u.request_count + excluded.request_count, admitted_count = u.admitted_count + excluded.admitted_count,
            billable_count = u.billable_count + excluded.billable_count"
    );
    run_sql(app, &sql).await;
}

/// Statements for a state that only time would bring about.
pub(crate) async fn run_sql(app: &App, sql: &str) {
    app.state.store.connection().await.unwrap().batch_execute(sql).await.unwrap();
}

/// A time zone in which no month has begun within the last hours.
pub(crate) fn calm_zone() -> &'static str {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    if now.day() == 1 && now.hour() < 12 { "Pacific/Honolulu" } else { "UTC" }
}

/// The shop with its publisher's month cut in a calm zone, and its subscription as if it had begun with the month before.
pub(crate) async fn since_last_month(app: &App, shop: &Shop) {
    let (publisher, zone) = (shop.publisher_organization, calm_zone());
    run_sql(
        app,
        &format!(
            "DELETE FROM billing_months WHERE organization_id = '{publisher}';
             UPDATE organizations SET time_zone = '{zone}' WHERE id = '{publisher}';
             INSERT INTO billing_months (organization_id, month, starts_at, ends_at, time_zone, usage_from, usage_until)
             SELECT '{publisher}', m::date, m AT TIME ZONE '{zone}', (m + interval '1 month') AT TIME ZONE '{zone}', '{zone}',
                m AT TIME ZONE '{zone}', (m + interval '1 month') AT TIME ZONE '{zone}'
             FROM (SELECT date_trunc('month', now() AT TIME ZONE '{zone}') - interval '1 month' AS m) AS last;
             UPDATE subscription_terms SET starts_at = (SELECT starts_at FROM billing_months WHERE organization_id = '{publisher}');
             UPDATE subscriptions SET activated_at = (SELECT starts_at FROM billing_months WHERE organization_id = '{publisher}')"
        ),
    )
    .await;
}
