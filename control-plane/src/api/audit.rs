//! The audit log of an organization, newest first, for its admins. Read only: entries are written with the changes that they
//! tell of.

use std::net::IpAddr;

use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::accounts::Role;
use crate::store::After;
use crate::store::audit::{AuditFilter, AuditRow, list_audit};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Rows on the page.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// As in `product.publish`.
    action: Option<String>,
    /// As in `product`.
    target_kind: Option<String>,
    target_id: Option<Uuid>,
    actor_user_id: Option<Uuid>,
}

#[derive(Serialize, ToSchema)]
struct AuditEntryView {
    id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    occurred_at: Timestamp,
    /// Null when the system acted.
    actor_user_id: Option<Uuid>,
    /// The access token that was shown, if one was.
    actor_token_id: Option<Uuid>,
    action: String,
    target_kind: String,
    target_id: Option<Uuid>,
    /// Secrets are struck out.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    request_id: Option<Uuid>,
}

impl AuditEntryView {
    fn of(row: AuditRow) -> AuditEntryView {
        AuditEntryView {
            id: row.id,
            occurred_at: row.occurred_at,
            actor_user_id: row.actor_user_id,
            actor_token_id: row.actor_token_id,
            action: row.action,
            target_kind: row.target_kind,
            target_id: row.target_id,
            before: row.before,
            after: row.after,
            address: row.address,
            request_id: row.request_id,
        }
    }
}

/// Read the audit log
///
/// Newest first.
#[utoipa::path(get, path = "/v1/organizations/{id}/audit-log", tag = "audit log", operation_id = "list_audit_log",
    params(("id" = Uuid, Path, description = "The organization's id"), AuditQuery),
    responses((status = 200, description = "A page", body = Page<AuditEntryView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<AuditQuery>,
) -> Result<axum::Json<Page<AuditEntryView>>, ApiError> {
    let (caller, query) = (&caller, &query);
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let rows = state.store.read("list_audit_log", |tx| {
        Box::pin(async move {
            caller.member_in(tx, id, Role::Admin).await?;
            let filter = AuditFilter {
                action: query.action.as_deref(),
                target_kind: query.target_kind.as_deref(),
                target_id: query.target_id,
                actor_user_id: query.actor_user_id,
            };
            Ok::<_, ApiError>(list_audit(tx, id, filter, page.after(), page.rows()).await?)
        })
    });
    let key = |row: &AuditRow| After { created_at: row.occurred_at, id: row.id };
    Ok(axum::Json(page.page(rows.await?, key, AuditEntryView::of)))
}
