//! Who may look at an organization's usage: its members, and operators of the installation. A stranger learns nothing: 404.

use uuid::Uuid;

use crate::api::access;
use crate::api::auth::Caller;
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::domain::accounts::Role;
use crate::store::organizations;

/// As what one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eye {
    Member,
    Operator,
}

/// Errors: 404 for a stranger, and for an organization that is not there.
pub async fn to_organization_usage(state: &AppState, caller: &Caller, organization: Uuid) -> Result<Eye, ApiError> {
    let refused = match access::to_organization(state, caller, organization, Role::Viewer).await {
        Ok(_) => return Ok(Eye::Member),
        Err(refused) => refused,
    };
    if refused.code != Code::NotFound || caller.require_admin().is_err() {
        return Err(refused);
    }
    let known = state.store.read("is_organization", |tx| Box::pin(organizations::is_known(tx, organization)));
    if known.await.map_err(ApiError::from)? { Ok(Eye::Operator) } else { Err(refused) }
}
