//! Rotation: a new key takes over, the old one works on for an overlap, and at most one predecessor lives at a time.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use snapshot::key::MintedKey;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{ApiKey, ApiKeyWithSecret, Rotation, lock_open_subscription, mint_for, shown_once, still_active};
use crate::api::access::{self, Granted, seen};
use crate::api::auth::Caller;
use crate::api::extract::{OptionalDigestedJson, Path};
use crate::api::headers::{IdempotencyHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::key::{KeyStatus, Overlap};
use crate::store::Transaction;
use crate::store::keys::{self as rows, KeyRow};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(rotate_key))
}

#[utoipa::path(post, path = "/v1/keys/{id}/rotate", tag = "keys", request_body = Option<Rotation>, params(("id" = Uuid, Path), IdempotencyHeader, PreferHeader),
    description = "Shows a new key, this once; the old one works for the overlap. The old one's own predecessor ends at once.",
    responses((status = 201, body = ApiKeyWithSecret), (status = 202, body = ApiKeyWithSecret)))]
async fn rotate_key(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    form: OptionalDigestedJson<Rotation>,
) -> Result<Response, ApiError> {
    let (granted, subscription) = access::to_key(&state, &caller, id, Role::Developer).await?;
    let overlap =
        Overlap::parse(form.body.overlap_seconds).map_err(|flaw| ApiError::field("/overlap_seconds", flaw))?;
    let once = key.claim(&caller, form.digest);
    let environment = environment_of(&state, &granted, id).await?;
    let minted = mint_for(&state, environment)?;
    let (granted, once, minted) = (&granted, &once, &minted);
    let written = state
        .store
        .run_tx("rotate_key", |tx| Box::pin(rotate(tx, granted, subscription, id, once, overlap, minted)))
        .await?;
    finish(&state, prefer, written).await
}

/// It never changes, so it can be asked before the transaction.
async fn environment_of(
    state: &AppState,
    granted: &Granted,
    id: Uuid,
) -> Result<crate::domain::key::Environment, ApiError> {
    let organization = granted.organization;
    let row = state.store.read("find_key", |tx| Box::pin(rows::get(tx, organization, id))).await?;
    row.map(|row| row.environment).ok_or_else(|| ApiError::not_found("key"))
}

async fn rotate(
    tx: &Transaction<'_>,
    granted: &Granted,
    subscription: Uuid,
    id: Uuid,
    once: &Once,
    overlap: Overlap,
    minted: &MintedKey,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    lock_open_subscription(tx, granted, subscription).await?;
    let old = rows::get(tx, granted.organization, id).await?.ok_or_else(|| ApiError::not_found("key"))?;
    let now = Timestamp::now();
    can_be_replaced(&old, now)?;
    end_predecessor(tx, granted, &old).await?;
    let ends_at = overlap.end_of_old(old.expires_at, now);
    rows::update(tx, id, &old.name, Some(ends_at)).await?;
    changes::record(tx, EntityKind::Key, id).await?;
    let new = rows::NewKey {
        id: Uuid::now_v7(),
        subscription,
        name: &old.name,
        minted,
        environment: old.environment,
        scopes: &old.scopes,
        expires_at: old.expires_at,
        predecessor: Some(id),
        created_by: granted.user,
    };
    let key = ApiKey::from(rows::insert(tx, &new).await?);
    granted.log(tx, "key.rotate", ("api_key", id), seen(&ApiKey::from(old))?, seen(&key)?).await?;
    let change = changes::record(tx, EntityKind::Key, key.id).await?;
    let written = shown_once(key, minted)?.change(change);
    once.record(tx, &written).await?;
    Ok(written)
}

fn can_be_replaced(old: &KeyRow, now: Timestamp) -> Result<(), ApiError> {
    still_active(old)?;
    if old.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiError::new(Code::InvalidState, "The key has expired. Create a new one instead."));
    }
    match old.successor_id {
        Some(successor) => {
            let detail = format!("The key was rotated already; {successor} took its place. Rotate that one.");
            Err(ApiError::new(Code::InvalidState, detail))
        }
        None => Ok(()),
    }
}

/// Of three generations only two live: the oldest ends before its time.
async fn end_predecessor(tx: &Transaction<'_>, granted: &Granted, old: &KeyRow) -> Result<(), ApiError> {
    let Some(predecessor) = old.predecessor_id else { return Ok(()) };
    let row = rows::get(tx, granted.organization, predecessor).await?;
    let Some(row) = row.filter(|row| row.status == KeyStatus::Active) else { return Ok(()) };
    let before = ApiKey::from(row);
    let after = ApiKey::from(rows::revoke(tx, predecessor).await?);
    granted.log(tx, "key.revoke", ("api_key", predecessor), seen(&before)?, seen(&after)?).await?;
    changes::record(tx, EntityKind::Key, predecessor).await?;
    Ok(())
}
