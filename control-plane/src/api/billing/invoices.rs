//! Invoices as JSON: a consumer sees what he received, a publisher what he issued, an operator all. Refuses to show a consumer what the
//! platform takes from the publisher.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Side};
use crate::api::auth::Caller;
use crate::api::extract::{Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::products::with_etag;
use crate::api::state::AppState;
use crate::domain::accounts::Role;
use crate::domain::invoice::{InvoiceStatus, LineKind};
use crate::store::invoices::{self as rows, InvoiceFilter, InvoiceRow, LineRow};
use crate::store::{After, StoreError};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_received_invoices))
        .routes(routes!(list_issued_invoices))
        .routes(routes!(list_all_invoices))
        .routes(routes!(show_invoice))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InvoicesQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    status: Option<InvoiceStatus>,
    /// As in 2026-11.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    month: Option<MonthParameter>,
}

/// `YYYY-MM`.
#[derive(Clone, Copy, Debug)]
pub struct MonthParameter(pub jiff::civil::Date);

impl<'de> Deserialize<'de> for MonthParameter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MonthParameter, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = format!("{text}-01").parse().ok().filter(|_| text.len() == "2026-11".len());
        parsed
            .map(MonthParameter)
            .ok_or_else(|| serde::de::Error::custom("invalid value, expected a month as in 2026-11"))
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Invoice {
    pub id: Uuid,
    /// Given when it is issued; the publisher's own, without gaps.
    pub number: Option<String>,
    pub consumer_organization_id: Uuid,
    pub consumer_name: String,
    pub publisher_organization_id: Uuid,
    pub publisher_name: String,
    #[schema(example = "2026-11")]
    pub month: String,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
    pub time_zone: String,
    pub currency: String,
    pub status: InvoiceStatus,
    #[schema(value_type = String)]
    pub total: Decimal,
    /// Why a draft is provisional.
    pub held_back: Vec<String>,
    /// What the platform keeps; for the publisher and operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub fee: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub fee_percent: Option<Decimal>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub issued_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub paid_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub voided_at: Option<Timestamp>,
    /// Only of one invoice, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<Vec<InvoiceLine>>,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InvoiceLine {
    pub kind: LineKind,
    pub subscription_id: Option<Uuid>,
    pub plan_id: Option<Uuid>,
    /// The month that it is for.
    #[schema(example = "2026-11")]
    pub month: Option<String>,
    pub description: String,
    /// Months, or thousands of requests.
    #[schema(value_type = String)]
    pub quantity: Decimal,
    #[schema(value_type = String)]
    pub unit_price: Decimal,
    #[schema(value_type = String)]
    pub amount: Decimal,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub period_start: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub period_end: Option<Timestamp>,
}

impl Invoice {
    /// `with_fee`: not for the consumer.
    pub fn of(row: InvoiceRow, lines: Option<Vec<LineRow>>, with_fee: bool) -> Invoice {
        Invoice {
            id: row.id,
            number: row.number,
            consumer_organization_id: row.consumer,
            consumer_name: row.consumer_name,
            publisher_organization_id: row.publisher,
            publisher_name: row.publisher_name,
            month: month_text(row.month),
            period_start: row.period_start,
            period_end: row.period_end,
            time_zone: row.time_zone,
            currency: row.currency,
            status: row.status,
            total: row.total,
            held_back: row.held_back,
            fee: with_fee.then_some(row.fee),
            fee_percent: with_fee.then_some(row.fee_percent),
            issued_at: row.issued_at,
            due_at: row.due_at,
            paid_at: row.paid_at,
            voided_at: row.voided_at,
            lines: lines.map(|lines| lines.into_iter().map(InvoiceLine::from).collect()),
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<LineRow> for InvoiceLine {
    fn from(row: LineRow) -> InvoiceLine {
        InvoiceLine {
            kind: row.kind,
            subscription_id: row.subscription,
            plan_id: row.plan,
            month: row.month.map(month_text),
            description: row.description,
            quantity: row.quantity,
            unit_price: row.unit_price,
            amount: row.amount,
            period_start: row.from,
            period_end: row.until,
        }
    }
}

pub(super) fn month_text(month: jiff::civil::Date) -> String {
    month.strftime("%Y-%m").to_string()
}

#[utoipa::path(get, path = "/v1/organizations/{id}/invoices", tag = "billing",
    params(("id" = Uuid, Path, description = "The consumer's organization"), InvoicesQuery),
    description = "Received by the organization, drafts of ended months among them.",
    responses((status = 200, body = Page<Invoice>)))]
async fn list_received_invoices(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    Query(query): Query<InvoicesQuery>,
) -> Result<axum::Json<Page<Invoice>>, ApiError> {
    access::to_organization(&state, &caller, organization, Role::Viewer).await?;
    list(&state, rows::Side::Received(organization), query).await
}

#[utoipa::path(get, path = "/v1/organizations/{id}/issued-invoices", tag = "billing",
    params(("id" = Uuid, Path, description = "The publisher's organization"), InvoicesQuery),
    responses((status = 200, body = Page<Invoice>)))]
