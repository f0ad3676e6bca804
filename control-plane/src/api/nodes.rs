//! Running gateways, for operators: which there are, what each serves, and which are waited for. A node is expected to serve
//! every revision until it is drained or removed here. Refuses everybody who is not an operator.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::{Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish, to_value};
use crate::store::After;
use crate::store::audit::{self, Target};
use crate::store::changes::Channel;
use crate::store::fleet;
use crate::store::nodes::{self, NodeRow};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(drain)).routes(routes!(activate)).routes(routes!(delete))
}

#[derive(Serialize, ToSchema)]
struct NodeView {
    id: Uuid,
    /// As its settings name it.
    name: String,
    version: String,
    features: Vec<String>,
    /// `active`: expected to serve every revision. `drained`: not waited for.
    state: String,
    /// Where its feed connects from; null on a unix socket.
    address: Option<String>,
    is_connected: bool,
    /// Null when it has acknowledged nothing since the feed's epoch began.
    served_revision: Option<i64>,
    newest_revision: i64,
    /// What it could not serve of its revision, with reasons.
    #[schema(value_type = Vec<Object>)]
    refusals: serde_json::Value,
    #[schema(value_type = String, format = DateTime)]
    first_seen_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_seen_at: Timestamp,
}

impl NodeView {
    fn of(row: NodeRow) -> NodeView {
        NodeView {
            id: row.id,
            name: row.name,
            version: row.version,
            features: row.features,
            state: row.state,
            address: row.address,
            is_connected: row.is_connected,
            served_revision: row.served_revision,
            newest_revision: row.newest_revision,
            refusals: row.refusals,
            first_seen_at: row.first_seen_at,
            last_seen_at: row.last_seen_at,
        }
    }
}

/// What an operator asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Activate,
    Drain,
    Remove,
}

impl Order {
    fn state(self) -> &'static str {
        match self {
            Order::Activate => "active",
            Order::Drain => "drained",
            Order::Remove => "removed",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Order::Activate => "node.activate",
            Order::Drain => "node.drain",
            Order::Remove => "node.delete",
        }
    }
}

/// List nodes
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", operation_id = "list_nodes", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<NodeView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Page<NodeView>>, ApiError> {
    caller.require_admin()?;
    let (after, rows) = (page.after(), page.rows());
    let rows =
        state.store.read("list_nodes", |tx| Box::pin(async move { nodes::list_nodes(tx, after, rows).await })).await?;
    let key = |row: &NodeRow| After { created_at: row.first_seen_at, id: row.id };
    Ok(axum::Json(page.page(rows, key, NodeView::of)))
}

/// Drain a node
///
/// It goes on serving, but writes no longer wait for it.
#[utoipa::path(post, path = "/v1/nodes/{id}/drain", tag = "nodes", operation_id = "drain_node",
    params(("id" = Uuid, Path, description = "The node's id")),
    responses((status = 200, description = "Drained", body = NodeView)))]
async fn drain(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    carry_out(&state, &caller, id, Order::Drain).await
}

/// Activate a node
///
/// Writes wait for it again.
#[utoipa::path(post, path = "/v1/nodes/{id}/activate", tag = "nodes", operation_id = "activate_node",
    params(("id" = Uuid, Path, description = "The node's id")),
    responses((status = 200, description = "Active", body = NodeView)))]
async fn activate(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    carry_out(&state, &caller, id, Order::Activate).await
}

/// Remove a node
///
/// For one that is gone for good. One that is connected is refused; one that comes back is active again.
#[utoipa::path(delete, path = "/v1/nodes/{id}", tag = "nodes", operation_id = "delete_node",
    params(("id" = Uuid, Path, description = "The node's id")),
    responses((status = 204, description = "Removed")))]
async fn delete(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    carry_out(&state, &caller, id, Order::Remove).await
}

async fn carry_out(state: &AppState, caller: &Caller, id: Uuid, order: Order) -> Result<Response, ApiError> {
    caller.require_admin()?;
    let written = state.store.run_tx(order.action(), |tx| {
        Box::pin(async move {
            let before = nodes::lock_node(tx, id).await?.ok_or_else(|| ApiError::not_found("node"))?;
            if order == Order::Remove && before.is_connected {
                let detail = "The node is connected. Stop it first, or drain it.";
                return Err(ApiError::new(Code::InvalidState, detail));
            }
            nodes::set_state(tx, id, order.state()).await?;
            let target = Target { kind: "node", id, organization_id: None };
            let before = to_value(&NodeView::of(before))?;
            let (after, written) = match order {
                Order::Remove => (None, Written::no_content()),
                Order::Activate | Order::Drain => {
                    let after = nodes::find_node(tx, id).await?.ok_or_else(|| ApiError::not_found("node"))?;
                    let view = NodeView::of(after);
                    let written = match fleet::make_room_in(tx, &caller.actor()).await? {
                        Some(change) => Written::ok(&view)?.change(change),
                        None => Written::ok(&view)?,
                    };
                    (Some(to_value(&view)?), written)
                }
            };
            audit::write(tx, &caller.actor(), order.action(), target, Some(before), after).await?;
            Ok::<_, ApiError>(written)
        })
    });
    let written = written.await?;
    // Whoever waits for the nodes may not have to wait for this one any more.
    state.revisions.signals().raise(Channel::Acks);
    finish(state, Prefer::default(), written).await
}
