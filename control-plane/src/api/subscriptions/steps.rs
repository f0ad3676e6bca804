//! The steps of a subscription's life, each by whoever may take it: the publisher approves, rejects, suspends, resumes and
//! overrides; both sides cancel, and each takes its own cancellation back. All of them reach the gateways without a release.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{Cancellation, OverrideForm, Subscription, lock_in_period, period_now, read};
use crate::api::access::{self, Granted, Side, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{Json, OptionalJson, Path};
use crate::api::headers::{IfMatchHeader, PreferHeader};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::plan::RateAndBurst;
use crate::domain::subscription::{CancelWhen, Party, Step, SubscriptionStatus};
use crate::store::Transaction;
use crate::store::subscriptions::{self as rows, SubscriptionRow};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(approve_subscription))
        .routes(routes!(reject_subscription))
        .routes(routes!(suspend_subscription))
        .routes(routes!(resume_subscription))
        .routes(routes!(cancel_subscription))
        .routes(routes!(set_override, remove_override))
}

/// What is done to the row.
#[derive(Clone, Copy)]
enum Deed {
    Step(Step),
    /// At once.
    Cancel(Party),
    /// At the end of the period.
    CancelLater(Party),
    /// Takes one's own cancellation back.
    Keep(Party),
    Override(Option<OverrideForm>),
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/approve", tag = "subscriptions", params(("id" = Uuid, Path), PreferHeader),
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn approve_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = publisher(&state, &caller, id).await?;
    act(&state, granted, id, IfMatch::default(), prefer, Deed::Step(Step::Approve)).await
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/reject", tag = "subscriptions", params(("id" = Uuid, Path), PreferHeader),
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn reject_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = publisher(&state, &caller, id).await?;
    act(&state, granted, id, IfMatch::default(), prefer, Deed::Step(Step::Reject)).await
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/suspend", tag = "subscriptions", params(("id" = Uuid, Path), PreferHeader),
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn suspend_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = publisher(&state, &caller, id).await?;
    act(&state, granted, id, IfMatch::default(), prefer, Deed::Step(Step::Suspend)).await
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/resume", tag = "subscriptions", params(("id" = Uuid, Path), PreferHeader),
    description = "The publisher ends a suspension; each side takes its own cancellation back while it is still to come.",
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn resume_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let sides = &[Side::Consumer, Side::Publisher];
    let (granted, side) = access::to_subscription(&state, &caller, id, Role::Developer, sides).await?;
    let (status, canceller) = what_now(&state, granted, id).await?;
    if side == Side::Consumer && canceller == Some(Party::Consumer) {
        return act(&state, granted, id, IfMatch::default(), prefer, Deed::Keep(Party::Consumer)).await;
    }
    let granted = publisher(&state, &caller, id).await?;
    let keeps = canceller == Some(Party::Publisher) && status != SubscriptionStatus::Suspended;
    let deed = if keeps { Deed::Keep(Party::Publisher) } else { Deed::Step(Step::Resume) };
    act(&state, granted, id, IfMatch::default(), prefer, deed).await
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/cancel", tag = "subscriptions", request_body = Option<Cancellation>,
    params(("id" = Uuid, Path), PreferHeader),
    description = "At the end of the period unless it says now. What never began ends at once.",
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn cancel_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
    OptionalJson(form): OptionalJson<Cancellation>,
) -> Result<Response, ApiError> {
    let sides = &[Side::Consumer, Side::Publisher];
    let (granted, side) = access::to_subscription(&state, &caller, id, Role::Developer, sides).await?;
    let by = match side {
        Side::Consumer => Party::Consumer,
        Side::Publisher => Party::Publisher,
    };
    let deed = match form.when {
        Some(CancelWhen::Now) => Deed::Cancel(by),
        Some(CancelWhen::PeriodEnd) | None => Deed::CancelLater(by),
    };
    act(&state, granted, id, IfMatch::default(), prefer, deed).await
}

#[utoipa::path(put, path = "/v1/subscriptions/{id}/override", tag = "subscriptions", request_body = OverrideForm,
    params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn set_override(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(form): Json<OverrideForm>,
) -> Result<Response, ApiError> {
    let granted = publisher(&state, &caller, id).await?;
    act(&state, granted, id, if_match, prefer, Deed::Override(Some(form))).await
}

#[utoipa::path(delete, path = "/v1/subscriptions/{id}/override", tag = "subscriptions", params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn remove_override(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = publisher(&state, &caller, id).await?;
    act(&state, granted, id, if_match, prefer, Deed::Override(None)).await
}

/// The status, and whose cancellation is still to come.
async fn what_now(
    state: &AppState,
    granted: Granted,
    id: Uuid,
) -> Result<(SubscriptionStatus, Option<Party>), ApiError> {
    let organization = granted.organization;
    let row = state.store.read("find_subscription", |tx| Box::pin(rows::get(tx, organization, id))).await?;
    let row = row.ok_or_else(|| ApiError::not_found("subscription"))?;
    Ok((row.status, canceller(&row)))
}

