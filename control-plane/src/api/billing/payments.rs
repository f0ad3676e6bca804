//! What is done to an issued invoice: the consumer pays it (simulated; it may be told to fail), the publisher voids it. Both free the
//! subscriptions that it held up. Refuses to touch what is paid or void.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::invoices::Invoice;
use crate::api::access::{self, Side};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{OptionalJson, Path};
use crate::api::headers::{IfMatchHeader, PreferHeader};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::billing::dunning;
use crate::domain::accounts::Role;
use crate::domain::invoice::{InvoiceStatus, PaymentOutcome};
use crate::store::billing_events::{self, NewEvent};
use crate::store::invoices::{self as rows, InvoiceRow};
use crate::store::{Transaction, billing_months, ratings};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(pay_invoice)).routes(routes!(void_invoice))
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// `succeed` unless said.
    #[serde(default)]
    pub outcome: Option<PaymentOutcome>,
}

#[utoipa::path(post, path = "/v1/invoices/{id}/pay", tag = "billing", request_body = Option<Payment>,
    params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    description = "Simulated: no money moves. A payment that is told to fail leaves its trace in the ledger and changes nothing.",
    responses((status = 200, body = Invoice), (status = 202, body = Invoice)))]
async fn pay_invoice(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    OptionalJson(payment): OptionalJson<Payment>,
) -> Result<Response, ApiError> {
    let (granted, ..) = access::to_invoice(&state, &caller, id, Role::Admin, &[Side::Consumer]).await?;
    let outcome = payment.outcome.unwrap_or(PaymentOutcome::Succeed);
    let (granted, if_match) = (&granted, &if_match);
    let actor = caller.actor();
    let written = state.store.run_tx("pay_invoice", |tx| {
        Box::pin(async move {
            let row = open(tx, id, if_match).await?;
            let kind = match outcome {
                PaymentOutcome::Succeed => "payment.succeeded",
                PaymentOutcome::Fail => "payment.failed",
            };
            // Within an order of payments each attempt is its own event.
            let event = event(tx, &row, kind, format!("{kind}:{id}:{}", Uuid::now_v7())).await?;
            billing_events::append(tx, &event).await?;
            if outcome == PaymentOutcome::Succeed {
                rows::pay(tx, id, event.at).await?;
            }
            granted.log(tx, "invoice.pay", ("invoice", id), None, Some(json!({"outcome": outcome}))).await?;
            settled(tx, &row, &actor, false).await
        })
    });
    finish(&state, prefer, written.await?).await
}

#[utoipa::path(post, path = "/v1/invoices/{id}/void", tag = "billing", params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    description = "The publisher gives up what it charges; prepaid credit that it took is given back. Its number stays taken.",
    responses((status = 200, body = Invoice), (status = 202, body = Invoice)))]
async fn void_invoice(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let (granted, ..) = access::to_invoice(&state, &caller, id, Role::Admin, &[Side::Publisher]).await?;
    let (granted, if_match) = (&granted, &if_match);
    let actor = caller.actor();
    let written = state.store.run_tx("void_invoice", |tx| {
        Box::pin(async move {
            let row = open(tx, id, if_match).await?;
            let voided = event(tx, &row, "invoice.voided", format!("invoice.voided:{id}")).await?;
            billing_events::append(tx, &voided).await?;
            give_credit_back(tx, &row, &voided).await?;
            rows::void(tx, id, voided.at).await?;
            granted.log(tx, "invoice.void", ("invoice", id), None, Some(json!({"number": row.number}))).await?;
            settled(tx, &row, &actor, true).await
        })
    });
    finish(&state, prefer, written.await?).await
}

/// The invoice, locked with its pair, where it is still to be paid.
async fn open(tx: &Transaction<'_>, id: Uuid, if_match: &IfMatch) -> Result<InvoiceRow, ApiError> {
    let pair = rows::pair_of(tx, id).await?.ok_or_else(|| ApiError::not_found("invoice"))?;
    ratings::lock_pair(tx, pair).await?;
    let row = rows::lock(tx, id).await?.ok_or_else(|| ApiError::not_found("invoice"))?;
    if_match.check(row.version)?;
    match row.status {
        InvoiceStatus::Issued => Ok(row),
        other => {
            let detail = format!("The invoice is {}: only an issued one can be paid or voided.", other.as_str());
            Err(ApiError::new(Code::InvalidState, detail))
        }
    }
}

async fn event<'a>(
    tx: &Transaction<'_>,
    row: &'a InvoiceRow,
    kind: &'a str,
    dedupe: String,
) -> Result<NewEvent<'a>, ApiError> {
    Ok(NewEvent {
        kind,
        at: billing_months::billing_now(tx, row.publisher).await?,
        pair: row.pair(),
        subscription: None,
        invoice: Some(row.id),
        amount: Some((row.total, &row.currency)),
        details: json!({"number": row.number}),
        dedupe,
    })
}

/// What the invoice took from the consumer's credit is his again; what it gave is gone with it.
async fn give_credit_back(tx: &Transaction<'_>, row: &InvoiceRow, voided: &NewEvent<'_>) -> Result<(), ApiError> {
    let lines = rows::lines(tx, row.id).await?;
    for line in lines.iter().filter(|line| line.kind == crate::domain::invoice::LineKind::Credit) {
        let returned = NewEvent {
            kind: "credit.returned",
            amount: Some((-line.amount, &row.currency)),
            dedupe: format!("credit.returned:{}", row.id),
            ..voided.clone()
        };
        billing_events::append(tx, &returned).await?;
    }
    Ok(())
}

async fn settled(
    tx: &Transaction<'_>,
    row: &InvoiceRow,
    actor: &crate::store::audit::Actor,
    with_fee: bool,
) -> Result<Written, ApiError> {
    let change = dunning::clear(tx, row.pair(), actor).await?;
    let after = rows::get(tx, row.id).await?.ok_or_else(|| ApiError::not_found("invoice"))?;
    let version = after.version;
    let written = Written::ok(&Invoice::of(after, None, with_fee))?.version(version);
    Ok(match change {
        Some(change) => written.change(change),
        None => written,
    })
}
