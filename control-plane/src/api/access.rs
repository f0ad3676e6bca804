//! Who may touch a thing of the catalog: from its id to its organization to the caller's role there. What is proved comes back
//! as `Granted`, which the units of work demand. A stranger's thing is as good as none: 404.

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::to_value;
use crate::domain::accounts::Role;
use crate::store::audit::{self, Actor, Target};
use crate::store::ratings::Pair;
use crate::store::{StoreError, Transaction, Work, endpoints, invoices, keys, plans, products, subscriptions};

/// The right to act on the things of one organization, with the name of who acts.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    pub organization: Uuid,
    pub user: Uuid,
    actor: Actor,
}

/// On which side of a subscription somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Consumer,
    Publisher,
}

impl Granted {
    fn new(caller: &Caller, organization: Uuid) -> Granted {
        Granted { organization, user: caller.user_id, actor: caller.actor() }
    }

    /// One line of the audit log, in the transaction of the change.
    pub async fn log(
        &self,
        tx: &Transaction<'_>,
        action: &str,
        (kind, id): (&'static str, Uuid),
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<(), ApiError> {
        let target = Target { kind, id, organization_id: Some(self.organization) };
        Ok(audit::write(tx, &self.actor, action, target, before, after).await?)
    }
}

/// For the audit log: what a thing looked like.
pub fn seen(thing: &impl Serialize) -> Result<Option<Value>, ApiError> {
    to_value(thing).map(Some)
}

pub async fn to_organization(
    state: &AppState,
    caller: &Caller,
    organization: Uuid,
    needed: Role,
) -> Result<Granted, ApiError> {
    caller.member_of(&state.store, organization, needed).await?;
    Ok(Granted::new(caller, organization))
}

pub async fn to_product(state: &AppState, caller: &Caller, id: Uuid, needed: Role) -> Result<Granted, ApiError> {
    let found = ask(state, "organization_of_product", move |tx| Box::pin(products::organization_of(tx, id))).await?;
    grant(state, caller, found, needed, "product").await
}

/// For an operator, whoever the product's owner is. Errors: 404 for a stranger, 403 for everybody else.
pub async fn to_product_as_operator(state: &AppState, caller: &Caller, id: Uuid) -> Result<Granted, ApiError> {
    if !caller.is_admin {
        to_product(state, caller, id, Role::Viewer).await?;
    }
    caller.require_admin()?;
    let found = ask(state, "organization_of_product", move |tx| Box::pin(products::organization_of(tx, id))).await?;
    Ok(Granted::new(caller, found.ok_or_else(|| ApiError::not_found("product"))?))
}

/// Also answers which product it is of.
pub async fn to_endpoint(
    state: &AppState,
    caller: &Caller,
    id: Uuid,
    needed: Role,
) -> Result<(Granted, Uuid), ApiError> {
    let found = ask(state, "owner_of_endpoint", move |tx| Box::pin(endpoints::owner_of(tx, id))).await?;
    let granted = grant(state, caller, found.map(|owner| owner.organization), needed, "endpoint").await?;
    let product = found.map(|owner| owner.product).ok_or_else(|| ApiError::not_found("endpoint"))?;
    Ok((granted, product))
}

/// Also answers which product it is of.
pub async fn to_plan(state: &AppState, caller: &Caller, id: Uuid, needed: Role) -> Result<(Granted, Uuid), ApiError> {
    let found = ask(state, "owner_of_plan", move |tx| Box::pin(plans::owner_of(tx, id))).await?;
    let granted = grant(state, caller, found.map(|owner| owner.organization), needed, "plan").await?;
    let product = found.map(|owner| owner.product).ok_or_else(|| ApiError::not_found("plan"))?;
    Ok((granted, product))
}

/// The consumer's alone: a publisher sees no key. Also answers which subscription it is of.
pub async fn to_key(state: &AppState, caller: &Caller, id: Uuid, needed: Role) -> Result<(Granted, Uuid), ApiError> {
    let found = ask(state, "owner_of_key", move |tx| Box::pin(keys::owner_of(tx, id))).await?;
    let granted = grant(state, caller, found.map(|owner| owner.organization), needed, "key").await?;
    let subscription = found.map(|owner| owner.subscription).ok_or_else(|| ApiError::not_found("key"))?;
    Ok((granted, subscription))
}

/// For whoever stands on one of `sides`. Errors: 404 for a stranger, 403 for the other side and for too small a role.
pub async fn to_subscription(
    state: &AppState,
    caller: &Caller,
    id: Uuid,
    needed: Role,
    sides: &[Side],
) -> Result<(Granted, Side), ApiError> {
    let found = ask(state, "parties_of_subscription", move |tx| Box::pin(subscriptions::parties_of(tx, id))).await?;
    let parties = found.ok_or_else(|| ApiError::not_found("subscription"))?;
    stand(state, caller, (parties.consumer, parties.publisher), needed, sides, "subscription").await
}

/// For whoever stands on one of `sides` of an invoice. Also answers who owes whom. Errors: as `to_subscription`.
pub async fn to_invoice(
    state: &AppState,
    caller: &Caller,
    id: Uuid,
    needed: Role,
    sides: &[Side],
) -> Result<(Granted, Side, Pair), ApiError> {
    let found = ask(state, "pair_of_invoice", move |tx| Box::pin(invoices::pair_of(tx, id))).await?;
    let pair = found.ok_or_else(|| ApiError::not_found("invoice"))?;
    let (granted, side) = stand(state, caller, (pair.consumer, pair.publisher), needed, sides, "invoice").await?;
    Ok((granted, side, pair))
}

async fn stand(
    state: &AppState,
    caller: &Caller,
    (consumer, publisher): (Uuid, Uuid),
    needed: Role,
    sides: &[Side],
    what: &str,
) -> Result<(Granted, Side), ApiError> {
    let mut refusal = None;
    for (side, organization) in [(Side::Consumer, consumer), (Side::Publisher, publisher)] {
        let role = if sides.contains(&side) { needed } else { Role::Viewer };
        match caller.member_of(&state.store, organization, role).await {
            Ok(_) if sides.contains(&side) => return Ok((Granted::new(caller, organization), side)),
            Ok(_) => refusal = refusal.or_else(|| Some(wrong_side(side))),
            Err(error) if error.code == Code::NotFound => {}
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.unwrap_or_else(|| ApiError::not_found(what)))
}

fn wrong_side(side: Side) -> ApiError {
    let detail = match side {
        Side::Consumer => "Only the organization that publishes the product may do this.",
        Side::Publisher => "Only the consumer's organization may do this.",
    };
    ApiError::new(Code::Forbidden, detail)
}

async fn grant(
    state: &AppState,
    caller: &Caller,
    organization: Option<Uuid>,
    needed: Role,
    what: &str,
) -> Result<Granted, ApiError> {
    let organization = organization.ok_or_else(|| ApiError::not_found(what))?;
    match caller.member_of(&state.store, organization, needed).await {
        Ok(_) => Ok(Granted::new(caller, organization)),
        Err(error) if error.code == Code::NotFound => Err(ApiError::not_found(what)),
        Err(error) => Err(error),
    }
}

async fn ask<'env, T, F>(state: &AppState, name: &'static str, question: F) -> Result<T, ApiError>
where
    F: for<'a> FnOnce(&'a Transaction<'env>) -> Work<'a, T, StoreError>,
{
    Ok(state.store.read(name, question).await?)
}
