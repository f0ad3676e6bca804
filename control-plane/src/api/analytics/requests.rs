//! The request log: single requests, newest first, as pages or as one CSV that is read from Postgres page by page while it
//! is sent. A client that reads slowly holds no connection of the database.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ask::{self, Format, Status, StatusClassText};
use super::csv::{self, Line};
use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::analytics::{Filter, Scope, Side};
use crate::domain::fault::Faults;
use crate::domain::verdict::Verdict;
use crate::store::analytics::{LogAfter, LogFilter, LogRow, list_requests};
use crate::store::{After, Store, StoreError};

/// Rows that an export reads at once.
const EXPORT_PAGE_ROWS: i64 = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RequestsQuery {
    /// `consumer` (what the organization calls) when left out. Not for the whole platform.
    #[param(inline)]
    side: Option<Side>,
    /// Rows on the page.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// A day before `to` when left out; with `request_id`, as far as the log reaches.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Now when left out.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    product_id: Option<Uuid>,
    endpoint_id: Option<Uuid>,
    plan_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
    /// For the consumer.
    key_id: Option<Uuid>,
    #[param(value_type = Option<i32>, minimum = 100, maximum = 599)]
    status: Option<Status>,
    /// As in `5xx`.
    #[param(value_type = Option<String>)]
    status_class: Option<StatusClassText>,
    verdict: Option<Verdict>,
    /// As in the `X-Request-ID` of the answer.
    request_id: Option<Uuid>,
    /// `json` when left out. `csv` is the whole time, not a page: `limit` and `cursor` do not count.
    #[param(inline)]
    format: Option<Format>,
}

/// One request.
#[derive(Serialize, ToSchema)]
pub(super) struct RequestView {
    /// When its answer had ended.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    request_id: Uuid,
    /// The gateway.
    node_id: Uuid,
    product_id: Option<Uuid>,
    product: Option<String>,
    endpoint_id: Option<Uuid>,
    /// The endpoint's path pattern.
    endpoint: Option<String>,
    subscription_id: Option<Uuid>,
    /// The slug of the consumer's organization.
    consumer: Option<String>,
    plan_id: Option<Uuid>,
    plan: Option<String>,
    /// Never shown to publishers.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<Uuid>,
    /// Its first and last characters. Never shown to publishers.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    test_key: Option<bool>,
    method: String,
    #[schema(example = 200)]
    status: i16,
    verdict: Verdict,
    /// Who failed: `gateway`, `upstream` or `client`; null when nobody did.
    failed_by: Option<String>,
    request_bytes: i64,
    response_bytes: i64,
    /// Of the whole request, as the gateway saw it.
    latency_us: i64,
    /// The upstream's part; null when it was not contacted.
    upstream_latency_us: Option<i64>,
    billable: bool,
}

/// What is asked for, checked.
#[derive(Clone, Copy)]
struct Wanted {
    scope: Scope,
    filter: Filter,
    log: LogFilter,
}

impl Wanted {
    fn parse(state: &AppState, scope: Scope, query: &RequestsQuery, now: Timestamp) -> Result<Wanted, ApiError> {
        let mut faults = Faults::default();
        let filter = Filter {
            product: query.product_id,
            endpoint: query.endpoint_id,
            plan: query.plan_id,
            subscription: query.subscription_id,
            key: query.key_id,
            status_class: query.status_class.map(|class| class.0),
        };
        ask::check_keys(&mut faults, scope, filter, None);
        let kept = SignedDuration::from_hours(24 * (1 + i64::from(state.settings.retention.usage_log_days)));
        let earliest = query.request_id.and_then(|_| now.checked_sub(kept).ok());
        let range = ask::parse_range(&mut faults, query.from.or(earliest), query.to, now);
        let whole = range.map(|(from, to)| {
            let status = query.status.map(|status| status.0);
            let log = LogFilter { from, to, status, verdict: query.verdict, request_id: query.request_id };
            Wanted { scope, filter, log }
        });
        Ok(faults.finish(whole)?)
    }

    fn shows_keys(self) -> bool {
        !matches!(self.scope, Scope::Publisher(_))
    }
}

/// An organization's request log
///
/// Newest first. A publisher sees the requests to his products without keys, a consumer his own. It is kept for the days
/// that the operator has set.
#[utoipa::path(get, path = "/v1/organizations/{id}/analytics/requests", tag = "analytics",
    operation_id = "list_organization_requests",
    params(("id" = Uuid, Path, description = "The organization's id"), RequestsQuery),
    responses((status = 200, description = "A page; with `format=csv` all of it, one line each",
        content((Page<RequestView> = "application/json"), (String = "text/csv")))))]
pub(super) async fn of_organization(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<RequestsQuery>,
) -> Result<Response, ApiError> {
    let scope = ask::scope_of_organization(&state, &caller, id, query.side).await?;
    answer(&state, scope, &query).await
}

