//! Products: created, listed, edited, deprecated, retired. What is edited here is the draft; gateways see it after a publish
//! (`releases`). Refuses to delete what somebody may still be counted under.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, seen};
use crate::api::auth::Caller;
use crate::api::etag::{self, IfMatch};
use crate::api::extract::{DigestedJson, Json, Path, Query};
use crate::api::headers::{IdempotencyHeader, IfMatchHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::product::{ProductStatus, ProductTerms, Visibility};
use crate::store::products::{ProductFilter, ProductRow};
use crate::store::{After, StoreError, Transaction, products};

mod body;

#[cfg(test)]
mod tests;

pub use body::{NewProduct, Product, ProductPatch};

/// Products of one organization: bounds what one tenant costs in every snapshot. Requests at the same moment may pass it by a few.
const PRODUCTS_PER_ORGANIZATION_MAX: i64 = 1_000;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_product, list_products))
        .routes(routes!(show_product, edit_product, delete_product))
        .routes(routes!(deprecate_product))
        .routes(routes!(retire_product))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProductsQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    status: Option<ProductStatus>,
    #[serde(default)]
    visibility: Option<Visibility>,
    /// Part of the name or slug.
    #[serde(default)]
    search: Option<String>,
}

#[utoipa::path(post, path = "/v1/organizations/{id}/products", tag = "products", request_body = NewProduct,
    params(("id" = Uuid, Path, description = "The organization"), IdempotencyHeader),
    responses((status = 201, body = Product)))]
async fn create_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    new: DigestedJson<NewProduct>,
) -> Result<Response, ApiError> {
    let granted = access::to_organization(&state, &caller, organization, Role::Developer).await?;
    let once = key.claim(&caller, new.digest);
    let terms = ProductTerms::parse(&new.body.into())?;
    let (once, terms, granted) = (&once, &terms, &granted);
    let written = state.store.run_tx("create_product", |tx| Box::pin(create(tx, granted, once, terms))).await?;
    finish(&state, prefer, written).await
}

async fn create(
    tx: &Transaction<'_>,
    granted: &Granted,
    once: &Once,
    terms: &ProductTerms,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    if products::count(tx, granted.organization).await? >= PRODUCTS_PER_ORGANIZATION_MAX {
        let detail = format!("An organization has at most {PRODUCTS_PER_ORGANIZATION_MAX} products.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    let row = products::insert(tx, granted.organization, Uuid::now_v7(), terms).await.map_err(name_taken)?;
    let product = Product::from(row);
    granted.log(tx, "product.create", ("product", product.id), None, seen(&product)?).await?;
    let written = Written::created(format!("/v1/products/{}", product.id), &product)?.version(product.version);
    once.record(tx, &written).await?;
    Ok(written)
}

#[utoipa::path(get, path = "/v1/organizations/{id}/products", tag = "products",
    params(("id" = Uuid, Path, description = "The organization"), ProductsQuery),
    responses((status = 200, body = Page<Product>)))]
async fn list_products(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    Query(query): Query<ProductsQuery>,
) -> Result<axum::Json<Page<Product>>, ApiError> {
    access::to_organization(&state, &caller, organization, Role::Viewer).await?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = ProductFilter { status: query.status, visibility: query.visibility, search: query.search.as_deref() };
    let rows = state
        .store
        .read("list_products", |tx| Box::pin(products::list(tx, organization, filter, page.after(), page.rows())))
        .await?;
    let place = |row: &ProductRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(rows, place, Product::from)))
}

#[utoipa::path(get, path = "/v1/products/{id}", tag = "products", params(("id" = Uuid, Path)),
    responses((status = 200, body = Product)))]
async fn show_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Viewer).await?;
    let row = state
        .store
        .read("show_product", |tx| Box::pin(products::get(tx, granted.organization, id)))
        .await?
        .ok_or_else(|| ApiError::not_found("product"))?;
    Ok((with_etag(row.version), axum::Json(Product::from(row))).into_response())
}

#[utoipa::path(patch, path = "/v1/products/{id}", tag = "products", request_body = ProductPatch, params(("id" = Uuid, Path), IfMatchHeader),
    responses((status = 200, body = Product)))]
async fn edit_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(patch): Json<ProductPatch>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match, patch) = (&granted, &if_match, &patch);
    let written =
        state.store.run_tx("edit_product", |tx| Box::pin(edit(tx, granted, id, if_match, patch.clone()))).await?;
    finish(&state, prefer, written).await
}

