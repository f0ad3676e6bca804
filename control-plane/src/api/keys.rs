//! API keys: made, listed, renamed, rotated, revoked by the consumer's organization. A key is shown in the one answer that makes
//! it; only its digest is stored. Refuses the publisher.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Deserialize;
use snapshot::key::{MintedKey, mint};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, Side, seen};
use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{DigestedJson, Json, Path, Query};
use crate::api::headers::{IdempotencyHeader, IfMatchHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::products::with_etag;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish, to_value};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::fault::{Faults, Flaw};
use crate::domain::key::{ACTIVE_KEYS_MAX, Environment, KeyStatus, parse_expiry};
use crate::domain::subscription::SubscriptionStatus;
use crate::domain::text::{Name, Scope};
use crate::store::keys::{self as rows, KeyFilter, KeyRow};
use crate::store::{After, Transaction, subscriptions};

mod body;
mod rotation;

#[cfg(test)]
mod tests;

pub use body::{ApiKey, ApiKeyWithSecret, KeyPatch, NewKey, Rotation};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_key, list_keys))
        .routes(routes!(show_key, edit_key))
        .routes(routes!(revoke_key))
        .merge(rotation::routes())
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeysQuery {
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    #[serde(default)]
    status: Option<KeyStatus>,
    #[serde(default)]
    environment: Option<Environment>,
}

/// A key's parts as they can be stored.
struct KeyTerms {
    name: Name,
    environment: Environment,
    scopes: Vec<String>,
    expires_at: Option<Timestamp>,
}

impl KeyTerms {
    fn parse(new: &NewKey) -> Result<KeyTerms, Faults> {
        let mut faults = Faults::default();
        let name = faults.take("/name", Name::parse(&new.name));
        let scopes = faults.take("/scopes", Scope::parse_all(&new.scopes));
        let expires_at = faults.take("/expires_at", parse_expiry(new.expires_at, Timestamp::now()));
        let whole = (|| {
            Some(KeyTerms {
                name: name?,
                environment: new.environment.unwrap_or(Environment::Live),
                scopes: scopes?.iter().map(|scope| scope.as_str().to_owned()).collect(),
                expires_at: expires_at?,
            })
        })();
        faults.finish(whole)
    }
}

#[utoipa::path(post, path = "/v1/subscriptions/{id}/keys", tag = "keys", request_body = NewKey,
    params(("id" = Uuid, Path, description = "The subscription"), IdempotencyHeader, PreferHeader),
    description = "The answer shows the key, this once. A repeated Idempotency-Key gets `secret_already_shown` instead.",
    responses((status = 201, body = ApiKeyWithSecret), (status = 202, body = ApiKeyWithSecret)))]
async fn create_key(
    State(state): State<AppState>,
    caller: Caller,
    Path(subscription): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    new: DigestedJson<NewKey>,
) -> Result<Response, ApiError> {
    let sides = &[Side::Consumer];
    let (granted, _) = access::to_subscription(&state, &caller, subscription, Role::Developer, sides).await?;
    let once = key.claim(&caller, new.digest);
    let terms = KeyTerms::parse(&new.body)?;
    let minted = mint_for(&state, terms.environment)?;
    let (once, granted, terms, minted) = (&once, &granted, &terms, &minted);
    let written =
        state.store.run_tx("create_key", |tx| Box::pin(create(tx, granted, subscription, once, terms, minted))).await?;
    finish(&state, prefer, written).await
}

async fn create(
    tx: &Transaction<'_>,
    granted: &Granted,
    subscription: Uuid,
    once: &Once,
    terms: &KeyTerms,
    minted: &MintedKey,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    room_for_another(tx, granted, subscription).await?;
    let new = rows::NewKey {
        id: Uuid::now_v7(),
        subscription,
        name: terms.name.as_str(),
        minted,
        environment: terms.environment,
        scopes: &terms.scopes,
        expires_at: terms.expires_at,
        predecessor: None,
        created_by: granted.user,
    };
    let key = ApiKey::from(rows::insert(tx, &new).await?);
    granted.log(tx, "key.create", ("api_key", key.id), None, seen(&key)?).await?;
    let change = changes::record(tx, EntityKind::Key, key.id).await?;
    let written = shown_once(key, minted)?.change(change);
    once.record(tx, &written).await?;
    Ok(written)
}

