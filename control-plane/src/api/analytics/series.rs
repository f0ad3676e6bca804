//! Series: sums by time, and by what they are grouped by, with every step there, also those without a request.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ask::{self, Format, StatusClassText};
use super::csv::{self, Line};
use super::view::{GroupView, NumbersView, PointView, names_of};
use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::analytics::sums::Sums;
use crate::domain::analytics::{Filter, GroupBy, Scope, Side, Step, Window};
use crate::domain::fault::{Faults, Flaw};
use crate::store::StoreError;
use crate::store::analytics::{Cell, SeriesAsk, list_cells};

/// Groups that may stand for themselves.
const GROUPS_MAX: u32 = 20;
const GROUPS_DEFAULT: u32 = 5;
/// Points of an answer: steps times groups.
const POINTS_MAX: usize = 10_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SeriesQuery {
    /// `consumer` (what the organization calls) when left out. Not for the whole platform.
    #[param(inline)]
    side: Option<Side>,
    /// A day before `to` when left out. Rounded down to the step.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Now when left out. Rounded up to the step.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Chosen by the length of the time when left out. At most 1,500 steps.
    step: Option<Step>,
    /// In which days begin, as in `Europe/Berlin`; UTC when left out.
    time_zone: Option<String>,
    /// One series for each of the largest, and one for the rest. `key` is for the consumer.
    group_by: Option<GroupBy>,
    /// How many stand for themselves.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 20, default = 5)]
    groups: Groups,
    product_id: Option<Uuid>,
    endpoint_id: Option<Uuid>,
    plan_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
    key_id: Option<Uuid>,
    /// As in `5xx`.
    #[param(value_type = Option<String>)]
    status_class: Option<StatusClassText>,
    /// `json` when left out.
    #[param(inline)]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug)]
struct Groups(u32);

impl Default for Groups {
    fn default() -> Groups {
        Groups(GROUPS_DEFAULT)
    }
}

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Groups, D::Error> {
        let groups = u32::deserialize(deserializer)?;
        if (1..=GROUPS_MAX).contains(&groups) {
            return Ok(Groups(groups));
        }
        Err(serde::de::Error::custom(format!("invalid value, expected a whole number from 1 to {GROUPS_MAX}")))
    }
}

/// A chart.
#[derive(Serialize, ToSchema)]
pub(super) struct SeriesAnswer {
    /// As asked, in whole steps.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    step: Step,
    time_zone: String,
    group_by: Option<GroupBy>,
    /// The largest first, the rest last; without `group_by` a single one.
    series: Vec<SeriesView>,
}

#[derive(Serialize, ToSchema)]
struct SeriesView {
    /// Null when nothing is grouped.
    group: Option<GroupView>,
    total: NumbersView,
    points: Vec<PointView>,
}

/// What is asked for, checked.
struct Wanted {
    scope: Scope,
    filter: Filter,
    window: Window,
    group: Option<GroupBy>,
    groups: u32,
    now: Timestamp,
}

impl Wanted {
    fn parse(state: &AppState, scope: Scope, query: &SeriesQuery, now: Timestamp) -> Result<Wanted, ApiError> {
        let mut faults = Faults::default();
        let filter = Filter {
            product: query.product_id,
            endpoint: query.endpoint_id,
            plan: query.plan_id,
            subscription: query.subscription_id,
            key: query.key_id,
            status_class: query.status_class.map(|class| class.0),
        };
        ask::check_keys(&mut faults, scope, filter, query.group_by);
        let zone = ask::parse_zone(&mut faults, query.time_zone.as_deref());
        let range = ask::parse_range(&mut faults, query.from, query.to, now);
        let window = range
            .zip(zone)
            .and_then(|(range, zone)| ask::parse_window(&mut faults, state, range, query.step, zone, now));
        let groups = query.groups.0;
        let series = usize::try_from(query.group_by.map_or(1, |_| groups + 1)).unwrap_or(usize::MAX);
        if let Some(points) = window.as_ref().map(|window| window.at.len().saturating_mul(series)) {
            faults.check("/groups", points <= POINTS_MAX, || {
                let flaw = Flaw::new(format!("makes {points} points, more than {POINTS_MAX}"));
                flaw.mend("ask for fewer groups, a longer step or less time")
            });
        }
        let group = query.group_by;
        let whole = window.map(|window| Wanted { scope, filter, window, group, groups, now });
        Ok(faults.finish(whole)?)
    }

    fn ask(&self) -> SeriesAsk<'_> {
        SeriesAsk {
            scope: self.scope,
            filter: self.filter,
            window: &self.window,
            group: self.group,
            groups: i64::from(self.groups),
            fresh_from: ask::fresh_from(self.now),
        }
    }
}

