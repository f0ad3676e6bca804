//! Prepaid credit: a consumer buys it from a publisher (simulated), a publisher gives it. It is spent when an invoice is issued, before
//! any payment. Refuses amounts below zero and below a currency's minor unit.

use axum::extract::State;
use axum::response::Response;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted};
use crate::api::auth::Caller;
use crate::api::extract::{DigestedJson, Path};
use crate::api::headers::IdempotencyHeader;
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::billing::money;
use crate::domain::accounts::Role;
use crate::domain::fault::Flaw;
use crate::store::billing_events::{self, CreditRow, NewEvent};
use crate::store::ratings::Pair;
use crate::store::{Transaction, billing_months, catalog, ratings};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_credits, buy_credit)).routes(routes!(give_credit))
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreditPurchase {
    pub publisher_organization_id: Uuid,
    /// In whole minor units of the publisher's currency.
    #[schema(value_type = String, example = "25.00")]
    pub amount: Decimal,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreditGift {
    pub consumer_organization_id: Uuid,
    #[schema(value_type = String, example = "25.00")]
    pub amount: Decimal,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Credit {
    pub publisher_organization_id: Uuid,
    pub publisher_slug: String,
    pub publisher_name: String,
    pub currency: String,
    #[schema(value_type = String)]
    pub balance: Decimal,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Credits {
    pub data: Vec<Credit>,
}

/// After a purchase or gift.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CreditBalance {
    pub consumer_organization_id: Uuid,
    pub publisher_organization_id: Uuid,
    pub currency: String,
    #[schema(value_type = String)]
    pub balance: Decimal,
}

impl From<CreditRow> for Credit {
    fn from(row: CreditRow) -> Credit {
        Credit {
            publisher_organization_id: row.publisher,
            publisher_slug: row.publisher_slug,
            publisher_name: row.publisher_name,
            currency: row.currency,
            balance: row.balance,
        }
    }
}

#[utoipa::path(get, path = "/v1/organizations/{id}/credits", tag = "billing",
    params(("id" = Uuid, Path, description = "The consumer's organization")),
    responses((status = 200, body = Credits)))]
async fn list_credits(
    State(state): State<AppState>,
    caller: Caller,
    Path(consumer): Path<Uuid>,
) -> Result<axum::Json<Credits>, ApiError> {
    access::to_organization(&state, &caller, consumer, Role::Viewer).await?;
    let rows = state.store.read("list_credits", |tx| Box::pin(billing_events::credits_of(tx, consumer))).await?;
    Ok(axum::Json(Credits { data: rows.into_iter().map(Credit::from).collect() }))
}

#[utoipa::path(post, path = "/v1/organizations/{id}/credits", tag = "billing", request_body = CreditPurchase,
    params(("id" = Uuid, Path, description = "The consumer's organization"), IdempotencyHeader),
    description = "Simulated: no money moves.", responses((status = 201, body = CreditBalance)))]
async fn buy_credit(
    State(state): State<AppState>,
    caller: Caller,
    Path(consumer): Path<Uuid>,
    key: IdempotencyKey,
    wanted: DigestedJson<CreditPurchase>,
) -> Result<Response, ApiError> {
    let granted = access::to_organization(&state, &caller, consumer, Role::Admin).await?;
    let pair = Pair { consumer, publisher: wanted.body.publisher_organization_id };
    let once = key.claim(&caller, wanted.digest);
    let deed =
        Deed { granted, pair, amount: wanted.body.amount, kind: "credit.bought", other: "/publisher_organization_id" };
    add(&state, once, deed).await
}

#[utoipa::path(post, path = "/v1/organizations/{id}/credit-gifts", tag = "billing", request_body = CreditGift,
    params(("id" = Uuid, Path, description = "The publisher's organization"), IdempotencyHeader),
    responses((status = 201, body = CreditBalance)))]
async fn give_credit(
    State(state): State<AppState>,
    caller: Caller,
    Path(publisher): Path<Uuid>,
    key: IdempotencyKey,
    wanted: DigestedJson<CreditGift>,
) -> Result<Response, ApiError> {
    let granted = access::to_organization(&state, &caller, publisher, Role::Admin).await?;
    let pair = Pair { consumer: wanted.body.consumer_organization_id, publisher };
    let once = key.claim(&caller, wanted.digest);
    let deed =
        Deed { granted, pair, amount: wanted.body.amount, kind: "credit.given", other: "/consumer_organization_id" };
    add(&state, once, deed).await
}

/// Credit on its way into the ledger.
struct Deed {
    granted: Granted,
    pair: Pair,
    amount: Decimal,
    kind: &'static str,
    /// The field that names the other party.
    other: &'static str,
}

async fn add(state: &AppState, once: Once, deed: Deed) -> Result<Response, ApiError> {
    let (once, deed) = (&once, &deed);
    let written = state.store.run_tx("add_credit", |tx| Box::pin(append(tx, once, deed))).await?;
    finish(state, Prefer::default(), written).await
}

async fn append(tx: &Transaction<'_>, once: &Once, deed: &Deed) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    let pair = deed.pair;
    // Only with those that one has to do with: an organization that is not a partner is as good as none.
    if !ratings::are_partners(tx, pair).await? {
        return Err(ApiError::field(deed.other, Flaw::new("is no organization that has a subscription with yours")));
    }
    let (_, currency) = catalog::publisher(tx, pair.publisher).await?;
    let amount = money::parse_amount(deed.amount, &currency).map_err(|flaw| ApiError::field("/amount", flaw))?;
    ratings::lock_pair(tx, pair).await?;
    let id = Uuid::now_v7();
    let event = NewEvent {
        kind: deed.kind,
        at: billing_months::billing_now(tx, pair.publisher).await?,
        pair,
        subscription: None,
        invoice: None,
        amount: Some((amount, &currency)),
        details: json!({"by": deed.granted.user}),
        dedupe: format!("{}:{id}", deed.kind),
    };
    billing_events::append(tx, &event).await?;
    let after = CreditBalance {
        consumer_organization_id: pair.consumer,
        publisher_organization_id: pair.publisher,
        balance: billing_events::credit(tx, pair, &currency).await?,
        currency: currency.clone(),
    };
    let seen = json!({"amount": amount, "balance": after.balance, "currency": currency});
    deed.granted.log(tx, deed.kind, ("organization", pair.consumer), None, Some(seen)).await?;
    let written = Written::created(format!("/v1/organizations/{}/credits", pair.consumer), &after)?;
    once.record(tx, &written).await?;
    Ok(written)
}