/// The one answer that holds the key.
fn shown_once(key: ApiKey, minted: &MintedKey) -> Result<Written, ApiError> {
    let (location, version) = (format!("/v1/keys/{}", key.id), key.version);
    let body = ApiKeyWithSecret { metadata: key, key: Some(minted.reveal().to_owned()), secret_already_shown: None };
    let written = Written::created(location, &to_value(&body)?)?;
    Ok(written.version(version).showing_once("key"))
}

fn mint_for(state: &AppState, environment: Environment) -> Result<MintedKey, ApiError> {
    mint(&state.settings.keys.brand, environment.into()).map_err(|fault| ApiError::internal(fault.to_string()))
}

/// Locks the subscription, so that the count stays true until the commit.
async fn room_for_another(tx: &Transaction<'_>, granted: &Granted, subscription: Uuid) -> Result<(), ApiError> {
    lock_open_subscription(tx, granted, subscription).await?;
    if rows::count_active(tx, subscription).await? >= ACTIVE_KEYS_MAX {
        let detail = format!("A subscription has at most {ACTIVE_KEYS_MAX} active keys. Revoke one first.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(())
}

/// Errors: 409 for a subscription that is over.
async fn lock_open_subscription(tx: &Transaction<'_>, granted: &Granted, id: Uuid) -> Result<(), ApiError> {
    let row = subscriptions::lock(tx, granted.organization, id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("subscription"))?;
    if row.status == SubscriptionStatus::Cancelled {
        return Err(ApiError::new(
            Code::InvalidState,
            "The subscription is cancelled: a key of it would open nothing.",
        ));
    }
    Ok(())
}

#[utoipa::path(get, path = "/v1/subscriptions/{id}/keys", tag = "keys",
    params(("id" = Uuid, Path, description = "The subscription"), KeysQuery),
    responses((status = 200, body = Page<ApiKey>)))]
async fn list_keys(
    State(state): State<AppState>,
    caller: Caller,
    Path(subscription): Path<Uuid>,
    Query(query): Query<KeysQuery>,
) -> Result<axum::Json<Page<ApiKey>>, ApiError> {
    let sides = &[Side::Consumer];
    let (granted, _) = access::to_subscription(&state, &caller, subscription, Role::Viewer, sides).await?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = KeyFilter { status: query.status, environment: query.environment };
    let (organization, after, limit) = (granted.organization, page.after(), page.rows());
    let found = state
        .store
        .read("list_keys", |tx| Box::pin(rows::list(tx, organization, subscription, filter, after, limit)))
        .await?;
    let place = |row: &KeyRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(page.page(found, place, ApiKey::from)))
}

#[utoipa::path(get, path = "/v1/keys/{id}", tag = "keys", params(("id" = Uuid, Path)),
    responses((status = 200, body = ApiKey)))]
async fn show_key(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    let (granted, _) = access::to_key(&state, &caller, id, Role::Viewer).await?;
    let row = state
        .store
        .read("show_key", |tx| Box::pin(rows::get(tx, granted.organization, id)))
        .await?
        .ok_or_else(|| ApiError::not_found("key"))?;
    Ok((with_etag(row.version), axum::Json(ApiKey::from(row))).into_response())
}

#[utoipa::path(patch, path = "/v1/keys/{id}", tag = "keys", request_body = KeyPatch, params(("id" = Uuid, Path), IfMatchHeader, PreferHeader),
    responses((status = 200, body = ApiKey), (status = 202, body = ApiKey)))]
