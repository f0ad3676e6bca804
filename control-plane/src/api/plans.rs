//! Plans: drafts are edited freely, sold versions never change. A new version is a draft of the same family; it is sold from the
//! next publish on, and the older one then serves only those who bought it.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{DigestedJson, Json, Path, Query};
use crate::api::headers::{IdempotencyHeader, IfMatchHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::products::{self as product_api, with_etag};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::plan::{PlanStatus, PlanTerms};
use crate::store::plans::{PlanPlace, PlanRow};
use crate::store::{After, StoreError, Transaction, catalog, plans};

mod body;

#[cfg(test)]
mod tests;

pub use body::{NewPlan, Plan, PlanPatch, Policy, PolicyForm};

/// Plan versions of one product: bounds a release's summary and the lists of the public catalog.
const PLANS_PER_PRODUCT_MAX: i64 = 500;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_plan, list_plans))
        .routes(routes!(show_plan, edit_plan, delete_plan))
        .routes(routes!(create_plan_version))
        .routes(routes!(archive_plan))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlansQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    status: Option<PlanStatus>,
}

#[utoipa::path(post, path = "/v1/products/{id}/plans", tag = "plans", request_body = NewPlan,
    params(("id" = Uuid, Path, description = "The product"), IdempotencyHeader),
    responses((status = 201, body = Plan)))]
async fn create_plan(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    new: DigestedJson<NewPlan>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Developer).await?;
    let once = key.claim(&caller, new.digest);
    let (once, granted, new) = (&once, &granted, &new.body);
    let written =
        state.store.run_tx("create_plan", |tx| Box::pin(create(tx, granted, product, once, new.clone()))).await?;
    finish(&state, prefer, written).await
}

async fn create(
    tx: &Transaction<'_>,
    granted: &Granted,
    product: Uuid,
    once: &Once,
    new: NewPlan,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    let (_, currency) = catalog::publisher(tx, granted.organization).await?;
    let terms = PlanTerms::parse(&new.draft(currency))?;
    let id = Uuid::now_v7();
    let plan = add(tx, granted, PlanPlace { id, product, family: id, version: 1 }, &terms).await?;
    granted.log(tx, "plan.create", ("plan", id), None, seen(&plan)?).await?;
    let written = Written::created(format!("/v1/plans/{id}"), &plan)?.version(plan.version);
    once.record(tx, &written).await?;
    Ok(written)
}

/// Writes a draft version into its product.
async fn add(tx: &Transaction<'_>, granted: &Granted, place: PlanPlace, terms: &PlanTerms) -> Result<Plan, ApiError> {
    // The lock makes the count below true until the commit.
    product_api::not_retired(&product_api::lock(tx, granted, place.product).await?)?;
    if plans::count(tx, place.product).await? >= PLANS_PER_PRODUCT_MAX {
        let detail = format!("A product has at most {PLANS_PER_PRODUCT_MAX} plan versions.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    plans::insert(tx, place, terms).await.map_err(slug_taken)?;
    read(tx, granted, place.id).await
}

#[utoipa::path(get, path = "/v1/products/{id}/plans", tag = "plans",
    params(("id" = Uuid, Path, description = "The product"), PlansQuery),
    responses((status = 200, body = Page<Plan>)))]
async fn list_plans(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
    Query(query): Query<PlansQuery>,
) -> Result<axum::Json<Page<Plan>>, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Viewer).await?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let (status, after, limit) = (query.status, page.after(), page.rows());
    let rows = state
        .store
        .read("list_plans", |tx| Box::pin(plans::list(tx, granted.organization, product, status, after, limit)))
        .await?;
    let place = |row: &PlanRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(rows, place, Plan::from)))
}

#[utoipa::path(get, path = "/v1/plans/{id}", tag = "plans", params(("id" = Uuid, Path)),
    responses((status = 200, body = Plan)))]
async fn show_plan(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    let (granted, _) = access::to_plan(&state, &caller, id, Role::Viewer).await?;
    let row = state
        .store
        .read("show_plan", |tx| Box::pin(plans::get(tx, granted.organization, id)))
        .await?
        .ok_or_else(|| ApiError::not_found("plan"))?;
    Ok((with_etag(row.row_version), axum::Json(Plan::from(row))).into_response())
}

#[utoipa::path(patch, path = "/v1/plans/{id}", tag = "plans", request_body = PlanPatch, params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    description = "A draft changes freely. Of a version that is sold, only name and description.",
    responses((status = 200, body = Plan), (status = 202, body = Plan)))]
async fn edit_plan(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(patch): Json<PlanPatch>,
) -> Result<Response, ApiError> {
    let (granted, _) = access::to_plan(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match, patch) = (&granted, &if_match, &patch);
    let written =
        state.store.run_tx("edit_plan", |tx| Box::pin(edit(tx, granted, id, if_match, patch.clone()))).await?;
    finish(&state, prefer, written).await
}

