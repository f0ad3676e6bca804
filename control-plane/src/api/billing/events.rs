//! The ledger over REST: what happened between consumers and publishers, in order. Refuses to change a line.

use axum::extract::State;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access;
use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::domain::accounts::Role;
use crate::store::After;
use crate::store::billing_events::{self, EventRow};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_billing_events))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BillingEventsQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// As in `alert.budget`.
    #[serde(default)]
    kind: Option<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BillingEvent {
    pub id: Uuid,
    #[schema(example = "invoice.issued")]
    pub kind: String,
    /// Billing time.
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Timestamp,
    pub consumer_organization_id: Uuid,
    pub publisher_organization_id: Uuid,
    pub subscription_id: Option<Uuid>,
    pub invoice_id: Option<Uuid>,
    #[schema(value_type = Option<String>)]
    pub amount: Option<Decimal>,
    pub currency: Option<String>,
    #[schema(value_type = Object)]
    pub details: Value,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl From<EventRow> for BillingEvent {
    fn from(row: EventRow) -> BillingEvent {
        BillingEvent {
            id: row.id,
            kind: row.kind,
            occurred_at: row.occurred_at,
            consumer_organization_id: row.consumer,
            publisher_organization_id: row.publisher,
            subscription_id: row.subscription,
            invoice_id: row.invoice,
            amount: row.amount,
            currency: row.currency,
            details: row.details,
            created_at: row.created_at,
        }
    }
}

#[utoipa::path(get, path = "/v1/organizations/{id}/billing-events", tag = "billing",
    params(("id" = Uuid, Path, description = "Either party's organization"), BillingEventsQuery),
    responses((status = 200, body = Page<BillingEvent>)))]
async fn list_billing_events(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    Query(query): Query<BillingEventsQuery>,
) -> Result<axum::Json<Page<BillingEvent>>, ApiError> {
    access::to_organization(&state, &caller, organization, Role::Viewer).await?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let (kind, after, limit) = (query.kind.as_deref(), page.after(), page.rows());
    let found = state
        .store
        .read("list_billing_events", |tx| Box::pin(billing_events::list(tx, organization, kind, after, limit)));
    let place = |row: &EventRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(found.await?, place, BillingEvent::from)))
}