async fn edit_key(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(patch): Json<KeyPatch>,
) -> Result<Response, ApiError> {
    let (granted, subscription) = access::to_key(&state, &caller, id, Role::Developer).await?;
    let (granted, if_match, patch) = (&granted, &if_match, &patch);
    let written =
        state.store.run_tx("edit_key", |tx| Box::pin(edit(tx, granted, subscription, id, if_match, patch))).await?;
    finish(&state, prefer, written).await
}

async fn edit(
    tx: &Transaction<'_>,
    granted: &Granted,
    subscription: Uuid,
    id: Uuid,
    if_match: &IfMatch,
    patch: &KeyPatch,
) -> Result<Written, ApiError> {
    let row = lock(tx, granted, subscription, id).await?;
    if_match.check(row.version)?;
    still_active(&row)?;
    let mut faults = Faults::default();
    let name = faults.take("/name", Name::parse(patch.name.as_deref().unwrap_or(&row.name)));
    let expires_at = match patch.expires_at {
        Some(wanted) => {
            faults.check("/expires_at", row.successor_id.is_none() || !is_later(wanted, row.expires_at), || {
                Flaw::new("must not be later than it is: the key was rotated").mend("Use the key that took its place.")
            });
            faults.take("/expires_at", parse_expiry(wanted, Timestamp::now()))
        }
        None => Some(row.expires_at),
    };
    let (name, expires_at) = faults.finish(name.zip(expires_at))?;
    let before = ApiKey::from(row);
    let key = ApiKey::from(rows::update(tx, id, name.as_str(), expires_at).await?);
    granted.log(tx, "key.update", ("api_key", id), seen(&before)?, seen(&key)?).await?;
    let change = changes::record(tx, EntityKind::Key, id).await?;
    Ok(Written::ok(&key)?.version(key.version).change(change))
}

#[utoipa::path(post, path = "/v1/keys/{id}/revoke", tag = "keys", params(("id" = Uuid, Path), PreferHeader),
    description = "For good. With `Prefer: wait=5` the answer says whether every gateway refuses it already.",
    responses((status = 200, body = ApiKey), (status = 202, body = ApiKey)))]
async fn revoke_key(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let (granted, subscription) = access::to_key(&state, &caller, id, Role::Developer).await?;
    let granted = &granted;
    let written = state.store.run_tx("revoke_key", |tx| Box::pin(revoke(tx, granted, subscription, id))).await?;
    finish(&state, prefer, written).await
}

async fn revoke(tx: &Transaction<'_>, granted: &Granted, subscription: Uuid, id: Uuid) -> Result<Written, ApiError> {
    let row = lock(tx, granted, subscription, id).await?;
    still_active(&row)?;
    let before = ApiKey::from(row);
    let key = ApiKey::from(rows::revoke(tx, id).await?);
    granted.log(tx, "key.revoke", ("api_key", id), seen(&before)?, seen(&key)?).await?;
    let change = changes::record(tx, EntityKind::Key, id).await?;
    Ok(Written::ok(&key)?.version(key.version).change(change))
}

/// The key, with every other writer of its subscription's keys waiting.
async fn lock(tx: &Transaction<'_>, granted: &Granted, subscription: Uuid, id: Uuid) -> Result<KeyRow, ApiError> {
    subscriptions::lock(tx, granted.organization, subscription).await?;
    rows::get(tx, granted.organization, id).await?.ok_or_else(|| ApiError::not_found("key"))
}

/// Never is the latest.
fn is_later(wanted: Option<Timestamp>, present: Option<Timestamp>) -> bool {
    match (wanted, present) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(present)) => wanted > present,
    }
}

fn still_active(row: &KeyRow) -> Result<(), ApiError> {
    if row.status == KeyStatus::Revoked {
        return Err(ApiError::new(Code::InvalidState, "The key is revoked."));
    }
    Ok(())
}
