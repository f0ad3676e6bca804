//! Sessions: sign in, see where one is signed in, sign out. The same answer in the same time, whether the address is unknown
//! or the password wrong. Refuses to put a session's token anywhere but into the cookie.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::Secret;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::{self, Caller};
use crate::api::extract::{Json, Path, Query};
use crate::api::page::{Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::source::Source;
use crate::api::state::AppState;
use crate::api::users::UserView;
use crate::api::write::{Prefer, Written, finish};
use crate::domain::accounts::Scope;
use crate::passwords::PASSWORD_CHARS_MAX;
use crate::store::audit::{self, Actor, Target};
use crate::store::sessions::{NewSession, SessionRow};
use crate::store::users::{SignInRow, UserRow};
use crate::store::{After, sessions, users};
use crate::tokens;

#[cfg(test)]
mod tests;

/// What of a browser's name is kept, in characters.
const USER_AGENT_CHARS_MAX: usize = 512;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateSession {
    #[schema(example = "ann@example.com")]
    email: String,
    password: String,
}

#[derive(Serialize, ToSchema)]
struct SessionView {
    id: Uuid,
    /// Whether it is the one that asks.
    is_current: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_seen_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    user_agent: Option<String>,
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
}

#[derive(Serialize, ToSchema)]
struct SignedInView {
    id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    user: UserView,
}

impl SessionView {
    fn of(row: SessionRow, current: Option<Uuid>) -> SessionView {
        SessionView {
            id: row.id,
            is_current: current == Some(row.id),
            created_at: row.created_at,
            last_seen_at: row.last_seen_at,
            expires_at: row.expires_at,
            user_agent: row.user_agent,
            address: row.address,
        }
    }
}

/// Sign in
///
/// The session comes as a cookie.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", operation_id = "create_session", request_body = CreateSession,
    security(()), responses((status = 201, description = "Signed in; see the Set-Cookie header", body = SignedInView)))]
async fn create(
    State(state): State<AppState>,
    source: Source,
    headers: HeaderMap,
    Json(body): Json<CreateSession>,
) -> Result<Response, ApiError> {
    if headers.contains_key(header::ORIGIN) {
        auth::require_own_origin(&headers, &state.settings)?;
    }
    let now = Instant::now();
    let throttled = state.throttles.attempt_sign_in(&body.email, source.address, now);
    throttled.map_err(|throttled| auth::refuse(&state, throttled))?;
    let email = body.email.clone();
    let user = authenticate(&state, body).await?;
    state.throttles.signed_in(&email, source.address, now);
    let minted = tokens::mint_session().map_err(|fault| ApiError::internal(fault.to_string()))?;
    let session = open_session(&state, &user, source, &headers, &minted.digest).await?;
    let view = SignedInView { id: session.id, expires_at: session.expires_at, user: UserView::of(&user) };
    let written = Written::created(format!("/v1/sessions/{}", session.id), &view)?;
    let mut response = finish(&state, Prefer::default(), written).await?;
    set_cookie(&mut response, &state, minted.reveal(), state.settings.sessions.ttl.as_secs())?;
    Ok(response)
}

/// Errors: 401 in the same words and after the same work, whatever is wrong.
async fn authenticate(state: &AppState, body: CreateSession) -> Result<UserRow, ApiError> {
    let email = body.email.trim().to_owned();
    let email = &email;
    let found = state
        .store
        .read("find_for_sign_in", |tx| Box::pin(async move { users::find_for_sign_in(tx, email).await }))
        .await?;
    let (user, hash) = match found {
        Some(SignInRow { user, password_hash }) => (Some(user), password_hash),
        None => (None, None),
    };
    // Nobody could have set a longer one; hashing it would only take time.
    let password = if body.password.chars().count() > PASSWORD_CHARS_MAX { String::new() } else { body.password };
    let is_right = state.passwords.verify(Secret::new(password), hash).await?;
    let user = user.filter(|user| is_right && user.is_active);
    user.ok_or_else(|| ApiError::new(Code::InvalidCredentials, "Check both and try again."))
}

async fn open_session(
    state: &AppState,
    user: &UserRow,
    source: Source,
    headers: &HeaderMap,
    token_digest: &[u8],
) -> Result<SessionRow, ApiError> {
    let id = Uuid::now_v7();
    let ttl_s = i64::try_from(state.settings.sessions.ttl.as_secs()).unwrap_or(i64::MAX);
    let expires_at = Timestamp::now()
        .checked_add(jiff::SignedDuration::from_secs(ttl_s))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let user_agent: Option<String> = user_agent.map(|text| text.chars().take(USER_AGENT_CHARS_MAX).collect());
    let new = NewSession {
        id,
        user_id: user.id,
        token_digest,
        expires_at,
        user_agent: user_agent.as_deref(),
        address: source.address,
    };
    let actor = Actor {
        user_id: Some(user.id),
        token_id: None,
        address: Some(source.address),
        request_id: Some(source.request_id),
    };
    let session = state.store.run_tx("open_session", |tx| {
        Box::pin(async move {
            let session = sessions::insert_session(tx, new).await?;
            users::record_sign_in(tx, user.id).await?;
            let target = Target { kind: "session", id, organization_id: None };
            audit::write(tx, &actor, "session.create", target, None, None).await?;
            Ok::<_, ApiError>(session)
        })
    });
    session.await
}

/// List your sessions
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", operation_id = "list_sessions", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<SessionView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<SessionView>>, ApiError> {
    caller.require_unbound()?;
    let (user_id, current) = (caller.user_id, caller.session_id());
    let rows = state.store.read("list_sessions", |tx| {
        Box::pin(async move { sessions::list_sessions(tx, user_id, query.after(), query.rows()).await })
    });
    let rows = rows.await.map_err(ApiError::from)?;
    let key = |row: &SessionRow| After { created_at: row.created_at, id: row.id };
    Ok(axum::Json(query.page(rows, key, |row| SessionView::of(row, current))))
}

/// Sign out
///
/// `current` names the session that asks.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions", operation_id = "delete_session",
    params(("id" = String, Path, description = "A session's id, or `current`")),
    responses((status = 204, description = "Signed out")))]
async fn delete(State(state): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<Response, ApiError> {
    caller.require_unbound()?;
    caller.require_scope(Scope::Admin)?;
    let wanted = if id == "current" { caller.session_id() } else { id.parse().ok() };
    let id = wanted.ok_or_else(|| ApiError::not_found("session"))?;
    let caller = &caller;
    let revoked = state.store.run_tx("revoke_session", |tx| {
        Box::pin(async move {
            if !sessions::revoke_session(tx, caller.user_id, id).await? {
                return Err(ApiError::not_found("session"));
            }
            let target = Target { kind: "session", id, organization_id: None };
            Ok(audit::write(tx, &caller.actor(), "session.delete", target, None, None).await?)
        })
    });
    revoked.await?;
    let mut response = finish(&state, Prefer::default(), Written::no_content()).await?;
    if caller.session_id() == Some(id) {
        set_cookie(&mut response, &state, "", 0)?;
    }
    Ok(response)
}

fn set_cookie(response: &mut Response, state: &AppState, token: &str, max_age_s: u64) -> Result<(), ApiError> {
    let cookie = auth::set_cookie(&state.settings, token, max_age_s);
    let value = HeaderValue::from_str(&cookie).map_err(|error| ApiError::internal(error.to_string()))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(())
}
