//! Releases: a publish compiles the draft and makes it live in one transaction, or says every fault and changes nothing; what is
//! live already is not released again. A rollback points at an older release. Releases themselves never change.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use snapshot::guard::AddressPolicy;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted};
use crate::api::auth::{self, Caller};
use crate::api::extract::{Json, OptionalDigestedJson, Path, Query};
use crate::api::headers::{IdempotencyHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::page::{Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::products as product_api;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish, to_value};
use crate::changes::{self, ChangeId, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::fault::Fault;
use crate::domain::plan::PlanStatus;
use crate::domain::product::ProductStatus;
use crate::domain::text::{NOTE_CHARS_MAX, Prose};
use crate::publish::compare::{ReleaseDiff, compare};
use crate::publish::release::{Compiled, Draft, compile, recheck};
use crate::publish::summary::Summary;

use crate::store::plans::PlanRow;
use crate::store::products::ProductRow;
use crate::store::releases::{NewRelease, ReleaseRow};
use crate::store::{After, Transaction, catalog, endpoints, plans, products, releases};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(publish_product))
        .routes(routes!(roll_back_product))
        .routes(routes!(list_releases))
        .routes(routes!(show_release))
        .routes(routes!(compare_releases))
}

#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishForm {
    /// What this release is about. Not kept where the draft is live already.
    #[serde(default)]
    #[schema(max_length = 2000)]
    pub note: String,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackForm {
    /// Number of the release to go back to.
    #[schema(minimum = 1)]
    pub release: i32,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Release {
    pub id: Uuid,
    pub product_id: Uuid,
    pub number: i32,
    pub note: String,
    pub created_by: Uuid,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// Whether gateways serve it now.
    pub is_live: bool,
}

/// A release with what it holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReleaseDetail {
    #[serde(flatten)]
    pub release: Release,
    #[schema(value_type = Summary)]
    pub summary: serde_json::Value,
}

/// Two releases and where they differ.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Comparison {
    pub from: i32,
    pub to: i32,
    pub diff: ReleaseDiff,
}

#[utoipa::path(post, path = "/v1/products/{id}/publish", tag = "releases", request_body = Option<PublishForm>,
    params(("id" = Uuid, Path), IdempotencyHeader, PreferHeader),
    description = "Compiles the draft, sells its draft plans, and makes both live at once. A refusal names every fault, with pointers such as `/endpoints/<id>/target_url`. Where the draft is what is live already, that release is answered (200) and nothing changes. At most 300 at once for each product, then one a second.",
    responses((status = 201, body = Release), (status = 200, body = Release), (status = 202, body = Release)))]
async fn publish_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    form: OptionalDigestedJson<PublishForm>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Developer).await?;
    let once = key.claim(&caller, form.digest);
    let note = Prose::parse(&form.body.note, NOTE_CHARS_MAX).map_err(|flaw| ApiError::field("/note", flaw))?;
    let throttled = state.throttles.attempt_publish(id, Instant::now());
    throttled.map_err(|throttled| auth::refuse(&state, throttled))?;
    let (granted, once, note, addresses) = (&granted, &once, &note, &state.settings.upstream);
    let written =
        state.store.run_tx("publish_product", |tx| Box::pin(publish(tx, granted, id, once, note, addresses))).await?;
    finish(&state, prefer, written).await
}

async fn publish(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    once: &Once,
    note: &Prose,
    addresses: &AddressPolicy,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    let product = product_api::lock(tx, granted, id).await?;
    product_api::not_retired(&product)?;
    let endpoints = endpoints::list_draft(tx, granted.organization, id).await?;
    let plans = sold_by(plans::list_unarchived(tx, granted.organization, id).await?);
    let (organization_slug, _) = catalog::publisher(tx, granted.organization).await?;
    let number = releases::next_number(tx, id).await?;
    let draft = Draft {
        product: &product,
        organization_slug: &organization_slug,
        endpoints: &endpoints,
        plans: &plans,
        number,
    };
    if let Some(live) = find_same(tx, granted, &draft, addresses).await? {
        // A change all the same: who waits is to hear when every gateway serves what is live.
        let change = changes::record(tx, EntityKind::Product, id).await?;
        let written = Written::ok(&Release::of(live, true))?.change(change);
        once.record(tx, &written).await?;
        return Ok(written);
    }
    let compiled = compile(&draft, addresses).map_err(refused)?;
    let row = store_release(tx, granted, id, number, &compiled, note).await?;
    for plan in plans.iter().filter(|plan| plan.status == PlanStatus::Draft) {
        activate(tx, granted, plan).await?;
    }
    let change = go_live(tx, granted, &product, &row, "product.publish").await?;
    let release = Release::of(row, true);
    let written = Written::created(format!("/v1/products/{id}/releases/{number}"), &release)?.change(change);
    once.record(tx, &written).await?;
    Ok(written)
}

