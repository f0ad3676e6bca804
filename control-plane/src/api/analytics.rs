//! Usage as charts, top lists, quotas and logs, of one organization or, for operators, of the whole platform. Refuses more
//! points than a chart can show, keys to publishers, and to bill.

mod ask;
mod csv;
mod quotas;
mod requests;
mod series;
mod top;
mod view;

#[cfg(test)]
mod tests;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(series::of_organization))
        .routes(routes!(series::of_platform))
        .routes(routes!(top::of_organization))
        .routes(routes!(top::of_platform))
        .routes(routes!(quotas::of_organization))
        .routes(routes!(quotas::of_platform))
        .routes(routes!(requests::of_organization))
        .routes(routes!(requests::of_platform))
}
