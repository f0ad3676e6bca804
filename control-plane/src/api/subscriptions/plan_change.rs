//! Another plan for a subscription: a dearer one at once, a cheaper one at the end of the period, so that nobody loses what he has
//! paid for. Refuses plans that are not sold, plans of another product, and another currency.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::steps::allowed;
use super::{PlanChange, Subscription, lock_in_period, read};
use crate::api::access::{self, Granted, Side, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{Json, Path};
use crate::api::headers::{IfMatchHeader, PreferHeader};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::fault::Flaw;
use crate::domain::plan::PlanStatus;
pub(super) use crate::domain::subscription::PlanEffect as Effect;
use crate::domain::subscription::{Step, SubscriptionStatus};
use crate::store::billing_events::{self, NewEvent};
use crate::store::plans::{self, PlanRow};
use crate::store::ratings::Pair;
use crate::store::subscriptions::{self as rows, SubscriptionRow};
use crate::store::{Transaction, catalog};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(change_plan))
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/plan", tag = "subscriptions", request_body = PlanChange,
    params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    description = "A plan that costs as much or more takes effect at once, a cheaper one at the end of the period (`next_plan_id`); \
        naming the plan that is held takes a waiting change back.",
    responses((status = 200, body = Subscription), (status = 202, body = Subscription)))]
async fn change_plan(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(wanted): Json<PlanChange>,
) -> Result<Response, ApiError> {
    let (granted, _) = access::to_subscription(&state, &caller, id, Role::Developer, &[Side::Consumer]).await?;
    let (granted, if_match) = (&granted, &if_match);
    let written =
        state.store.run_tx("change_plan", |tx| Box::pin(change(tx, granted, id, if_match, wanted.plan_id))).await?;
    finish(&state, prefer, written).await
}

async fn change(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    if_match: &IfMatch,
    plan: Uuid,
) -> Result<Written, ApiError> {
    let row = lock_in_period(tx, granted, id, if_match).await?;
    may_change(&row)?;
    let before = Subscription::from(row.clone());
    let (effect, _) = effect_of(tx, granted, &row, plan).await?;
    let action = match effect {
        Effect::None => {
            rows::plan_next(tx, id, None).await?;
            "subscription.keep_plan"
        }
        Effect::Now => {
            rows::change_plan(tx, id, plan).await?;
            rows::drop_unsuited_override(tx, id).await?;
            "subscription.change_plan"
        }
        Effect::PeriodEnd => {
            rows::plan_next(tx, id, Some(plan)).await?;
            "subscription.plan_next"
        }
    };
    let after = read(tx, granted, id).await?;
    tell(tx, &row, plan, effect, after.version).await?;
    granted.log(tx, action, ("subscription", id), seen(&before)?, seen(&after)?).await?;
    // A plan that is sold no more is in the snapshot as long as somebody holds it.
    changes::record(tx, EntityKind::Plan, row.plan_id).await?;
    changes::record(tx, EntityKind::Plan, plan).await?;
    let change = changes::record(tx, EntityKind::Subscription, id).await?;
    Ok(Written::ok(&after)?.version(after.version).change(change))
}

/// When a change to `plan` takes effect, and that plan. Errors: it is not to be had.
pub(super) async fn effect_of(
    tx: &Transaction<'_>,
    granted: &Granted,
    row: &SubscriptionRow,
    plan: Uuid,
) -> Result<(Effect, PlanRow), ApiError> {
    let held = held_plan(tx, row, row.plan_id).await?;
    if plan == row.plan_id {
        return Ok((Effect::None, held));
    }
    let next = sold_plan(tx, granted, row, plan, &held).await?;
    let effect = if next.price >= held.price { Effect::Now } else { Effect::PeriodEnd };
    Ok((effect, next))
}

fn may_change(row: &SubscriptionRow) -> Result<(), ApiError> {
    allowed(row, Step::Cancel)?;
    if row.status != SubscriptionStatus::Active {
        let detail = format!("Only an active subscription changes its plan; this one is {}.", row.status.as_str());
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    if row.cancel_at.is_some() {
        let detail = "The subscription ends with its period. Take the cancellation back first.";
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(())
}

async fn held_plan(tx: &Transaction<'_>, row: &SubscriptionRow, plan: Uuid) -> Result<PlanRow, ApiError> {
    let found = plans::get(tx, row.publisher_organization_id, plan).await?;
    found.ok_or_else(|| ApiError::internal(format!("subscription {} holds no plan", row.id)))
}

async fn sold_plan(
    tx: &Transaction<'_>,
    granted: &Granted,
    row: &SubscriptionRow,
    plan: Uuid,
    held: &PlanRow,
) -> Result<PlanRow, ApiError> {
    let offer = catalog::offer(tx, granted.user, plan).await?.ok_or_else(|| ApiError::not_found("plan"))?;
    if offer.product_id != row.product_id {
        return Err(ApiError::field("/plan_id", Flaw::new("is a plan of another product")));
    }
    match offer.plan_status {
        PlanStatus::Active => {}
        PlanStatus::Draft => return Err(ApiError::not_found("plan")),
        PlanStatus::Archived => {
            return Err(ApiError::new(Code::InvalidState, "The plan is archived: it is not sold any more."));
        }
    }
    let next = held_plan(tx, row, plan).await?;
    if next.currency != held.currency {
        let detail = format!(
            "The plan is priced in {}, the present one in {}. Cancel, and subscribe again.",
            next.currency, held.currency
        );
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(next)
}

async fn tell(
    tx: &Transaction<'_>,
    row: &SubscriptionRow,
    plan: Uuid,
    effect: Effect,
    version: i64,
) -> Result<(), ApiError> {
    let event = NewEvent {
        kind: "subscription.plan_change",
        at: row.billing_now,
        pair: Pair { consumer: row.organization_id, publisher: row.publisher_organization_id },
        subscription: Some(row.id),
        invoice: None,
        amount: None,
        details: json!({"from": row.plan_id, "to": plan, "effect": effect.as_str()}),
        dedupe: format!("plan_change:{}:{version}", row.id),
    };
    billing_events::append(tx, &event).await?;
    Ok(())
}
