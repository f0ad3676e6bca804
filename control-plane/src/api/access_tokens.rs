//! Access tokens: made, listed, revoked by their user. A token is shown once. Refuses to make one that may do more than who
//! asks for it, and one without an end.

use axum::extract::State;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::extract::{DigestedJson, Path, Query};
use crate::api::idempotency::IdempotencyKey;
use crate::api::page::{Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::domain::accounts::{Role, Scope};
use crate::domain::fault::{Faults, Flaw};
use crate::domain::text::Name;
use crate::store::access_tokens::{self, AccessTokenRow, NewAccessToken};
use crate::store::audit::{self, Target};
use crate::store::{After, Transaction, users};
use crate::tokens;

#[cfg(test)]
mod tests;

/// Tokens of one user that have not ended.
const TOKENS_PER_USER_MAX: i64 = 100;
const LIFETIME_DAYS_DEFAULT: i64 = 90;
const LIFETIME_DAYS_MAX: i64 = 366;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateAccessToken {
    #[schema(min_length = 1, max_length = 120)]
    name: String,
    /// The greatest one counts: `admin` holds `write`, which holds `read`.
    #[schema(min_items = 1, max_items = 3)]
    scopes: Vec<Scope>,
    /// At most 366 days from now; 90 days when left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Lets the token reach this organization only.
    #[serde(default)]
    organization_id: Option<Uuid>,
}

#[derive(Serialize, ToSchema)]
struct AccessTokenView {
    id: Uuid,
    name: String,
    /// Its first characters.
    prefix: String,
    scopes: Vec<Scope>,
    organization_id: Option<Uuid>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

#[derive(Serialize, ToSchema)]
struct CreatedAccessTokenView {
    #[serde(flatten)]
    access_token: AccessTokenView,
    /// Shown this once. A replay of the request leaves it out and says `secret_already_shown`.
    #[schema(value_type = Option<String>)]
    token: String,
}

impl AccessTokenView {
    fn of(row: AccessTokenRow) -> AccessTokenView {
        AccessTokenView {
            id: row.id,
            name: row.name,
            prefix: row.prefix,
            scopes: row.scopes,
            organization_id: row.organization_id,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            created_at: row.created_at,
        }
    }
}

/// What a request asks for, checked.
struct Wanted {
    name: Name,
    scopes: Vec<Scope>,
    expires_at: Timestamp,
    organization_id: Option<Uuid>,
}

impl Wanted {
    fn parse(body: &CreateAccessToken, now: Timestamp) -> Result<Wanted, Faults> {
        let mut faults = Faults::default();
        let name = faults.take("/name", Name::parse(&body.name));
        let mut scopes = body.scopes.clone();
        scopes.sort();
        scopes.dedup();
        faults.check("/scopes", !scopes.is_empty(), || {
            Flaw::new("is empty").mend("name at least one of read, write, admin")
        });
        let expires_at = faults.take("/expires_at", parse_expiry(body.expires_at, now));
        let organization_id = body.organization_id;
        let whole = (|| Some(Wanted { name: name?, scopes, expires_at: expires_at?, organization_id }))();
        faults.finish(whole)
    }
}

fn parse_expiry(wanted: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Flaw> {
    let after_days = |days: i64| now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(now);
    let wanted = wanted.unwrap_or_else(|| after_days(LIFETIME_DAYS_DEFAULT));
    if wanted <= now {
        return Err(Flaw::new("has passed").mend("give a time to come"));
    }
    if wanted > after_days(LIFETIME_DAYS_MAX) {
        return Err(Flaw::new(format!("is more than {LIFETIME_DAYS_MAX} days away")).mend("give an earlier time"));
    }
    Ok(wanted)
}

/// Make an access token
#[utoipa::path(post, path = "/v1/access-tokens", tag = "access tokens", operation_id = "create_access_token",
    request_body = CreateAccessToken,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request answer like the first")),
    responses((status = 201, description = "Made; the token is shown this once", body = CreatedAccessTokenView)))]
async fn create(
    State(state): State<AppState>,
    caller: Caller,
    key: IdempotencyKey,
    prefer: Prefer,
    DigestedJson { body, digest }: DigestedJson<CreateAccessToken>,
) -> Result<Response, ApiError> {
    caller.require_unbound()?;
    caller.require_scope(Scope::Admin)?;
    let wanted = Wanted::parse(&body, Timestamp::now())?;
    if let Some(organization_id) = wanted.organization_id {
        caller.member_of(&state.store, organization_id, Role::Viewer).await?;
    }
    let minted = tokens::mint_access_token().map_err(|fault| ApiError::internal(fault.to_string()))?;
    let once = key.claim(&caller, digest);
    let (caller, once, wanted, minted) = (&caller, &once, &wanted, &minted);
    let written = state.store.run_tx("create_access_token", |tx| {
        Box::pin(async move {
            if let Some(replay) = once.replay(tx).await? {
                return Ok(replay);
            }
            refuse_beyond_limit(tx, caller.user_id).await?;
            let new = NewAccessToken {
                id: Uuid::now_v7(),
                user_id: caller.user_id,
                organization_id: wanted.organization_id,
                name: wanted.name.as_str(),
                prefix: &minted.prefix,
                token_digest: &minted.digest,
                scopes: &wanted.scopes,
                expires_at: Some(wanted.expires_at),
            };
            let row = access_tokens::insert_access_token(tx, new).await?;
            let id = row.id;
            let view = AccessTokenView::of(row);
            let target = Target { kind: "access_token", id, organization_id: wanted.organization_id };
            let after = crate::api::write::to_value(&view)?;
            audit::write(tx, &caller.actor(), "access_token.create", target, None, Some(after)).await?;
            let view = CreatedAccessTokenView { access_token: view, token: minted.reveal().to_owned() };
            let written = Written::created(format!("/v1/access-tokens/{id}"), &view)?.showing_once("token");
            once.record(tx, &written).await?;
            Ok::<_, ApiError>(written)
        })
    });
    finish(&state, prefer, written.await?).await
}

/// The lock on the user makes the count true until the commit.
async fn refuse_beyond_limit(tx: &Transaction<'_>, user_id: Uuid) -> Result<(), ApiError> {
    users::lock_user(tx, user_id).await?;
    if access_tokens::count_valid(tx, user_id).await? >= TOKENS_PER_USER_MAX {
        let detail = format!("A user has at most {TOKENS_PER_USER_MAX} access tokens. Revoke one first.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(())
}

/// List your access tokens
#[utoipa::path(get, path = "/v1/access-tokens", tag = "access tokens", operation_id = "list_access_tokens", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<AccessTokenView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<AccessTokenView>>, ApiError> {
    caller.require_unbound()?;
    let user_id = caller.user_id;
    let rows = state.store.read("list_access_tokens", |tx| {
        Box::pin(async move { access_tokens::list_access_tokens(tx, user_id, query.after(), query.rows()).await })
    });
    let rows = rows.await.map_err(ApiError::from)?;
    let key = |row: &AccessTokenRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(query.page(rows, key, AccessTokenView::of)))
}

/// Revoke an access token
#[utoipa::path(delete, path = "/v1/access-tokens/{id}", tag = "access tokens", operation_id = "delete_access_token",
    params(("id" = Uuid, Path, description = "The token's id")),
    responses((status = 204, description = "Revoked")))]
async fn delete(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    caller.require_unbound()?;
    caller.require_scope(Scope::Admin)?;
    let caller = &caller;
    let revoked = state.store.run_tx("revoke_access_token", |tx| {
        Box::pin(async move {
            let found = access_tokens::revoke_access_token(tx, caller.user_id, id).await?;
            let row = found.ok_or_else(|| ApiError::not_found("access token"))?;
            let target = Target { kind: "access_token", id, organization_id: row.organization_id };
            let before = crate::api::write::to_value(&AccessTokenView::of(row))?;
            audit::write(tx, &caller.actor(), "access_token.delete", target, Some(before), None).await?;
            Ok::<_, ApiError>(())
        })
    });
    revoked.await?;
    finish(&state, Prefer::default(), Written::no_content()).await
}
