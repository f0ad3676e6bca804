//! The public catalog: what anybody may find and what it costs, without signing in. Refuses to show a target URL, a draft, or
//! anything that is private or retired.

use std::time::Instant;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::refuse;
use crate::api::extract::{Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::plans::Plan;
use crate::api::problem::ApiError;
use crate::api::source::Source;
use crate::api::state::AppState;
use crate::domain::product::{Approval, ProductStatus};
use crate::store::catalog::{self, CatalogFilter, ListedProduct, ListedRoute};
use crate::store::{After, Transaction};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_catalog)).routes(routes!(show_catalog_product))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CatalogQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    category: Option<String>,
    /// Part of the name or the description.
    #[serde(default)]
    search: Option<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CatalogProduct {
    pub id: Uuid,
    pub slug: String,
    pub name: String,
    pub description: String,
    pub category: Option<String>,
    /// A deprecated product takes no new subscriptions.
    pub status: ProductStatus,
    pub approval: Approval,
    pub organization_slug: String,
    pub organization_name: String,
    /// Where the gateway serves it: `https://<gateway>/<organization>/<product>`, and its own hosts.
    #[schema(example = "/acme/weather")]
    pub gateway_path: String,
    pub hosts: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
}

/// A product with what it offers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CatalogDetail {
    #[serde(flatten)]
    pub product: CatalogProduct,
    pub plans: Vec<Plan>,
    pub endpoints: Vec<CatalogEndpoint>,
}

/// A route as consumers see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CatalogEndpoint {
    pub method: String,
    pub path_pattern: String,
    pub scope: Option<String>,
}

#[utoipa::path(get, path = "/v1/catalog/products", tag = "catalog", params(CatalogQuery), security(()),
    responses((status = 200, body = Page<CatalogProduct>)))]
async fn list_catalog(
    State(state): State<AppState>,
    source: Source,
    Query(query): Query<CatalogQuery>,
) -> Result<axum::Json<Page<CatalogProduct>>, ApiError> {
    not_too_fast(&state, source)?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = CatalogFilter { category: query.category.as_deref(), search: query.search.as_deref() };
    let (after, limit) = (page.after(), page.rows());
    let rows: Vec<ListedProduct> =
        state.store.read("list_catalog", |tx| Box::pin(catalog::list(tx, filter, after, limit))).await?;
    let place = |row: &ListedProduct| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(rows, place, CatalogProduct::from)))
}

#[utoipa::path(get, path = "/v1/catalog/products/{id}", tag = "catalog", params(("id" = Uuid, Path)), security(()),
    responses((status = 200, body = CatalogDetail)))]
async fn show_catalog_product(
    State(state): State<AppState>,
    source: Source,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<CatalogDetail>, ApiError> {
    not_too_fast(&state, source)?;
    let detail = state.store.read("show_catalog_product", |tx| Box::pin(detail(tx, id))).await?;
    Ok(axum::Json(detail))
}

/// Strangers ask here, so one source has its share only.
fn not_too_fast(state: &AppState, source: Source) -> Result<(), ApiError> {
    state.throttles.attempt_catalog(source.address, Instant::now()).map_err(|throttled| refuse(state, throttled))
}

async fn detail(tx: &Transaction<'_>, id: Uuid) -> Result<CatalogDetail, ApiError> {
    let row = catalog::get(tx, id).await?.ok_or_else(|| ApiError::not_found("product"))?;
    let plans = catalog::plans(tx, id).await?.into_iter().map(Plan::from).collect();
    let endpoints = catalog::live_routes(tx, id).await?.into_iter().map(CatalogEndpoint::from).collect();
    Ok(CatalogDetail { product: CatalogProduct::from(row), plans, endpoints })
}

impl From<ListedRoute> for CatalogEndpoint {
    fn from(route: ListedRoute) -> CatalogEndpoint {
        CatalogEndpoint { method: route.method, path_pattern: route.path_pattern, scope: route.scope }
    }
}

impl From<ListedProduct> for CatalogProduct {
    fn from(row: ListedProduct) -> CatalogProduct {
        CatalogProduct {
            gateway_path: format!("/{}/{}", row.organization_slug, row.slug),
            id: row.id,
            slug: row.slug,
            name: row.name,
            description: row.description,
            category: row.category,
            status: row.status,
            approval: row.approval,
            organization_slug: row.organization_slug,
            organization_name: row.organization_name,
            hosts: row.hosts,
            created_at: row.created_at,
        }
    }
}
