//! Subscriptions: requested by a consumer's organization, seen by both sides. The steps of its life stand in `steps`. Refuses
//! to show a publisher any key.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, Side, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{DigestedJson, Path, Query};
use crate::api::headers::{IdempotencyHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::products::with_etag;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::period::BillingPeriod;
use crate::domain::plan::PlanStatus;
use crate::domain::product::{Approval, ProductStatus};
use crate::domain::subscription::SubscriptionStatus;
use crate::domain::text::{NOTE_CHARS_MAX, Prose};
use crate::housekeeping;
use crate::store::catalog::Offer;
use crate::store::subscriptions::{self as rows, SubscriptionFilter, SubscriptionRow};
use crate::store::{After, StoreError, Transaction, billing_months, catalog};

mod body;
mod plan_change;
mod plan_preview;
mod steps;

#[cfg(test)]
mod tests;

pub use plan_preview::{PlanPreview, PlanPreviewQuery};

pub use body::{Cancellation, NewSubscription, OverrideForm, PlanChange, RateOverride, Subscription};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(request_subscription, list_subscriptions))
        .routes(routes!(list_product_subscriptions))
        .routes(routes!(show_subscription))
        .merge(steps::routes())
        .merge(plan_change::routes())
        .merge(plan_preview::routes())
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubscriptionsQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    status: Option<SubscriptionStatus>,
    #[serde(default)]
    plan_id: Option<Uuid>,
    /// In the consumer's list.
    #[serde(default)]
    product_id: Option<Uuid>,
}

#[utoipa::path(post, path = "/v1/organizations/{id}/subscriptions", tag = "subscriptions", request_body = NewSubscription,
    params(("id" = Uuid, Path, description = "The consumer's organization"), IdempotencyHeader, PreferHeader),
    description = "Begins at once, or waits for the publisher where he approves by hand.",
    responses((status = 201, body = Subscription), (status = 202, body = Subscription)))]
async fn request_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    new: DigestedJson<NewSubscription>,
) -> Result<Response, ApiError> {
    let granted = access::to_organization(&state, &caller, organization, Role::Developer).await?;
    let once = key.claim(&caller, new.digest);
    let note = Prose::parse(&new.body.note, NOTE_CHARS_MAX).map_err(|flaw| ApiError::field("/note", flaw))?;
    let plan = new.body.plan_id;
    let (once, granted, note) = (&once, &granted, &note);
    let written =
        state.store.run_tx("request_subscription", |tx| Box::pin(request(tx, granted, once, plan, note))).await?;
    finish(&state, prefer, written).await
}

async fn request(
    tx: &Transaction<'_>,
    granted: &Granted,
    once: &Once,
    plan: Uuid,
    note: &Prose,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    let offer = catalog::offer(tx, granted.user, plan).await?.ok_or_else(|| ApiError::not_found("plan"))?;
    still_sold(&offer)?;
    if let Some(ended) = rows::end_elapsed(tx, granted.organization, offer.product_id).await? {
        granted.log(tx, "subscription.end", ("subscription", ended), None, None).await?;
        changes::record(tx, EntityKind::Subscription, ended).await?;
    }
    let period = match offer.approval {
        Approval::Auto => Some(period_now(tx, offer.publisher).await?),
        Approval::Manual => None,
    };
    let id = Uuid::now_v7();
    let new = rows::NewSubscription {
        id,
        product: offer.product_id,
        plan,
        user: granted.user,
        organization: granted.organization,
        period,
        note: note.as_str(),
    };
    rows::insert(tx, &new).await.map_err(subscribed_already)?;
    let subscription = read(tx, granted, id).await?;
    granted.log(tx, "subscription.create", ("subscription", id), None, seen(&subscription)?).await?;
    let change = changes::record(tx, EntityKind::Subscription, id).await?;
    let written = Written::created(format!("/v1/subscriptions/{id}"), &subscription)?
        .version(subscription.version)
        .change(change);
    once.record(tx, &written).await?;
    Ok(written)
}

