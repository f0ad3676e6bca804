//! What one product may hold of each gateway at once, set by operators: it protects tenants from each other, so no tenant sets
//! it. It holds at once, without a release. Refuses everybody who is not an operator.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::products::{Product, lock, not_retired};
use crate::api::access::{self, Granted, seen};
use crate::api::auth::Caller;
use crate::api::extract::{Json, Path};
use crate::api::headers::PreferHeader;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::product::{CapsDraft, ProductCaps};
use crate::store::{Transaction, products};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(set_caps))
}

/// Both at once: what is absent or null is left to each gateway's settings.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCaps {
    /// Requests in flight on one gateway; a WebSocket or a stream is one for as long as it lasts.
    #[serde(default)]
    requests_in_flight_max: Option<u32>,
    /// Connections of one gateway to the product's upstreams, idle ones too.
    #[serde(default)]
    upstream_connections_max: Option<u32>,
}

/// Set a product's caps
///
/// For operators. What is beyond a cap is answered 503 (`product_busy`, `too_many_connections`); other products do not notice.
#[utoipa::path(put, path = "/v1/products/{id}/caps", tag = "products", operation_id = "set_product_caps",
    request_body = NewCaps, params(("id" = Uuid, Path, description = "The product"), PreferHeader),
    responses((status = 200, body = Product), (status = 202, body = Product)))]
async fn set_caps(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
    Json(new): Json<NewCaps>,
) -> Result<Response, ApiError> {
    let granted = access::to_product_as_operator(&state, &caller, id).await?;
    let draft = CapsDraft {
        requests_in_flight_max: new.requests_in_flight_max,
        upstream_connections_max: new.upstream_connections_max,
    };
    let caps = ProductCaps::parse(draft)?;
    let granted = &granted;
    let written = state.store.run_tx("set_product_caps", |tx| Box::pin(set(tx, granted, id, caps))).await?;
    finish(&state, prefer, written).await
}

async fn set(tx: &Transaction<'_>, granted: &Granted, id: Uuid, caps: ProductCaps) -> Result<Written, ApiError> {
    let row = lock(tx, granted, id).await?;
    not_retired(&row)?;
    let before = Product::from(row);
    let product = Product::from(products::set_caps(tx, granted.organization, id, caps).await?);
    granted.log(tx, "product.caps", ("product", id), seen(&before)?, seen(&product)?).await?;
    let change = changes::record(tx, EntityKind::Product, id).await?;
    Ok(Written::ok(&product)?.version(product.version).change(change))
}
