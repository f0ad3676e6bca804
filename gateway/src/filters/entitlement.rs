//! Whether the holder of a good key may use this endpoint now: his subscription to this very product, its status, and the
//! scope. Counts nothing.

use std::sync::Arc;

use snapshot::record::{Endpoint, Plan, Subscription, SubscriptionStatus};

use super::authenticate::Authenticated;
use super::route::Route;
use crate::clock::Now;
use crate::live::{ServedKey, ServedProduct, ServedSubscription, Snapshot};
use crate::rejection::Rejection;

/// Whose request it is, where a subscription to this product is known; enough for a usage event.
#[derive(Clone)]
pub struct KnownSubscription {
    pub product: Arc<ServedProduct>,
    pub endpoint: Arc<Endpoint>,
    pub key: ServedKey,
    pub subscription: Arc<ServedSubscription>,
    pub plan: Arc<Plan>,
}

/// The subscription behind the key. 403 where it is none of this product's, whatever the key opens elsewhere.
pub fn find_subscription(
    snapshot: &Snapshot,
    authenticated: Authenticated,
    route: &Route<'_, '_>,
) -> Result<KnownSubscription, Rejection> {
    let subscription = snapshot.subscription_of(&authenticated.key).ok_or(Rejection::NoSubscription)?;
    if subscription.product_id != route.product.id {
        return Err(Rejection::NoSubscription);
    }
    let plan = snapshot.plan_of(subscription).ok_or(Rejection::PlanUnavailable)?;
    Ok(KnownSubscription {
        product: Arc::clone(route.product),
        endpoint: Arc::clone(route.endpoint),
        key: authenticated.key,
        subscription: Arc::clone(subscription),
        plan: Arc::clone(plan),
    })
}

/// 403 for the status or the scope, 402 once an unpaid subscription's grace is over.
pub fn check_entitlement(known: &KnownSubscription, now: Now) -> Result<(), Rejection> {
    check_status(&known.subscription, now)?;
    match &known.endpoint.scope {
        Some(scope) if !known.key.scopes.is_empty() && !known.key.scopes.contains(scope) => {
            Err(Rejection::InsufficientScope)
        }
        _ => Ok(()),
    }
}

/// Judged by the gateway's clock, so that an end that is known in advance needs no revision.
pub fn check_status(subscription: &Subscription, now: Now) -> Result<(), Rejection> {
    let reached = |at: Option<i64>| at.is_some_and(|at| at <= now.unix_ms);
    match subscription.status {
        SubscriptionStatus::Cancelled => Err(Rejection::SubscriptionCancelled),
        _ if reached(subscription.cancel_at_ms) => Err(Rejection::SubscriptionCancelled),
        SubscriptionStatus::Pending => Err(Rejection::SubscriptionPending),
        SubscriptionStatus::Suspended => Err(Rejection::SubscriptionSuspended),
        SubscriptionStatus::PastDue if reached(subscription.refuse_unpaid_from_ms) => Err(Rejection::PaymentRequired),
        SubscriptionStatus::PastDue | SubscriptionStatus::Active => Ok(()),
    }
}