fn still_sold(offer: &Offer) -> Result<(), ApiError> {
    if offer.product_status != ProductStatus::Published {
        return Err(ApiError::new(Code::InvalidState, "The product is deprecated: it takes no new subscriptions."));
    }
    match offer.plan_status {
        PlanStatus::Active => Ok(()),
        PlanStatus::Draft => Err(ApiError::not_found("plan")),
        PlanStatus::Archived => Err(ApiError::new(
            Code::InvalidState,
            "The plan is archived: it is not sold any more. Choose an active one.",
        )),
    }
}

/// The publisher's month that runs now.
async fn period_now(tx: &Transaction<'_>, publisher: Uuid) -> Result<BillingPeriod, ApiError> {
    Ok(billing_months::current(tx, publisher).await?.period())
}

/// The subscription, locked, as it is in the period that runs: where the month has just ended, nobody may have moved it yet.
async fn lock_in_period(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    if_match: &IfMatch,
) -> Result<SubscriptionRow, ApiError> {
    let find =
        || async { rows::lock(tx, granted.organization, id).await?.ok_or_else(|| ApiError::not_found("subscription")) };
    let row = find().await?;
    if_match.check(row.version)?;
    let Some(ended) = row.ended_period() else { return Ok(row) };
    housekeeping::advance(tx, &ended).await?;
    find().await
}

#[utoipa::path(get, path = "/v1/organizations/{id}/subscriptions", tag = "subscriptions",
    params(("id" = Uuid, Path, description = "The consumer's organization"), SubscriptionsQuery),
    responses((status = 200, body = Page<Subscription>)))]
async fn list_subscriptions(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    Query(query): Query<SubscriptionsQuery>,
) -> Result<axum::Json<Page<Subscription>>, ApiError> {
    access::to_organization(&state, &caller, organization, Role::Viewer).await?;
    list(&state, rows::Side::Consumer { organization }, query).await
}

#[utoipa::path(get, path = "/v1/products/{id}/subscriptions", tag = "subscriptions",
    params(("id" = Uuid, Path, description = "The publisher's product"), SubscriptionsQuery),
    responses((status = 200, body = Page<Subscription>)))]
async fn list_product_subscriptions(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
    Query(query): Query<SubscriptionsQuery>,
) -> Result<axum::Json<Page<Subscription>>, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Viewer).await?;
    list(&state, rows::Side::Publisher { organization: granted.organization, product }, query).await
}

async fn list(
    state: &AppState,
    side: rows::Side,
    query: SubscriptionsQuery,
) -> Result<axum::Json<Page<Subscription>>, ApiError> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = SubscriptionFilter { status: query.status, plan: query.plan_id, product: query.product_id };
    let (after, limit) = (page.after(), page.rows());
    let found =
        state.store.read("list_subscriptions", |tx| Box::pin(rows::list(tx, side, filter, after, limit))).await?;
    let place = |row: &SubscriptionRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(found, place, Subscription::from)))
}

#[utoipa::path(get, path = "/v1/subscriptions/{id}", tag = "subscriptions", params(("id" = Uuid, Path)),
    responses((status = 200, body = Subscription)))]
async fn show_subscription(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let sides = &[Side::Consumer, Side::Publisher];
    let (granted, _) = access::to_subscription(&state, &caller, id, Role::Viewer, sides).await?;
    let row = state
        .store
        .read("show_subscription", |tx| Box::pin(rows::get(tx, granted.organization, id)))
        .await?
        .ok_or_else(|| ApiError::not_found("subscription"))?;
    Ok((with_etag(row.version), axum::Json(Subscription::from(row))).into_response())
}

async fn read(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<Subscription, ApiError> {
    let row = rows::get(tx, granted.organization, id).await?;
    row.map(Subscription::from).ok_or_else(|| ApiError::not_found("subscription"))
}

fn subscribed_already(error: StoreError) -> ApiError {
    if error.is_conflict_on("subscriptions_live_key") {
        return ApiError::new(Code::AlreadyExists, "The organization has a subscription to this product already.");
    }
    error.into()
}