async fn edit(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    if_match: &IfMatch,
    patch: ProductPatch,
) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if_match.check(row.version)?;
    not_retired(&row)?;
    let terms = ProductTerms::parse(&patch.over(&row))?;
    if terms.slug.as_str() != row.slug && row.status != ProductStatus::Draft {
        let detail = "The slug is part of the address that consumers use. It can change only before the first release.";
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    let before = Product::from(row);
    let product = Product::from(products::update(tx, granted.organization, id, &terms).await.map_err(name_taken)?);
    granted.log(tx, "product.update", ("product", id), seen(&before)?, seen(&product)?).await?;
    Ok(Written::ok(&product)?.version(product.version))
}

#[utoipa::path(delete, path = "/v1/products/{id}", tag = "products", params(("id" = Uuid, Path), IfMatchHeader),
    responses((status = 204)))]
async fn delete_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match) = (&granted, &if_match);
    let written = state.store.run_tx("delete_product", |tx| Box::pin(delete(tx, granted, id, if_match))).await?;
    finish(&state, prefer, written).await
}

async fn delete(tx: &Transaction<'_>, granted: &Granted, id: Uuid, if_match: &IfMatch) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if_match.check(row.version)?;
    let held = products::references(tx, granted.organization, id).await?;
    let named = [(held.releases, "releases"), (held.plans_sold, "plans"), (held.subscriptions, "subscriptions")];
    let named: Vec<String> =
        named.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !named.is_empty() {
        let detail = format!("The product is referenced by {}. Retire it instead.", named.join(", "));
        return Err(ApiError::new(Code::StillReferenced, detail));
    }
    products::delete(tx, granted.organization, id).await?;
    granted.log(tx, "product.delete", ("product", id), seen(&Product::from(row))?, None).await?;
    Ok(Written::no_content())
}

#[utoipa::path(post, path = "/v1/products/{id}/deprecate", tag = "products", params(("id" = Uuid, Path), PreferHeader),
    description = "No new subscriptions from now on; those there are keep working.",
    responses((status = 200, body = Product), (status = 202, body = Product)))]
async fn deprecate_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Developer).await?;
    let granted = &granted;
    let step = Ending { from: &[ProductStatus::Published], to: ProductStatus::Deprecated, action: "product.deprecate" };
    let written = state.store.run_tx("deprecate_product", |tx| Box::pin(end(tx, granted, id, step))).await?;
    finish(&state, prefer, written).await
}

#[utoipa::path(post, path = "/v1/products/{id}/retire", tag = "products", params(("id" = Uuid, Path), PreferHeader),
    description = "Gateways answer 404 from now on. There is no way back.",
    responses((status = 200, body = Product), (status = 202, body = Product)))]
async fn retire_product(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, id, Role::Developer).await?;
    let granted = &granted;
    let from = &[ProductStatus::Draft, ProductStatus::Published, ProductStatus::Deprecated];
    let step = Ending { from, to: ProductStatus::Retired, action: "product.retire" };
    let written = state.store.run_tx("retire_product", |tx| Box::pin(end(tx, granted, id, step))).await?;
    finish(&state, prefer, written).await
}

/// A step towards the end of a product's life.
#[derive(Clone, Copy)]
struct Ending {
    from: &'static [ProductStatus],
    to: ProductStatus,
    action: &'static str,
}

async fn end(tx: &Transaction<'_>, granted: &Granted, id: Uuid, step: Ending) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if !step.from.contains(&row.status) {
        let detail = format!("A {} product cannot become {}.", row.status.as_str(), step.to.as_str());
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    let before = Product::from(row);
    let product = Product::from(products::set_status(tx, granted.organization, id, step.to).await?);
    granted.log(tx, step.action, ("product", id), seen(&before)?, seen(&product)?).await?;
    let change = changes::record(tx, EntityKind::Product, id).await?;
    Ok(Written::ok(&product)?.version(product.version).change(change))
}

/// The product, with every other writer of it waiting.
pub(super) async fn lock(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<ProductRow, ApiError> {
    let row = products::lock(tx, granted.organization, id).await?;
    row.ok_or_else(|| ApiError::not_found("product"))
}

/// Errors: 409 for a retired product, which nothing changes any more.
pub(super) fn not_retired(row: &ProductRow) -> Result<(), ApiError> {
    if row.status == ProductStatus::Retired {
        return Err(ApiError::new(Code::InvalidState, "The product is retired."));
    }
    Ok(())
}

pub(super) fn with_etag(version: i64) -> HeaderMap {
    HeaderMap::from_iter([(header::ETAG, etag::tag(version))])
}

fn name_taken(error: StoreError) -> ApiError {
    if error.is_conflict_on("api_products_organization_id_slug_key") {
        return ApiError::new(Code::AlreadyExists, "The organization has a product with this slug already.");
    }
    error.into()
}
