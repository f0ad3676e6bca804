//! Endpoints: the draft routes of a product. Nothing here reaches a gateway before the next publish. An endpoint that may have
//! been counted is retired, never deleted.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use snapshot::guard::AddressPolicy;
use snapshot::record::ENDPOINTS_MAX;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{DigestedJson, Json, Path, Query};
use crate::api::headers::{IdempotencyHeader, IfMatchHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::products::{self as product_api, with_etag};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::domain::accounts::Role;
use crate::domain::endpoint::EndpointTerms;
use crate::store::endpoints::{EndpointFilter, EndpointRow};
use crate::store::{After, StoreError, Transaction, endpoints, releases};

mod body;

#[cfg(test)]
mod tests;

pub use body::{Endpoint, EndpointPatch, NewEndpoint};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(create_endpoint, list_endpoints)).routes(routes!(
        show_endpoint,
        edit_endpoint,
        delete_endpoint
    ))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EndpointsQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    method: Option<String>,
    /// Retired endpoints too.
    #[serde(default)]
    with_retired: bool,
}

#[utoipa::path(post, path = "/v1/products/{id}/endpoints", tag = "endpoints", request_body = NewEndpoint,
    params(("id" = Uuid, Path, description = "The product"), IdempotencyHeader),
    responses((status = 201, body = Endpoint)))]
async fn create_endpoint(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    new: DigestedJson<NewEndpoint>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Developer).await?;
    let once = key.claim(&caller, new.digest);
    let terms = EndpointTerms::parse(&new.body.into(), &state.settings.upstream)?;
    let (once, terms, granted) = (&once, &terms, &granted);
    let written =
        state.store.run_tx("create_endpoint", |tx| Box::pin(create(tx, granted, product, once, terms))).await?;
    finish(&state, prefer, written).await
}

async fn create(
    tx: &Transaction<'_>,
    granted: &Granted,
    product: Uuid,
    once: &Once,
    terms: &EndpointTerms,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    // The lock makes the count below true until the commit.
    product_api::not_retired(&product_api::lock(tx, granted, product).await?)?;
    if usize::try_from(endpoints::count_draft(tx, product).await?).unwrap_or(usize::MAX) >= ENDPOINTS_MAX {
        return Err(ApiError::new(Code::InvalidState, format!("A product has at most {ENDPOINTS_MAX} endpoints.")));
    }
    let row = endpoints::insert(tx, product, Uuid::now_v7(), terms).await.map_err(route_taken)?;
    let endpoint = Endpoint::from(row);
    granted.log(tx, "endpoint.create", ("endpoint", endpoint.id), None, seen(&endpoint)?).await?;
    let written = Written::created(format!("/v1/endpoints/{}", endpoint.id), &endpoint)?.version(endpoint.version);
    once.record(tx, &written).await?;
    Ok(written)
}

#[utoipa::path(get, path = "/v1/products/{id}/endpoints", tag = "endpoints",
    params(("id" = Uuid, Path, description = "The product"), EndpointsQuery),
    responses((status = 200, body = Page<Endpoint>)))]
async fn list_endpoints(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
    Query(query): Query<EndpointsQuery>,
) -> Result<axum::Json<Page<Endpoint>>, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Viewer).await?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = EndpointFilter { method: query.method.as_deref(), with_retired: query.with_retired };
    let (after, limit) = (page.after(), page.rows());
    let rows = state
        .store
        .read("list_endpoints", |tx| Box::pin(endpoints::list(tx, granted.organization, product, filter, after, limit)))
        .await?;
    let place = |row: &EndpointRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(rows, place, Endpoint::from)))
}

#[utoipa::path(get, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = Uuid, Path)),
    responses((status = 200, body = Endpoint)))]
async fn show_endpoint(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let (granted, _) = access::to_endpoint(&state, &caller, id, Role::Viewer).await?;
    let row = state
        .store
        .read("show_endpoint", |tx| Box::pin(endpoints::get(tx, granted.organization, id)))
        .await?
        .ok_or_else(|| ApiError::not_found("endpoint"))?;
    Ok((with_etag(row.version), axum::Json(Endpoint::from(row))).into_response())
}

#[utoipa::path(patch, path = "/v1/endpoints/{id}", tag = "endpoints", request_body = EndpointPatch,
    params(("id" = Uuid, Path), IfMatchHeader),
    responses((status = 200, body = Endpoint)))]
async fn edit_endpoint(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(patch): Json<EndpointPatch>,
) -> Result<Response, ApiError> {
    let (granted, _) = access::to_endpoint(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match, patch, addresses) = (&granted, &if_match, &patch, &state.settings.upstream);
    let written = state
        .store
        .run_tx("edit_endpoint", |tx| Box::pin(edit(tx, granted, id, if_match, patch.clone(), addresses)))
        .await?;
    finish(&state, prefer, written).await
}

async fn edit(
    tx: &Transaction<'_>,
    granted: &Granted,
    id: Uuid,
    if_match: &IfMatch,
    patch: EndpointPatch,
    addresses: &AddressPolicy,
) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    if_match.check(row.version)?;
    if row.retired_at.is_some() {
        return Err(ApiError::new(Code::InvalidState, "The endpoint is retired. Create a new one instead."));
    }
    let terms = EndpointTerms::parse(&patch.over(&row), addresses)?;
    let before = Endpoint::from(row);
    let endpoint = Endpoint::from(endpoints::update(tx, id, &terms).await.map_err(route_taken)?);
    granted.log(tx, "endpoint.update", ("endpoint", id), seen(&before)?, seen(&endpoint)?).await?;
    Ok(Written::ok(&endpoint)?.version(endpoint.version))
}

#[utoipa::path(delete, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = Uuid, Path), IfMatchHeader),
    description = "Takes the endpoint out of the draft. Once its product was ever released it is retired rather than deleted.",
    responses((status = 204)))]
async fn delete_endpoint(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let (granted, product) = access::to_endpoint(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match) = (&granted, &if_match);
    let written =
        state.store.run_tx("delete_endpoint", |tx| Box::pin(delete(tx, granted, product, id, if_match))).await?;
    finish(&state, prefer, written).await
}

async fn delete(
    tx: &Transaction<'_>,
    granted: &Granted,
    product: Uuid,
    id: Uuid,
    if_match: &IfMatch,
) -> Result<Written, ApiError> {
    // The product first, so that no release comes between the question and the deletion.
    product_api::lock(tx, granted, product).await?;
    let row = lock(tx, granted, id).await?;
    if_match.check(row.version)?;
    let before = Endpoint::from(row);
    if releases::exist(tx, product).await? {
        let after = Endpoint::from(endpoints::retire(tx, id).await?);
        granted.log(tx, "endpoint.retire", ("endpoint", id), seen(&before)?, seen(&after)?).await?;
    } else {
        endpoints::delete(tx, id).await?;
        granted.log(tx, "endpoint.delete", ("endpoint", id), seen(&before)?, None).await?;
    }
    Ok(Written::no_content())
}

async fn lock(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<EndpointRow, ApiError> {
    endpoints::lock(tx, granted.organization, id).await?.ok_or_else(|| ApiError::not_found("endpoint"))
}

fn route_taken(error: StoreError) -> ApiError {
    if error.is_conflict_on("endpoints_route_key") {
        return ApiError::new(
            Code::AlreadyExists,
            "The product has an endpoint with this method and path pattern already.",
        );
    }
    error.into()
}
