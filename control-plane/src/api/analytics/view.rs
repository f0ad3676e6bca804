//! How sums and groups are shown, in JSON and in CSV alike.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::analytics::GroupBy;
use crate::domain::analytics::sums::Sums;
use crate::store::analytics::{Name, name_groups};

use super::csv::Line;

/// What was counted. Percentiles are null where more than 50,000 logged requests of a single subscription or consumer would have to
/// be read; by product, endpoint, plan and status class they are always there.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct NumbersView {
    requests: i64,
    admitted: i64,
    /// Admitted, and answered by an error of the gateway's own making; the quota is credited.
    failed: i64,
    /// 429: too fast, or the quota used up.
    rate_limited: i64,
    /// 402 of the gateway: unpaid.
    payment_required: i64,
    /// 403 of the gateway.
    forbidden: i64,
    billable: i64,
    /// Status 400 to 499.
    client_errors: i64,
    /// Status 500 to 599.
    errors: i64,
    /// `errors` by `requests`; null without requests.
    error_ratio: Option<f64>,
    request_bytes: i64,
    response_bytes: i64,
    latency_mean_ms: Option<f64>,
    latency_p50_ms: Option<f64>,
    latency_p90_ms: Option<f64>,
    latency_p95_ms: Option<f64>,
    latency_p99_ms: Option<f64>,
    upstream_latency_mean_ms: Option<f64>,
}

impl NumbersView {
    pub(super) fn of(sums: &Sums) -> NumbersView {
        NumbersView {
            requests: sums.requests,
            admitted: sums.admitted,
            failed: sums.failed,
            rate_limited: sums.rate_limited,
            payment_required: sums.payment_required,
            forbidden: sums.forbidden(),
            billable: sums.billable,
            client_errors: sums.client_errors,
            errors: sums.errors,
            error_ratio: sums.error_ratio(),
            request_bytes: sums.request_bytes,
            response_bytes: sums.response_bytes,
            latency_mean_ms: sums.latency_mean_ms(),
            latency_p50_ms: sums.latency_percentile_ms(0.50),
            latency_p90_ms: sums.latency_percentile_ms(0.90),
            latency_p95_ms: sums.latency_percentile_ms(0.95),
            latency_p99_ms: sums.latency_percentile_ms(0.99),
            upstream_latency_mean_ms: sums.upstream_latency_mean_ms(),
        }
    }

    pub(super) const CSV_HEAD: &str = "requests,admitted,failed,rate_limited,payment_required,forbidden,billable,client_errors,errors,error_ratio,\
        request_bytes,response_bytes,latency_mean_ms,latency_p50_ms,latency_p90_ms,latency_p95_ms,latency_p99_ms,\
        upstream_latency_mean_ms";

    pub(super) fn write(&self, line: &mut Line<'_>) {
        for number in [
            self.requests,
            self.admitted,
            self.failed,
            self.rate_limited,
            self.payment_required,
            self.forbidden,
            self.billable,
            self.client_errors,
            self.errors,
        ] {
            line.number(number);
        }
        line.optional(self.error_ratio);
        line.number(self.request_bytes);
        line.number(self.response_bytes);
        for latency in [
            self.latency_mean_ms,
            self.latency_p50_ms,
            self.latency_p90_ms,
            self.latency_p95_ms,
            self.latency_p99_ms,
            self.upstream_latency_mean_ms,
        ] {
            line.optional(latency);
        }
    }
}

/// What a series or row stands for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct GroupView {
    /// Null for status classes, for the rest, and for things that are not there any more.
    pub(super) id: Option<Uuid>,
    /// For people.
    pub(super) label: String,
    /// Everything beyond the groups that stand for themselves.
    pub(super) is_rest: bool,
}

impl GroupView {
    pub(super) fn of(group: GroupBy, meter_id: Option<i64>, names: &HashMap<i64, Name>) -> GroupView {
        let Some(meter_id) = meter_id else {
            return GroupView { id: None, label: "rest".to_owned(), is_rest: true };
        };
        if group == GroupBy::StatusClass {
            return GroupView { id: None, label: format!("{meter_id}xx"), is_rest: false };
        }
        match names.get(&meter_id) {
            Some(name) => GroupView { id: Some(name.id), label: name.label.clone(), is_rest: false },
            None => GroupView { id: None, label: "(unknown)".to_owned(), is_rest: false },
        }
    }
}

pub(super) async fn names_of(
    state: &AppState,
    group: GroupBy,
    meter_ids: Vec<i64>,
) -> Result<HashMap<i64, Name>, ApiError> {
    let meter_ids = &meter_ids;
    let asked = state.store.read("name_groups", |tx| Box::pin(name_groups(tx, group, meter_ids)));
    asked.await.map_err(ApiError::from)
}

/// A point of a series.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PointView {
    /// When the step begins.
    #[schema(value_type = String, format = DateTime)]
    pub(super) at: Timestamp,
    #[serde(flatten)]
    pub(super) numbers: NumbersView,
}
