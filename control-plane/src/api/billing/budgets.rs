//! Budgets: what a consumer means to spend with a publisher in a month. At 85 and 100 % the ledger says so (`alert.budget`). Refuses to
//! stop anything.

use axum::extract::State;
use axum::response::Response;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{Json, Path};
use crate::api::headers::IfMatchHeader;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::billing::money;
use crate::domain::accounts::Role;
use crate::store::budgets::{self, BudgetRow};
use crate::store::ratings::Pair;
use crate::store::{Transaction, catalog, ratings};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_budgets)).routes(routes!(set_budget, remove_budget))
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetForm {
    /// For a month, in whole minor units of the publisher's currency.
    #[schema(value_type = String, example = "100.00")]
    pub amount: Decimal,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Budget {
    pub publisher_organization_id: Uuid,
    pub publisher_slug: String,
    #[schema(value_type = String)]
    pub amount: Decimal,
    pub currency: String,
    pub version: i64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Budgets {
    pub data: Vec<Budget>,
}

impl From<BudgetRow> for Budget {
    fn from(row: BudgetRow) -> Budget {
        Budget {
            publisher_organization_id: row.pair.publisher,
            publisher_slug: row.publisher_slug,
            amount: row.amount,
            currency: row.currency,
            version: row.version,
        }
    }
}

#[utoipa::path(get, path = "/v1/organizations/{id}/budgets", tag = "billing",
    params(("id" = Uuid, Path, description = "The consumer's organization")),
    responses((status = 200, body = Budgets)))]
async fn list_budgets(
    State(state): State<AppState>,
    caller: Caller,
    Path(consumer): Path<Uuid>,
) -> Result<axum::Json<Budgets>, ApiError> {
    access::to_organization(&state, &caller, consumer, Role::Viewer).await?;
    let rows = state.store.read("list_budgets", |tx| Box::pin(budgets::list(tx, consumer))).await?;
    Ok(axum::Json(Budgets { data: rows.into_iter().map(Budget::from).collect() }))
}

#[utoipa::path(put, path = "/v1/organizations/{id}/budgets/{publisher_id}", tag = "billing", request_body = BudgetForm,
    params(("id" = Uuid, Path, description = "The consumer's organization"),
        ("publisher_id" = Uuid, Path, description = "The publisher's organization"), IfMatchHeader),
    responses((status = 200, body = Budget)))]
async fn set_budget(
    State(state): State<AppState>,
    caller: Caller,
    Path((consumer, publisher)): Path<(Uuid, Uuid)>,
    if_match: IfMatch,
    Json(form): Json<BudgetForm>,
) -> Result<Response, ApiError> {
    let granted = access::to_organization(&state, &caller, consumer, Role::Admin).await?;
    let (granted, if_match, pair) = (&granted, &if_match, Pair { consumer, publisher });
    let written =
        state.store.run_tx("set_budget", |tx| Box::pin(set(tx, granted, pair, if_match, form.amount))).await?;
    finish(&state, Prefer::default(), written).await
}

async fn set(
    tx: &Transaction<'_>,
    granted: &Granted,
    pair: Pair,
    if_match: &IfMatch,
    amount: Decimal,
) -> Result<Written, ApiError> {
    if !ratings::are_partners(tx, pair).await? {
        return Err(ApiError::not_found("publisher"));
    }
    let (_, currency) = catalog::publisher(tx, pair.publisher).await?;
    let amount = money::parse_amount(amount, &currency).map_err(|flaw| ApiError::field("/amount", flaw))?;
    ratings::lock_pair(tx, pair).await?;
    let before = budgets::find(tx, pair, &currency).await?.map(Budget::from);
    if_match.check(before.as_ref().map_or(0, |before| before.version))?;
    budgets::set(tx, pair, amount, &currency).await?;
    let after = find(tx, pair, &currency).await?;
    let before = before.as_ref().map(seen).transpose()?.flatten();
    granted.log(tx, "budget.set", ("organization", pair.consumer), before, seen(&after)?).await?;
    Ok(Written::ok(&after)?.version(after.version))
}

#[utoipa::path(delete, path = "/v1/organizations/{id}/budgets/{publisher_id}", tag = "billing",
    params(("id" = Uuid, Path, description = "The consumer's organization"),
        ("publisher_id" = Uuid, Path, description = "The publisher's organization"), IfMatchHeader),
    responses((status = 204)))]
async fn remove_budget(
    State(state): State<AppState>,
    caller: Caller,
    Path((consumer, publisher)): Path<(Uuid, Uuid)>,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let granted = access::to_organization(&state, &caller, consumer, Role::Admin).await?;
    let (granted, if_match, pair) = (&granted, &if_match, Pair { consumer, publisher });
    let written = state.store.run_tx("remove_budget", |tx| {
        Box::pin(async move {
            if !ratings::are_partners(tx, pair).await? {
                return Err(ApiError::not_found("budget"));
            }
            let (_, currency) = catalog::publisher(tx, pair.publisher).await?;
            ratings::lock_pair(tx, pair).await?;
            let before = find(tx, pair, &currency).await?;
            if_match.check(before.version)?;
            budgets::remove(tx, pair, &currency).await?;
            granted.log(tx, "budget.remove", ("organization", pair.consumer), seen(&before)?, None).await?;
            Ok(Written::no_content())
        })
    });
    finish(&state, Prefer::default(), written.await?).await
}

async fn find(tx: &Transaction<'_>, pair: Pair, currency: &str) -> Result<Budget, ApiError> {
    let row = budgets::find(tx, pair, currency).await?;
    row.map(Budget::from).ok_or_else(|| ApiError::not_found("budget"))
}