/// The live release, where the draft would make the same again and has no plan to sell for the first time and no quarantine to end.
async fn find_same(
    tx: &Transaction<'_>,
    granted: &Granted,
    draft: &Draft<'_>,
    addresses: &AddressPolicy,
) -> Result<Option<ReleaseRow>, ApiError> {
    let (Some(live), Some(number)) = (draft.product.live_release_id, draft.product.live_release_number) else {
        return Ok(None);
    };
    let sells_more = draft.plans.iter().any(|plan| plan.status == PlanStatus::Draft);
    if sells_more || draft.product.quarantine_reason.is_some() {
        return Ok(None);
    }
    // A release holds its own number, so it is compared under the live one's.
    let Ok(again) = compile(&Draft { number, ..*draft }, addresses) else { return Ok(None) };
    let is_same = again.bytes == releases::compiled(tx, live).await?
        && to_value(&again.summary)? == releases::summary(tx, live).await?;
    if !is_same {
        return Ok(None);
    }
    Ok(releases::get(tx, granted.organization, draft.product.id, number).await?)
}

/// Of each family the newest version: an active one steps aside for its draft successor.
fn sold_by(unarchived: Vec<PlanRow>) -> Vec<PlanRow> {
    let newest_of =
        |family: Uuid| unarchived.iter().filter(|plan| plan.family_id == family).map(|plan| plan.version).max();
    let newest: Vec<bool> = unarchived.iter().map(|plan| newest_of(plan.family_id) == Some(plan.version)).collect();
    unarchived.into_iter().zip(newest).filter_map(|(plan, is_newest)| is_newest.then_some(plan)).collect()
}

async fn store_release(
    tx: &Transaction<'_>,
    granted: &Granted,
    product: Uuid,
    number: i32,
    compiled: &Compiled,
    note: &Prose,
) -> Result<ReleaseRow, ApiError> {
    let summary = to_value(&compiled.summary)?;
    let new = NewRelease {
        id: Uuid::now_v7(),
        product,
        number,
        compiled: &compiled.bytes,
        summary: &summary,
        note: note.as_str(),
        created_by: granted.user,
    };
    Ok(releases::insert(tx, &new).await?)
}

/// The older version first: a family has one active version at a time.
async fn activate(tx: &Transaction<'_>, granted: &Granted, plan: &PlanRow) -> Result<(), ApiError> {
    plans::archive_active(tx, plan.family_id).await?;
    plans::set_status(tx, plan.id, PlanStatus::Active).await?;
    let after = serde_json::json!({"status": PlanStatus::Active, "plan_version": plan.version});
    granted.log(tx, "plan.activate", ("plan", plan.id), None, Some(after)).await?;
    changes::record(tx, EntityKind::Plan, plan.id).await?;
    Ok(())
}

/// Moves the pointer, says so in the audit log, and makes it a change.
async fn go_live(
    tx: &Transaction<'_>,
    granted: &Granted,
    product: &ProductRow,
    release: &ReleaseRow,
    action: &str,
) -> Result<ChangeId, ApiError> {
    let status = match product.status {
        ProductStatus::Draft => ProductStatus::Published,
        other => other,
    };
    let live = products::set_live(tx, granted.organization, product.id, status, release.id).await?;
    let line =
        |status: ProductStatus, number: Option<i32>| serde_json::json!({"status": status, "live_release": number});
    let (before, after) = (line(product.status, product.live_release_number), line(live.status, Some(release.number)));
    granted.log(tx, action, ("product", product.id), Some(before), Some(after)).await?;
    Ok(changes::record(tx, EntityKind::Product, product.id).await?)
}

#[utoipa::path(post, path = "/v1/products/{id}/rollback", tag = "releases", request_body = RollbackForm,
    params(("id" = Uuid, Path), PreferHeader),
    description = "Gateways serve an older release again. The draft and the plans stay as they are.",
    responses((status = 200, body = Release), (status = 202, body = Release)))]
