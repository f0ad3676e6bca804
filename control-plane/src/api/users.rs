//! Users: registration, and what a user sees and changes of himself. Refuses to show one user to another.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::Secret;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::{self, Caller};
use crate::api::etag::IfMatch;
use crate::api::extract::{Json, not_null};
use crate::api::problem::{ApiError, Code};
use crate::api::source::Source;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::domain::accounts::{Email, Scope};
use crate::domain::fault::{Faults, Flaw};
use crate::domain::text::Name;
use crate::passwords;
use crate::store::audit::{self, Actor, Target};
use crate::store::registration::{Registration, register};
use crate::store::users::{EMAIL_KEY, SignInRow, UserRow};
use crate::store::{StoreError, sessions, users};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(create)).routes(routes!(show, change))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateUser {
    #[schema(example = "ann@example.com", min_length = 3, max_length = 254)]
    email: String,
    /// Not among the common ones.
    #[schema(min_length = 10, max_length = 1024)]
    password: String,
    /// The part before the `@` when left out.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 120)]
    display_name: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeUser {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 120, nullable = false)]
    display_name: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    password: Option<ChangePassword>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangePassword {
    current: String,
    #[schema(min_length = 10, max_length = 1024)]
    new: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct UserView {
    id: Uuid,
    email: String,
    display_name: String,
    /// Operator of this installation.
    is_admin: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

#[derive(Serialize, ToSchema)]
struct RegisteredView {
    #[serde(flatten)]
    user: UserView,
    /// Made for the user, who owns it.
    personal_organization_id: Uuid,
    personal_organization_slug: String,
}

impl UserView {
    pub(super) fn of(row: &UserRow) -> UserView {
        UserView {
            id: row.id,
            email: row.email.clone(),
            display_name: row.display_name.clone(),
            is_admin: row.is_admin,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Register
///
/// Makes the user and an organization of his own.
#[utoipa::path(post, path = "/v1/users", tag = "users", operation_id = "create_user", request_body = CreateUser, security(()),
    responses((status = 201, description = "Registered", body = RegisteredView)))]
async fn create(
    State(state): State<AppState>,
    source: Source,
    prefer: Prefer,
    Json(body): Json<CreateUser>,
) -> Result<Response, ApiError> {
    if !state.settings.sessions.registration_open {
        return Err(ApiError::new(Code::RegistrationClosed, "Ask an operator of this installation for an account."));
    }
    let now = std::time::Instant::now();
    state.throttles.attempt_registration(source.address, now).map_err(|throttled| auth::refuse(&state, throttled))?;
    let (email, display_name, password) = parse_new(body)?;
    let password_hash = state.passwords.hash(password).await?;
    let new =
        Registration { email: &email, display_name: &display_name, password_hash: &password_hash, is_admin: false };
    let actor = Actor { address: Some(source.address), request_id: Some(source.request_id), ..Actor::default() };
    let new = &new;
    let outcome = state.store.run_tx("register", |tx| Box::pin(register(tx, new, actor))).await;
    let registered = outcome.map_err(|error: StoreError| match error.is_conflict_on(EMAIL_KEY) {
        true => ApiError::new(Code::AlreadyExists, "A user with this e-mail address exists already. Sign in instead."),
        false => ApiError::from(error),
    })?;
    let view = RegisteredView {
        user: UserView::of(&registered.user),
        personal_organization_id: registered.organization.id,
        personal_organization_slug: registered.organization.slug,
    };
    let written = Written::created("/v1/users/me".to_owned(), &view)?.version(registered.user.version);
    finish(&state, prefer, written).await
}

fn parse_new(body: CreateUser) -> Result<(Email, Name, Secret), Faults> {
    let mut faults = Faults::default();
    let email = faults.take("/email", Email::parse(&body.email));
    let typed = body.display_name.as_deref();
    let name_text = typed.or(email.as_ref().map(Email::local_part));
    let name = name_text.and_then(|text| faults.take("/display_name", Name::parse(text)));
    faults.take("/password", passwords::check_new(&body.password, &body.email));
    let whole = (|| Some((email?, name?, Secret::new(body.password))))();
    faults.finish(whole)
}

/// Show yourself
#[utoipa::path(get, path = "/v1/users/me", tag = "users", operation_id = "show_user",
    responses((status = 200, description = "You", body = UserView)))]
async fn show(State(state): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    let id = caller.user_id;
    let user = state
        .store
        .read("find_user", |tx| Box::pin(async move { users::find_user(tx, id).await }))
        .await?
        .ok_or_else(|| ApiError::not_found("user"))?;
    let written =
        Written::new(StatusCode::OK, crate::api::write::to_value(&UserView::of(&user))?).version(user.version);
    finish(&state, Prefer::default(), written).await
}

/// Change yourself
///
/// A new password needs the current one, and signs every other session out.
#[utoipa::path(patch, path = "/v1/users/me", tag = "users", operation_id = "change_user", request_body = ChangeUser,
    responses((status = 200, description = "Changed", body = UserView)))]