async fn list_issued_invoices(
    State(state): State<AppState>,
    caller: Caller,
    Path(organization): Path<Uuid>,
    Query(query): Query<InvoicesQuery>,
) -> Result<axum::Json<Page<Invoice>>, ApiError> {
    access::to_organization(&state, &caller, organization, Role::Viewer).await?;
    list(&state, rows::Side::Issued(organization), query).await
}

#[utoipa::path(get, path = "/v1/invoices", tag = "billing", params(InvoicesQuery), description = "For operators.",
    responses((status = 200, body = Page<Invoice>)))]
async fn list_all_invoices(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<InvoicesQuery>,
) -> Result<axum::Json<Page<Invoice>>, ApiError> {
    caller.require_admin()?;
    list(&state, rows::Side::All, query).await
}

async fn list(state: &AppState, side: rows::Side, query: InvoicesQuery) -> Result<axum::Json<Page<Invoice>>, ApiError> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = InvoiceFilter { status: query.status, month: query.month.map(|MonthParameter(month)| month) };
    let (after, limit) = (page.after(), page.rows());
    let found = state.store.read("list_invoices", |tx| Box::pin(rows::list(tx, side, filter, after, limit))).await?;
    let place = |row: &InvoiceRow| After { created_at: row.created_at, id: row.id };
    let with_fee = !matches!(side, rows::Side::Received(_));
    Ok(axum::Json(page.page(found, place, |row| Invoice::of(row, None, with_fee))))
}

#[utoipa::path(get, path = "/v1/invoices/{id}", tag = "billing", params(("id" = Uuid, Path)),
    responses((status = 200, body = Invoice)))]
async fn show_invoice(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let (row, lines, with_fee) = load(&state, &caller, id).await?;
    Ok((with_etag(row.version), axum::Json(Invoice::of(row, Some(lines), with_fee))).into_response())
}

/// An invoice with its lines for whoever may read it, and whether he may see the platform's fee.
pub(super) async fn load(
    state: &AppState,
    caller: &Caller,
    id: Uuid,
) -> Result<(InvoiceRow, Vec<LineRow>, bool), ApiError> {
    let sides = &[Side::Consumer, Side::Publisher];
    let with_fee = match access::to_invoice(state, caller, id, Role::Viewer, sides).await {
        Ok((granted, side, pair)) => side == Side::Publisher || granted.organization == pair.publisher,
        Err(error) if error.code == Code::NotFound && caller.require_admin().is_ok() => true,
        Err(error) => return Err(error),
    };
    let found = state.store.read("show_invoice", |tx| {
        Box::pin(async move {
            let Some(row) = rows::get(tx, id).await? else { return Ok(None) };
            Ok::<_, StoreError>(Some((row, rows::lines(tx, id).await?)))
        })
    });
    let (row, lines) = found.await?.ok_or_else(|| ApiError::not_found("invoice"))?;
    Ok((row, lines, with_fee))
}
