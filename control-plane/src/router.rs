//! The table of contents of the REST interface: routes, then layers from the innermost to the outermost. Refuses logic.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::api::problem::{ApiError, Code, write_problems};
use crate::api::state::AppState;
use crate::api::{
    access_tokens, analytics, audit, billing, catalog, endpoints, fleet, health, keys, layers, live, members, metering,
    nodes, openapi, organizations, plans, product_caps, product_hosts, products, releases, sessions, source,
    subscriptions, users,
};

#[cfg(test)]
mod tests;

/// Everything under `/v1`, with its description.
pub fn described() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(users::routes())
        .merge(sessions::routes())
        .merge(access_tokens::routes())
        .merge(organizations::routes())
        .merge(members::routes())
        .merge(catalog::routes())
        .merge(products::routes())
        .merge(product_caps::routes())
        .merge(product_hosts::routes())
        .merge(endpoints::routes())
        .merge(plans::routes())
        .merge(releases::routes())
        .merge(subscriptions::routes())
        .merge(keys::routes())
        .merge(billing::routes())
        .merge(audit::routes())
        .merge(analytics::routes())
        .merge(live::routes())
        .merge(nodes::routes())
        .merge(fleet::routes())
        .merge(metering::routes())
}

pub fn build(state: AppState) -> Router {
    let (v1, document) = described().split_for_parts();
    with_layers(v1.merge(openapi::routes(document)).merge(health::routes()), state)
}

fn with_layers(routes: Router<AppState>, state: AppState) -> Router {
    routes
        .fallback(not_found)
        .layer(from_fn(layers::observe_route))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, state.settings.rest.request_timeout))
        .layer(CatchPanicLayer::custom(layers::AnswerPanic::new(state.metrics.clone())))
        .layer(from_fn_with_state(state.clone(), write_problems))
        .layer(from_fn(layers::set_security_headers))
        .layer(from_fn_with_state(state.clone(), layers::trace))
        .layer(from_fn(source::give_request_id))
        .with_state(state)
}

async fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "There is nothing at this address. /v1/reference lists all of them.")
}
