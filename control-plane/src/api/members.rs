//! Members of an organization: admins add, change and remove them; owners alone make owners; everybody may leave. Refuses
//! to leave an organization without an owner.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::{Caller, Member};
use crate::api::etag::IfMatch;
use crate::api::extract::{DigestedJson, Json, Path, Query};
use crate::api::idempotency::IdempotencyKey;
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish, to_value};
use crate::domain::accounts::{Email, Role, Scope};
use crate::domain::fault::Flaw;
use crate::store::audit::{self, Target};
use crate::store::members::{self, MEMBER_KEY, MemberRow};
use crate::store::{After, Transaction, organizations, users};

#[cfg(test)]
mod tests;

/// Members of one organization.
const MEMBERS_PER_ORGANIZATION_MAX: i64 = 1_000;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(change, delete))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateMember {
    /// Of somebody who has registered.
    #[schema(example = "ben@example.com", min_length = 3, max_length = 254)]
    email: String,
    role: Role,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeMember {
    role: Role,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct MembersQuery {
    /// Rows on the page.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only members with this role.
    #[serde(default)]
    #[param(inline)]
    role: Option<Role>,
}

#[derive(Serialize, ToSchema)]
struct MemberView {
    user_id: Uuid,
    email: String,
    display_name: String,
    role: Role,
    #[schema(value_type = String, format = DateTime)]
    joined_at: Timestamp,
}

impl MemberView {
    fn of(row: MemberRow) -> MemberView {
        MemberView {
            user_id: row.user_id,
            email: row.email,
            display_name: row.display_name,
            role: row.role,
            joined_at: row.joined_at,
        }
    }
}

/// List members
#[utoipa::path(get, path = "/v1/organizations/{id}/members", tag = "members", operation_id = "list_members",
    params(("id" = Uuid, Path, description = "The organization's id"), MembersQuery),
    responses((status = 200, description = "A page", body = Page<MemberView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<MembersQuery>,
) -> Result<axum::Json<Page<MemberView>>, ApiError> {
    let (caller, role) = (&caller, query.role);
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let rows = state.store.read("list_members", |tx| {
        Box::pin(async move {
            caller.member_in(tx, id, Role::Viewer).await?;
            Ok::<_, ApiError>(members::list_members(tx, id, role, page.after(), page.rows()).await?)
        })
    });
    let key = |row: &MemberRow| After { created_at: row.joined_at, id: row.user_id };
    Ok(axum::Json(page.page(rows.await?, key, MemberView::of)))
}

/// Add a member
#[utoipa::path(post, path = "/v1/organizations/{id}/members", tag = "members", operation_id = "create_member",
    request_body = CreateMember,
    params(("id" = Uuid, Path, description = "The organization's id"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request answer like the first")),
    responses((status = 201, description = "Added", body = MemberView)))]
async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    DigestedJson { body, digest }: DigestedJson<CreateMember>,
) -> Result<Response, ApiError> {
    let member = caller.member_of(&state.store, id, Role::Admin).await?;
    caller.require_scope(Scope::Admin)?;
    require_owner_for_owners(member, &[body.role])?;
    let email = Email::parse(&body.email).map_err(|flaw| ApiError::field("/email", flaw))?;
    let once = key.claim(&caller, digest);
    let (caller, once, email, role) = (&caller, &once, &email, body.role);
    let written = state.store.run_tx("create_member", |tx| {
        Box::pin(async move {
            if let Some(replay) = once.replay(tx).await? {
                return Ok(replay);
            }
            refuse_beyond_limit(tx, id).await?;
            let row = add(tx, id, email, role).await?;
            let (user_id, version) = (row.user_id, row.version);
            let view = MemberView::of(row);
            let target = Target { kind: "member", id: user_id, organization_id: Some(id) };
            audit::write(tx, &caller.actor(), "member.create", target, None, Some(to_value(&view)?)).await?;
            let location = format!("/v1/organizations/{id}/members/{user_id}");
            let written = Written::created(location, &view)?.version(version);
            once.record(tx, &written).await?;
            Ok::<_, ApiError>(written)
        })
    });
    finish(&state, prefer, written.await?).await
}

/// The lock on the organization makes the count true until the commit.
async fn refuse_beyond_limit(tx: &Transaction<'_>, id: Uuid) -> Result<(), ApiError> {
    organizations::lock_organization(tx, id).await?.ok_or_else(|| ApiError::not_found("organization"))?;
    if members::count_members(tx, id).await? >= MEMBERS_PER_ORGANIZATION_MAX {
        let detail = format!("An organization has at most {MEMBERS_PER_ORGANIZATION_MAX} members. Remove one first.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(())
}

async fn add(tx: &Transaction<'_>, id: Uuid, email: &Email, role: Role) -> Result<MemberRow, ApiError> {
    let user = users::find_user_by_email(tx, email.as_str()).await?.filter(|user| user.is_active);
    let user = user.ok_or_else(|| {
        let flaw = Flaw::new("belongs to nobody who has registered").mend("ask them to register first");
        ApiError::field("/email", flaw)
    })?;
    members::insert_member(tx, id, user.id, role).await.map_err(|error| match error.is_conflict_on(MEMBER_KEY) {
        true => ApiError::new(Code::AlreadyExists, "This user is a member already. Change the role instead."),
        false => ApiError::from(error),
    })?;
    find(tx, id, user.id).await
}

/// Change a member's role
#[utoipa::path(patch, path = "/v1/organizations/{id}/members/{user_id}", tag = "members", operation_id = "change_member",
    request_body = ChangeMember,
    params(("id" = Uuid, Path, description = "The organization's id"),
           ("user_id" = Uuid, Path, description = "The member's user id"),
           ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses((status = 200, description = "Changed", body = MemberView)))]
async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, user_id)): Path<(Uuid, Uuid)>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(body): Json<ChangeMember>,
) -> Result<Response, ApiError> {
    let (caller, if_match) = (&caller, &if_match);
    let written = state.store.run_tx("change_member", |tx| {
        Box::pin(async move {
            let member = caller.member_in(tx, id, Role::Admin).await?;
            caller.require_scope(Scope::Admin)?;
            let before = find(tx, id, user_id).await?;
            require_owner_for_owners(member, &[before.role, body.role])?;
            if_match.check(before.version)?;
            members::update_role(tx, id, user_id, body.role).await?;
            let after = find(tx, id, user_id).await?;
            let version = after.version;
            let target = Target { kind: "member", id: user_id, organization_id: Some(id) };
            let (was, is) = (json!({"role": before.role}), json!({"role": after.role}));
            audit::write(tx, &caller.actor(), "member.update", target, Some(was), Some(is)).await?;
            Ok::<_, ApiError>(Written::ok(&MemberView::of(after))?.version(version))
        })
    });
    finish(&state, prefer, written.await?).await
}

