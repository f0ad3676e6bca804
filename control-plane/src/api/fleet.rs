//! How many gateways the limits are enforced for, for operators. It follows the nodes upwards by itself; only an operator
//! lowers it, and never below the gateways that there are. Refuses everybody who is not an operator.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::Json;
use crate::api::headers::{IfMatchHeader, PreferHeader};
use crate::api::problem::{ApiError, Code};
use crate::api::products::with_etag;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::domain::fault::Flaw;
use crate::store::Transaction;
use crate::store::fleet::{self, FLEET_SIZE_MAX, FleetRow};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show_fleet, set_fleet))
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FleetForm {
    /// Gateways that may run at once, those of an upgrade included.
    #[schema(example = 12)]
    fleet_max: u32,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct Fleet {
    /// For how many gateways the limits' bounds are stated; the ETag.
    fleet_max: i32,
    /// Gateways that there are: nodes that are neither drained nor removed, both processes of one that is being upgraded, and
    /// drained ones while they are connected.
    nodes: i64,
}

impl From<FleetRow> for Fleet {
    fn from(row: FleetRow) -> Fleet {
        Fleet { fleet_max: row.fleet_max, nodes: row.nodes }
    }
}

impl FleetForm {
    fn parse(self) -> Result<i32, Flaw> {
        let flaw = || Flaw::new(format!("a fleet has 1 to {FLEET_SIZE_MAX} gateways"));
        i32::try_from(self.fleet_max).ok().filter(|size| (1..=FLEET_SIZE_MAX).contains(size)).ok_or_else(flaw)
    }
}

#[utoipa::path(get, path = "/v1/fleet", tag = "nodes", responses((status = 200, body = Fleet)))]
async fn show_fleet(State(state): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    caller.require_admin()?;
    let row = state.store.read("show_fleet", |tx| Box::pin(fleet::get(tx))).await?;
    Ok((with_etag(i64::from(row.fleet_max)), axum::Json(Fleet::from(row))).into_response())
}

#[utoipa::path(put, path = "/v1/fleet", tag = "nodes", request_body = FleetForm, params(IfMatchHeader, PreferHeader),
    description = "Raise it before gateways are added; it is raised by itself when one comes for which there is no room. It is never lowered unasked, and not below the gateways that there are.",
    responses((status = 200, body = Fleet), (status = 202, body = Fleet)))]
async fn set_fleet(
    State(state): State<AppState>,
    caller: Caller,
    if_match: IfMatch,
    prefer: Prefer,
    Json(form): Json<FleetForm>,
) -> Result<Response, ApiError> {
    caller.require_admin()?;
    let wanted = form.parse().map_err(|flaw| ApiError::field("/fleet_max", flaw))?;
    let (caller, if_match) = (&caller, &if_match);
    let written = state.store.run_tx("set_fleet", |tx| Box::pin(set(tx, caller, if_match, wanted))).await?;
    finish(&state, prefer, written).await
}

async fn set(tx: &Transaction<'_>, caller: &Caller, if_match: &IfMatch, wanted: i32) -> Result<Written, ApiError> {
    let before = fleet::lock(tx).await?;
    if_match.check(i64::from(before.fleet_max))?;
    if i64::from(wanted) < before.nodes {
        let nodes = before.nodes;
        let detail = format!("There are {nodes} gateways. Stop and remove those that are not needed, then lower it.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    let written = Written::ok(&Fleet { fleet_max: wanted, nodes: before.nodes })?.version(i64::from(wanted));
    if wanted == before.fleet_max {
        return Ok(written);
    }
    Ok(written.change(fleet::set(tx, &caller.actor(), "fleet.set", before, wanted).await?))
}