/// An organization's usage over time
///
/// Requests, errors, refusals, latencies and bytes by step, for publishers of what is called of their products (without
/// keys), for consumers of what they call. Minutes and quarters of an hour are at most seconds old; the running day may lag
/// some 15 s.
#[utoipa::path(get, path = "/v1/organizations/{id}/analytics/series", tag = "analytics",
    operation_id = "get_organization_series", params(("id" = Uuid, Path, description = "The organization's id"), SeriesQuery),
    responses((status = 200, description = "A chart; with `format=csv` one line for each point",
        content((SeriesAnswer = "application/json"), (String = "text/csv")))))]
pub(super) async fn of_organization(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<SeriesQuery>,
) -> Result<Response, ApiError> {
    let scope = ask::scope_of_organization(&state, &caller, id, query.side).await?;
    answer(&state, scope, &query).await
}

/// The platform's usage over time
///
/// For operators.
#[utoipa::path(get, path = "/v1/analytics/series", tag = "analytics", operation_id = "get_platform_series",
    params(SeriesQuery),
    responses((status = 200, description = "A chart; with `format=csv` one line for each point",
        content((SeriesAnswer = "application/json"), (String = "text/csv")))))]
pub(super) async fn of_platform(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<SeriesQuery>,
) -> Result<Response, ApiError> {
    let scope = ask::scope_of_platform(&caller, query.side)?;
    answer(&state, scope, &query).await
}

async fn answer(state: &AppState, scope: Scope, query: &SeriesQuery) -> Result<Response, ApiError> {
    let wanted = Wanted::parse(state, scope, query, Timestamp::now())?;
    let ask = &wanted.ask();
    let cells = state.store.read("list_series", |tx| Box::pin(list_cells(tx, ask)));
    let cells = cells.await.map_err(|error| blame_zone(error, query))?;
    let chart = show(state, wanted, cells).await?;
    Ok(match query.format {
        Some(Format::Csv) => csv::answer("usage.csv", to_csv(&chart).into()),
        Some(Format::Json) | None => axum::Json(chart).into_response(),
    })
}

/// This machine knows a zone that Postgres does not.
fn blame_zone(error: StoreError, query: &SeriesQuery) -> ApiError {
    match error {
        StoreError::BadValue(_) if query.time_zone.is_some() => {
            ApiError::field("/time_zone", crate::domain::accounts::TimeZoneName::unknown())
        }
        other => ApiError::from(other),
    }
}

async fn show(state: &AppState, wanted: Wanted, cells: Vec<Cell>) -> Result<SeriesAnswer, ApiError> {
    let mut by_group: HashMap<Option<i64>, BTreeMap<Timestamp, Sums>> = HashMap::new();
    for cell in cells {
        by_group.entry(cell.group).or_default().entry(cell.at).or_default().add(&cell.sums);
    }
    if wanted.group.is_none() {
        // A chart of nothing is still a chart.
        by_group.entry(None).or_default();
    }
    let names = match wanted.group {
        Some(group) => names_of(state, group, by_group.keys().filter_map(|group| *group).collect()).await?,
        None => HashMap::new(),
    };
    let mut series: Vec<(Option<i64>, Sums, SeriesView)> = Vec::with_capacity(by_group.len());
    for (meter_id, sums) in by_group {
        let total = sums.values().fold(Sums::default(), |mut total, sums| {
            total.add(sums);
            total
        });
        let point = |at: &Timestamp| match sums.get(at) {
            Some(sums) => PointView { at: *at, numbers: NumbersView::of(sums) },
            None => PointView { at: *at, numbers: NumbersView::of(&Sums::default()) },
        };
        let points = wanted.window.at.iter().map(point).collect();
        let group = wanted.group.map(|group| GroupView::of(group, meter_id, &names));
        let view = SeriesView { group, total: NumbersView::of(&total), points };
        series.push((meter_id, total, view));
    }
    series.sort_by_key(|(meter_id, total, _)| (meter_id.is_none(), std::cmp::Reverse(total.requests), *meter_id));
    let Window { from, to, step, zone, .. } = wanted.window;
    let series = series.into_iter().map(|(_, _, view)| view).collect();
    Ok(SeriesAnswer { from, to, step, time_zone: zone.name, group_by: wanted.group, series })
}

fn to_csv(chart: &SeriesAnswer) -> String {
    let mut out = format!("at,group_id,group,{}\r\n", NumbersView::CSV_HEAD);
    for series in &chart.series {
        for point in &series.points {
            let mut line = Line::begin(&mut out);
            line.number(point.at);
            line.optional(series.group.as_ref().and_then(|group| group.id));
            line.optional_text(series.group.as_ref().map(|group| group.label.as_str()));
            point.numbers.write(&mut line);
            line.end();
        }
    }
    out
}