async fn change(
    State(state): State<AppState>,
    caller: Caller,
    if_match: IfMatch,
    prefer: Prefer,
    Json(body): Json<ChangeUser>,
) -> Result<Response, ApiError> {
    caller.require_unbound()?;
    caller.require_scope(Scope::Admin)?;
    let mut faults = Faults::default();
    let display_name = faults.take("/display_name", body.display_name.as_deref().map(Name::parse).transpose());
    let display_name = faults.finish(display_name)?;
    let password_hash = match body.password {
        Some(change) => Some(check_and_hash(&state, &caller, change).await?),
        None => None,
    };
    let (caller, if_match) = (&caller, &if_match);
    let (name, hash) = (display_name.as_ref().map(Name::as_str), password_hash.as_deref());
    let written = state
        .store
        .run_tx("change_user", |tx| {
            Box::pin(async move {
                let SignInRow { user, .. } =
                    users::lock_user(tx, caller.user_id).await?.ok_or_else(|| ApiError::not_found("user"))?;
                if_match.check(user.version)?;
                let changed = users::update_user(tx, user.id, name, hash).await?;
                if hash.is_some() {
                    sessions::revoke_other_sessions(tx, user.id, caller.session_id()).await?;
                }
                let before = serde_json::json!({"display_name": user.display_name});
                let after =
                    serde_json::json!({"display_name": changed.display_name, "is_password_new": hash.is_some()});
                let target = Target { kind: "user", id: user.id, organization_id: None };
                audit::write(tx, &caller.actor(), "user.update", target, Some(before), Some(after)).await?;
                Ok::<_, ApiError>(Written::ok(&UserView::of(&changed))?.version(changed.version))
            })
        })
        .await?;
    finish(&state, prefer, written).await
}

/// Guessing the current password is throttled like signing in.
async fn check_and_hash(state: &AppState, caller: &Caller, change: ChangePassword) -> Result<String, ApiError> {
    let id = caller.user_id;
    let found = state
        .store
        .read("find_password", |tx| Box::pin(async move { users::find_with_password(tx, id).await }))
        .await?;
    let SignInRow { user, password_hash } = found.ok_or_else(|| ApiError::not_found("user"))?;
    let now = std::time::Instant::now();
    let throttled = state.throttles.attempt_sign_in(&user.email, caller.address, now);
    throttled.map_err(|throttled| auth::refuse(state, throttled))?;
    if !state.passwords.verify(Secret::new(change.current), password_hash).await? {
        return Err(ApiError::field("/password/current", Flaw::new("is not your password")));
    }
    state.throttles.signed_in(&user.email, caller.address, now);
    passwords::check_new(&change.new, &user.email).map_err(|flaw| ApiError::field("/password/new", flaw))?;
    Ok(state.passwords.hash(Secret::new(change.new)).await?)
}
