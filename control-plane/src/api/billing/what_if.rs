//! What a plan would have earned: the last 30 days of the product's subscriptions, rated as whole months under today's plans and under
//! this one. For the publisher, mostly of a draft. Changes nothing.

use axum::extract::State;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access;
use crate::api::auth::Caller;
use crate::api::extract::Path;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::billing::account::{AccountFault, price_of};
use crate::billing::money::{Minor, TooLarge};
use crate::billing::rating::{Price, month_of};
use crate::domain::accounts::Role;
use crate::store::plans::{self, PlanRow};
use crate::store::what_if::{self, WhatIfRow};
use crate::store::{Store, StoreError};

/// The usage that is looked at.
const DAYS: i32 = 30;
/// Subscriptions of one statement, and of one answer. The sums are over all of these.
const PAGE: i64 = 500;
const SUBSCRIPTIONS_MAX: usize = 10_000;
/// Subscriptions that are shown singly: those that the plan changes most.
const SHOWN_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show_what_if))
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WhatIf {
    pub plan_id: Uuid,
    pub days: i32,
    pub currency: String,
    /// Subscriptions in this currency that were rated; at most 10,000.
    pub subscriptions: usize,
    /// Under the plans that are held, as whole months.
    #[schema(value_type = String)]
    pub total_now: Decimal,
    /// Under this plan.
    #[schema(value_type = String)]
    pub total_then: Decimal,
    /// The 100 whose bill would change most.
    pub data: Vec<WhatIfSubscription>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WhatIfSubscription {
    pub subscription_id: Uuid,
    pub organization_name: String,
    pub billable_now: i64,
    pub billable_then: i64,
    #[schema(value_type = String)]
    pub amount_now: Decimal,
    #[schema(value_type = String)]
    pub amount_then: Decimal,
}

#[utoipa::path(get, path = "/v1/plans/{id}/what-if", tag = "billing", params(("id" = Uuid, Path, description = "A plan, mostly a draft")),
    responses((status = 200, body = WhatIf)))]
async fn show_what_if(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<WhatIf>, ApiError> {
    let (granted, product) = access::to_plan(&state, &caller, id, Role::Developer).await?;
    let plan = state
        .store
        .read("what_if_plan", |tx| Box::pin(plans::get(tx, granted.organization, id)))
        .await?
        .ok_or_else(|| ApiError::not_found("plan"))?;
    let rows = usage(&state.store, product, &plan).await?;
    let answer = compare(&plan, &rows).map_err(AccountFault::from)?;
    Ok(axum::Json(answer))
}

async fn usage(store: &Store, product: Uuid, plan: &PlanRow) -> Result<Vec<WhatIfRow>, StoreError> {
    let digits = plan.billable_statuses.iter().filter_map(|class| class.get(..1)?.parse::<i16>().ok());
    let classes: Vec<i16> = digits.collect();
    let classes = classes.as_slice();
    let mut rows: Vec<WhatIfRow> = Vec::new();
    while rows.len() < SUBSCRIPTIONS_MAX {
        let after = rows.last().map(|row| row.subscription);
        let page = store
            .read("what_if_usage", |tx| Box::pin(what_if::usage_of_product(tx, product, DAYS, classes, after, PAGE)));
        let page = page.await?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    Ok(rows)
}

fn compare(plan: &PlanRow, rows: &[WhatIfRow]) -> Result<WhatIf, crate::billing::rating::RatingFault> {
    let then = price_of(plan.price, plan.included_requests, plan.overage_price_per_1000);
    let currency = &plan.currency;
    let bill = |price: Price, count: i64| month_of(price, count, currency);
    let (mut now_sum, mut then_sum, mut rated) = (Minor(0), Minor(0), Vec::new());
    for row in rows.iter().filter(|row| row.currency == *currency) {
        let amount_now = bill(price_of(row.price, row.included, row.overage), row.billable_now)?;
        let amount_then = bill(then, row.billable_then)?;
        now_sum = now_sum.plus(amount_now)?;
        then_sum = then_sum.plus(amount_then)?;
        rated.push((row, amount_now, amount_then));
    }
    let subscriptions = rated.len();
    rated.sort_by_key(|(row, now, then)| (std::cmp::Reverse((then.0 - now.0).abs()), row.subscription));
    rated.truncate(SHOWN_MAX);
    let shown = rated.into_iter().map(|(row, now, then)| show(row, now, then, currency));
    Ok(WhatIf {
        plan_id: plan.id,
        days: DAYS,
        subscriptions,
        total_now: now_sum.decimal(currency)?,
        total_then: then_sum.decimal(currency)?,
        data: shown.collect::<Result<_, TooLarge>>()?,
        currency: currency.clone(),
    })
}

fn show(row: &WhatIfRow, now: Minor, then: Minor, currency: &str) -> Result<WhatIfSubscription, TooLarge> {
    Ok(WhatIfSubscription {
        subscription_id: row.subscription,
        organization_name: row.organization_name.clone(),
        billable_now: row.billable_now,
        billable_then: row.billable_then,
        amount_now: now.decimal(currency)?,
        amount_then: then.decimal(currency)?,
    })
}