/// Remove a member
///
/// Everybody may remove himself.
#[utoipa::path(delete, path = "/v1/organizations/{id}/members/{user_id}", tag = "members", operation_id = "delete_member",
    params(("id" = Uuid, Path, description = "The organization's id"),
           ("user_id" = Uuid, Path, description = "The member's user id")),
    responses((status = 204, description = "Removed")))]
async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, user_id)): Path<(Uuid, Uuid)>,
) -> Result<Response, ApiError> {
    let caller = &caller;
    let removed = state.store.run_tx("delete_member", |tx| {
        Box::pin(async move {
            let needed = if user_id == caller.user_id { Role::Viewer } else { Role::Admin };
            let member = caller.member_in(tx, id, needed).await?;
            caller.require_scope(Scope::Admin)?;
            let before = find(tx, id, user_id).await?;
            require_owner_for_owners(member, &[before.role])?;
            members::delete_member(tx, id, user_id).await?;
            let target = Target { kind: "member", id: user_id, organization_id: Some(id) };
            let was = to_value(&MemberView::of(before))?;
            audit::write(tx, &caller.actor(), "member.delete", target, Some(was), None).await?;
            Ok::<_, ApiError>(())
        })
    });
    removed.await?;
    finish(&state, Prefer::default(), Written::no_content()).await
}

async fn find(tx: &Transaction<'_>, id: Uuid, user_id: Uuid) -> Result<MemberRow, ApiError> {
    members::lock_member(tx, id, user_id).await?.ok_or_else(|| ApiError::not_found("member"))
}

/// Admins rank below owners, so they neither make nor unmake one.
fn require_owner_for_owners(member: Member, roles: &[Role]) -> Result<(), ApiError> {
    if member.role < Role::Owner && roles.contains(&Role::Owner) {
        return Err(ApiError::new(Code::InsufficientRole, "Only an owner may make, change or remove an owner."));
    }
    Ok(())
}