/// Who wants it to end, while the end has not come yet. Before that was noted, only consumers could take it back.
fn canceller(row: &SubscriptionRow) -> Option<Party> {
    row.cancel_at.filter(|at| *at > row.billing_now).map(|_| row.cancelled_by.unwrap_or(Party::Consumer))
}

async fn publisher(state: &AppState, caller: &Caller, id: Uuid) -> Result<Granted, ApiError> {
    let (granted, _) = access::to_subscription(state, caller, id, Role::Developer, &[Side::Publisher]).await?;
    Ok(granted)
}

async fn act(
    state: &AppState,
    granted: Granted,
    id: Uuid,
    if_match: IfMatch,
    prefer: Prefer,
    deed: Deed,
) -> Result<Response, ApiError> {
    let (granted, if_match) = (&granted, &if_match);
    let written =
        state.store.run_tx("change_subscription", |tx| Box::pin(apply(tx, granted, id, if_match, deed))).await?;
    finish(state, prefer, written).await
}

async fn apply(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    if_match: &IfMatch,
    deed: Deed,
) -> Result<Written, ApiError> {
    let row = lock_in_period(tx, granted, id, if_match).await?;
    perform(tx, &row, deed).await?;
    let before = Subscription::from(row);
    let after = read(tx, granted, id).await?;
    let action = format!("subscription.{}", deed.as_str());
    granted.log(tx, &action, ("subscription", id), seen(&before)?, seen(&after)?).await?;
    let change = changes::record(tx, EntityKind::Subscription, id).await?;
    Ok(Written::ok(&after)?.version(after.version).change(change))
}

async fn perform(tx: &Transaction<'_>, row: &SubscriptionRow, deed: Deed) -> Result<(), ApiError> {
    match deed {
        Deed::Step(step) => take(tx, row, step).await,
        Deed::Cancel(by) => {
            allowed(row, Step::Cancel)?;
            Ok(rows::cancel_now(tx, row.id, by).await?)
        }
        Deed::CancelLater(by) => cancel_later(tx, row, by).await,
        Deed::Keep(by) => {
            allowed(row, Step::Cancel)?;
            if canceller(row) != Some(by) {
                let detail = "There is no cancellation of yours that could be taken back.";
                return Err(ApiError::new(Code::InvalidState, detail));
            }
            Ok(rows::keep(tx, row.id).await?)
        }
        Deed::Override(form) => {
            allowed(row, Step::Cancel)?;
            let rate = match form {
                Some(form) => Some(parse_override(tx, row, form).await?),
                None => None,
            };
            Ok(rows::set_override(tx, row.id, rate).await?)
        }
    }
}

async fn cancel_later(tx: &Transaction<'_>, row: &SubscriptionRow, by: Party) -> Result<(), ApiError> {
    allowed(row, Step::Cancel)?;
    // What never began has no end to wait for.
    match row.period_end {
        Some(_) => Ok(rows::cancel_at_period_end(tx, row.id, by).await?),
        None => Ok(rows::cancel_now(tx, row.id, by).await?),
    }
}

async fn take(tx: &Transaction<'_>, row: &SubscriptionRow, step: Step) -> Result<(), ApiError> {
    allowed(row, step)?;
    match step {
        Step::Approve => {
            let period = period_now(tx, row.publisher_organization_id).await?;
            Ok(rows::activate(tx, row.id, &period).await?)
        }
        Step::Resume => Ok(rows::resume(tx, row.id).await?),
        // A cancellation says whose it is, so it comes as a deed of its own; here it could only be the publisher's.
        Step::Reject | Step::Cancel => Ok(rows::cancel_now(tx, row.id, Party::Publisher).await?),
        Step::Suspend => Ok(rows::suspend(tx, row.id).await?),
    }
}

/// An override counts as the plan does: a window has no burst of its own.
async fn parse_override(
    tx: &Transaction<'_>,
    row: &SubscriptionRow,
    form: OverrideForm,
) -> Result<RateAndBurst, ApiError> {
    let algorithm = rows::algorithm(tx, row.id).await?;
    let at = ["/requests_per_minute", "/burst_limit"];
    Ok(RateAndBurst::parse(form.requests_per_minute, form.burst_limit, algorithm, at)?)
}

pub(super) fn allowed(row: &SubscriptionRow, step: Step) -> Result<(), ApiError> {
    if row.end_has_come() {
        return Err(ApiError::new(Code::InvalidState, "The subscription has ended."));
    }
    if step.allowed_from(row.status) {
        return Ok(());
    }
    let detail = format!("A {} subscription cannot take this step ({}).", row.status.as_str(), step.as_str());
    Err(ApiError::new(Code::InvalidState, detail))
}

impl Deed {
    /// The word of the audit log.
    fn as_str(self) -> &'static str {
        match self {
            Deed::Step(step) => step.as_str(),
            Deed::Cancel(_) => Step::Cancel.as_str(),
            Deed::CancelLater(_) => "cancel_later",
            Deed::Keep(_) => "keep",
            Deed::Override(Some(_)) => "set_override",
            Deed::Override(None) => "remove_override",
        }
    }
}