async fn roll_back_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
    Json(form): Json<RollbackForm>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Developer).await?;
    let (granted, addresses) = (&granted, &state.settings.upstream);
    let written = state
        .store
        .run_tx("roll_back_product", |tx| Box::pin(roll_back(tx, granted, id, form.release, addresses)))
        .await?;
    finish(&state, prefer, written).await
}

async fn roll_back(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    number: i32,
    addresses: &AddressPolicy,
) -> Result<Written, ApiError> {
    let product = product_api::lock(tx, granted, id).await?;
    product_api::not_retired(&product)?;
    let release = find(tx, granted, id, number).await?;
    if product.live_release_id == Some(release.id) {
        return Err(ApiError::new(Code::InvalidState, format!("Release {number} is live already.")));
    }
    recheck(&releases::compiled(tx, release.id).await?, addresses).map_err(refused)?;
    let change = go_live(tx, granted, &product, &release, "product.rollback").await?;
    Ok(Written::ok(&Release::of(release, true))?.change(change))
}

#[utoipa::path(get, path = "/v1/products/{id}/releases", tag = "releases", params(("id" = Uuid, Path), PageQuery),
    responses((status = 200, body = Page<Release>)))]
async fn list_releases(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Page<Release>>, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Viewer).await?;
    let (organization, after, limit) = (granted.organization, page.after(), page.rows());
    let (live, rows) = state
        .store
        .read::<_, ApiError, _>("list_releases", |tx| {
            Box::pin(async move {
                let live = products::get(tx, organization, id).await?.and_then(|row| row.live_release_id);
                Ok((live, releases::list(tx, organization, id, after, limit).await?))
            })
        })
        .await?;
    let place = |row: &ReleaseRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(rows, place, |row| {
        let is_live = live == Some(row.id);
        Release::of(row, is_live)
    })))
}

#[utoipa::path(get, path = "/v1/products/{id}/releases/{number}", tag = "releases",
    params(("id" = Uuid, Path), ("number" = i32, Path)),
    responses((status = 200, body = ReleaseDetail)))]
async fn show_release(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, number)): Path<(Uuid, i32)>,
) -> Result<axum::Json<ReleaseDetail>, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Viewer).await?;
    let granted = &granted;
    let (live, row, summary) = state
        .store
        .read::<_, ApiError, _>("show_release", |tx| {
            Box::pin(async move {
                let live = products::get(tx, granted.organization, id).await?.and_then(|row| row.live_release_id);
                let row = find(tx, granted, id, number).await?;
                let summary = releases::summary(tx, row.id).await?;
                Ok((live, row, summary))
            })
        })
        .await?;
    let is_live = live == Some(row.id);
    Ok(axum::Json(ReleaseDetail { release: Release::of(row, is_live), summary }))
}

#[utoipa::path(get, path = "/v1/products/{id}/releases/{a}/compare/{b}", tag = "releases",
    params(("id" = Uuid, Path), ("a" = i32, Path, description = "Number of the release before"), ("b" = i32, Path, description = "Number of the release after")),
    responses((status = 200, body = Comparison)))]
async fn compare_releases(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, from, to)): Path<(Uuid, i32, i32)>,
) -> Result<axum::Json<Comparison>, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Viewer).await?;
    let granted = &granted;
    let (before, after) = state
        .store
        .read::<_, ApiError, _>("compare_releases", |tx| {
            Box::pin(async move {
                let (before, after) = (find(tx, granted, id, from).await?, find(tx, granted, id, to).await?);
                Ok((releases::summary(tx, before.id).await?, releases::summary(tx, after.id).await?))
            })
        })
        .await?;
    Ok(axum::Json(Comparison { from, to, diff: compare(&before, &after) }))
}

async fn find(tx: &Transaction<'_>, granted: &Granted, product: Uuid, number: i32) -> Result<ReleaseRow, ApiError> {
    let row = releases::get(tx, granted.organization, product, number).await?;
    row.ok_or_else(|| ApiError::new(Code::NotFound, format!("The product has no release {number}.")))
}

fn refused(faults: Vec<Fault>) -> ApiError {
    let detail = format!("Nothing was published. Faults found: {}.", faults.len());
    ApiError { errors: faults, ..ApiError::new(Code::PublishRefused, detail) }
}

impl Release {
    fn of(row: ReleaseRow, is_live: bool) -> Release {
        Release {
            id: row.id,
            product_id: row.product_id,
            number: row.number,
            note: row.note,
            created_by: row.created_by,
            created_at: row.created_at,
            is_live,
        }
    }
}