/// The platform's request log
///
/// For operators. Newest first.
#[utoipa::path(get, path = "/v1/analytics/requests", tag = "analytics", operation_id = "list_platform_requests",
    params(RequestsQuery),
    responses((status = 200, description = "A page; with `format=csv` all of it, one line each",
        content((Page<RequestView> = "application/json"), (String = "text/csv")))))]
pub(super) async fn of_platform(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<RequestsQuery>,
) -> Result<Response, ApiError> {
    let scope = ask::scope_of_platform(&caller, query.side)?;
    answer(&state, scope, &query).await
}

async fn answer(state: &AppState, scope: Scope, query: &RequestsQuery) -> Result<Response, ApiError> {
    let wanted = Wanted::parse(state, scope, query, Timestamp::now())?;
    if query.format == Some(Format::Csv) {
        return export(state, wanted).await;
    }
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let rows = read(&state.store, wanted, page.after(), page.rows()).await?;
    let key = |row: &LogRow| After { created_at: row.at, id: row.request_id };
    Ok(axum::Json(page.page(rows, key, |row| RequestView::of(row, wanted.shows_keys()))).into_response())
}

async fn read(store: &Store, wanted: Wanted, after: Option<LogAfter>, rows: i64) -> Result<Vec<LogRow>, StoreError> {
    let Wanted { scope, filter, log } = wanted;
    store.read("list_requests", |tx| Box::pin(list_requests(tx, scope, filter, log, after, rows))).await
}

/// The first rows are read before anything is answered, so that a fault there is still a problem. A later one breaks the
/// answer off, which every client notices.
async fn export(state: &AppState, wanted: Wanted) -> Result<Response, ApiError> {
    let first = read(&state.store, wanted, None, EXPORT_PAGE_ROWS).await?;
    Ok(csv::answer("requests.csv", Body::from_stream(lines(state.store.clone(), wanted, first))))
}

/// The pages of an export, as text.
fn lines(store: Store, wanted: Wanted, first: Vec<LogRow>) -> impl Stream<Item = Result<String, StoreError>> + Send {
    let head = RequestView::CSV_HEAD.to_owned();
    futures::stream::try_unfold(Some((store, first, head)), move |left| async move {
        let Some((store, rows, mut text)) = left else { return Ok(None) };
        let last = rows.last().map(|row| After { created_at: row.at, id: row.request_id });
        let is_last = i64::try_from(rows.len()).unwrap_or(i64::MAX) < EXPORT_PAGE_ROWS;
        for row in rows {
            RequestView::of(row, wanted.shows_keys()).write(&mut text);
        }
        if is_last {
            return Ok(Some((text, None)));
        }
        let next = read(&store, wanted, last, EXPORT_PAGE_ROWS).await?;
        Ok(Some((text, Some((store, next, String::new())))))
    })
}

impl RequestView {
    fn of(row: LogRow, shows_keys: bool) -> RequestView {
        let ((product_id, product), (endpoint_id, endpoint)) = (row.product.unzip(), row.endpoint.unzip());
        let ((plan_id, plan), (key_id, key)) = (row.plan.unzip(), row.key.filter(|_| shows_keys).unzip());
        RequestView {
            at: row.at,
            request_id: row.request_id,
            node_id: row.node_id,
            product_id,
            product,
            endpoint_id,
            endpoint,
            subscription_id: row.subscription_id,
            consumer: row.consumer,
            plan_id,
            plan,
            key_id,
            key,
            test_key: row.is_test,
            method: row.method,
            status: row.status,
            verdict: row.verdict,
            failed_by: row.failed_by,
            request_bytes: row.request_bytes,
            response_bytes: row.response_bytes,
            latency_us: row.latency_us,
            upstream_latency_us: row.upstream_latency_us,
            billable: row.billable,
        }
    }

    const CSV_HEAD: &str = "at,request_id,node_id,product_id,product,endpoint_id,endpoint,subscription_id,consumer,plan_id,plan,\
        key_id,key,test_key,method,status,verdict,failed_by,request_bytes,response_bytes,latency_us,upstream_latency_us,billable\r\n";

    fn write(&self, out: &mut String) {
        let mut line = Line::begin(out);
        line.number(self.at);
        line.number(self.request_id);
        line.number(self.node_id);
        let named = [
            (self.product_id, self.product.as_deref()),
            (self.endpoint_id, self.endpoint.as_deref()),
            (self.subscription_id, self.consumer.as_deref()),
            (self.plan_id, self.plan.as_deref()),
            (self.key_id, self.key.as_deref()),
        ];
        for (id, name) in named {
            line.optional(id);
            line.optional_text(name);
        }
        line.optional(self.test_key);
        line.text(&self.method);
        line.number(self.status);
        line.text(self.verdict.as_str());
        line.optional_text(self.failed_by.as_deref());
        line.number(self.request_bytes);
        line.number(self.response_bytes);
        line.number(self.latency_us);
        line.optional(self.upstream_latency_us);
        line.number(self.billable);
        line.end();
    }
}
