//! Who may watch which topic, and whether he still may. The same rules as in REST: members see their organization's side, a
//! publisher sees no keys, operators see all; a stranger's thing is as good as none.

use std::collections::HashSet;

use uuid::Uuid;

use super::credential_of;
use crate::api::auth::Caller;
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::usage_access::{Eye, to_organization_usage};
use crate::live::topic::{Scope, Topic, Watch};
use crate::store::live::{Holder, find_holder, list_memberships};
use crate::store::{StoreError, products, subscriptions};

/// A topic that may be watched, and as long as what holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub(super) watch: Watch,
    pub(super) need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Operator,
    Member(Uuid),
}

/// What still holds of a watcher.
#[derive(Debug)]
pub(super) struct Standing {
    /// `None`: his session or token has ended.
    holder: Option<Holder>,
    /// Organizations that were asked about; a topic that came meanwhile was just allowed.
    asked: Vec<Uuid>,
    member_of: HashSet<Uuid>,
}

impl Standing {
    pub(super) fn is_signed_in(&self) -> bool {
        self.holder.is_some()
    }

    pub(super) fn meets(&self, need: Need) -> bool {
        match need {
            Need::Operator => self.holder.as_ref().is_some_and(|holder| holder.is_admin),
            Need::Member(organization) => self.member_of.contains(&organization) || !self.asked.contains(&organization),
        }
    }
}

/// Errors: 404 for what one may not know of, 403 for what only operators see.
pub(super) async fn allow(state: &AppState, caller: &Caller, topic: Topic) -> Result<Allowed, ApiError> {
    let (need, shows_keys) = match topic.scope {
        Scope::Platform => {
            caller.require_admin()?;
            (Need::Operator, true)
        }
        Scope::Product(id) => {
            let found = state.store.read("organization_of_product", |tx| Box::pin(products::organization_of(tx, id)));
            let owner = found.await.map_err(ApiError::from)?;
            (see(state, caller, owner, "product").await?, false)
        }
        Scope::Publisher(id) => (see(state, caller, Some(id), "organization").await?, false),
        Scope::Consumer(id) => (see(state, caller, Some(id), "organization").await?, true),
        Scope::Subscription(id) => allow_subscription(state, caller, id).await?,
    };
    // Counters are the same for everybody.
    let shows_keys = shows_keys && topic.kind == crate::live::topic::Kind::Requests;
    Ok(Allowed { watch: Watch { topic, shows_keys }, need })
}

/// Its consumer sees the keys; its publisher, the same rows without them.
async fn allow_subscription(state: &AppState, caller: &Caller, id: Uuid) -> Result<(Need, bool), ApiError> {
    let found = state.store.read("parties_of_subscription", |tx| Box::pin(subscriptions::parties_of(tx, id)));
    let parties = found.await.map_err(ApiError::from)?.ok_or_else(|| ApiError::not_found("subscription"))?;
    match see(state, caller, Some(parties.consumer), "subscription").await {
        Ok(need) => Ok((need, true)),
        Err(error) if error.code == Code::NotFound => {
            Ok((see(state, caller, Some(parties.publisher), "subscription").await?, false))
        }
        Err(error) => Err(error),
    }
}

async fn see(state: &AppState, caller: &Caller, owner: Option<Uuid>, what: &str) -> Result<Need, ApiError> {
    let owner = owner.ok_or_else(|| ApiError::not_found(what))?;
    match to_organization_usage(state, caller, owner).await {
        Ok(Eye::Member) => Ok(Need::Member(owner)),
        Ok(Eye::Operator) => Ok(Need::Operator),
        Err(error) if error.code == Code::NotFound => Err(ApiError::not_found(what)),
        Err(error) => Err(error),
    }
}

/// Asks what still holds, for all his topics at once.
pub(super) async fn recheck(state: AppState, caller: Caller, organizations: Vec<Uuid>) -> Result<Standing, StoreError> {
    let credential = credential_of(&caller);
    let (user, organizations) = (caller.user_id, &organizations);
    let checked = state.store.read("recheck_live_watcher", |tx| {
        Box::pin(async move {
            let holder = find_holder(tx, credential).await?;
            let member_of: HashSet<Uuid> = list_memberships(tx, user, organizations).await?.into_iter().collect();
            Ok::<_, StoreError>((holder, member_of))
        })
    });
    let (holder, member_of) = checked.await?;
    Ok(Standing { holder, asked: organizations.clone(), member_of })
}