async fn edit(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    if_match: &IfMatch,
    patch: PlanPatch,
) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if_match.check(row.row_version)?;
    let is_draft = row.status == PlanStatus::Draft;
    if !is_draft && patch.touches_terms() {
        let detail = "This version is sold, and its subscribers keep what they bought. Make a new version instead.";
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    let terms = PlanTerms::parse(&patch.over(&row))?;
    if is_draft {
        plans::update_draft(tx, id, &terms).await?;
    } else {
        plans::update_words(tx, id, terms.name.as_str(), terms.description.as_str()).await?;
    }
    let plan = read(tx, granted, id).await?;
    granted.log(tx, "plan.update", ("plan", id), seen(&Plan::from(row))?, seen(&plan)?).await?;
    let written = Written::ok(&plan)?.version(plan.version);
    if is_draft {
        return Ok(written);
    }
    // Gateways tell the upstream the plan's name.
    Ok(written.change(changes::record(tx, EntityKind::Plan, id).await?))
}

#[utoipa::path(delete, path = "/v1/plans/{id}", tag = "plans", params(("id" = Uuid, Path), IfMatchHeader),
    description = "Drafts only; what was ever sold is archived.",
    responses((status = 204)))]
async fn delete_plan(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let (granted, _) = access::to_plan(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match) = (&granted, &if_match);
    let written = state.store.run_tx("delete_plan", |tx| Box::pin(delete(tx, granted, id, if_match))).await?;
    finish(&state, prefer, written).await
}

async fn delete(tx: &Transaction<'_>, granted: &Granted, id: Uuid, if_match: &IfMatch) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if_match.check(row.row_version)?;
    if row.status != PlanStatus::Draft {
        let detail = "This version was sold: releases, subscriptions and invoices refer to it. Archive it instead.";
        return Err(ApiError::new(Code::StillReferenced, detail));
    }
    plans::delete_draft(tx, id).await?;
    granted.log(tx, "plan.delete", ("plan", id), seen(&Plan::from(row))?, None).await?;
    Ok(Written::no_content())
}

#[utoipa::path(post, path = "/v1/plans/{id}/versions", tag = "plans", request_body = PlanPatch, params(("id" = Uuid, Path), IdempotencyHeader),
    description = "A draft of the next version: this one's terms with the changes that are sent. The next publish sells it.",
    responses((status = 201, body = Plan)))]
async fn create_plan_version(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    changed: DigestedJson<PlanPatch>,
) -> Result<Response, ApiError> {
    let (granted, product) = access::to_plan(&state, &caller, id, Role::Developer).await?;
    let once = key.claim(&caller, changed.digest);
    let (once, granted, patch) = (&once, &granted, &changed.body);
    let written = state
        .store
        .run_tx("create_plan_version", |tx| Box::pin(create_version(tx, granted, (product, id), once, patch.clone())))
        .await?;
    finish(&state, prefer, written).await
}

async fn create_version(
    tx: &Transaction<'_>,
    granted: &Granted,
    (product, id): (Uuid, Uuid),
    once: &Once,
    patch: PlanPatch,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    // In the order of a publish, so that the two never wait for each other.
    product_api::lock(tx, granted, product).await?;
    let row = lock(tx, granted, id).await?;
    let (newest, newest_status) = plans::newest_version(tx, row.family_id).await?;
    if newest_status == PlanStatus::Draft {
        let detail = format!("Version {newest} of this plan is a draft still. Edit it, or publish it first.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    let terms = PlanTerms::parse(&patch.over(&row))?;
    let place = PlanPlace { id: Uuid::now_v7(), product: row.product_id, family: row.family_id, version: newest + 1 };
    let plan = add(tx, granted, place, &terms).await?;
    granted.log(tx, "plan.create_version", ("plan", plan.id), seen(&Plan::from(row))?, seen(&plan)?).await?;
    let written = Written::created(format!("/v1/plans/{}", plan.id), &plan)?.version(plan.version);
    once.record(tx, &written).await?;
    Ok(written)
}

#[utoipa::path(post, path = "/v1/plans/{id}/archive", tag = "plans", params(("id" = Uuid, Path)),
    description = "Sold to nobody new from now on; those who bought it keep it.",
    responses((status = 200, body = Plan)))]
async fn archive_plan(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let (granted, _) = access::to_plan(&state, &caller, id, Role::Developer).await?;
    let granted = &granted;
    let written = state.store.run_tx("archive_plan", |tx| Box::pin(archive(tx, granted, id))).await?;
    finish(&state, prefer, written).await
}

async fn archive(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if row.status == PlanStatus::Archived {
        return Err(ApiError::new(Code::InvalidState, "The plan is archived already."));
    }
    plans::set_status(tx, id, PlanStatus::Archived).await?;
    let plan = read(tx, granted, id).await?;
    granted.log(tx, "plan.archive", ("plan", id), seen(&Plan::from(row))?, seen(&plan)?).await?;
    let change = changes::record(tx, EntityKind::Plan, id).await?;
    Ok(Written::ok(&plan)?.version(plan.version).change(change))
}

async fn lock(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<PlanRow, ApiError> {
    plans::lock(tx, granted.organization, id).await?.ok_or_else(|| ApiError::not_found("plan"))
}

async fn read(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<Plan, ApiError> {
    let row = plans::get(tx, granted.organization, id).await?;
    row.map(Plan::from).ok_or_else(|| ApiError::not_found("plan"))
}

fn slug_taken(error: StoreError) -> ApiError {
    if error.is_conflict_on("plans_product_id_slug_version_key") {
        return ApiError::new(Code::AlreadyExists, "The product has a plan with this slug already.");
    }
    error.into()
}
