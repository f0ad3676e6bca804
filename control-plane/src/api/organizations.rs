//! Organizations: made by anybody, seen by their members, changed by their admins. Refuses to rename an address that
//! consumers already call.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::etag::IfMatch;
use crate::api::extract::{DigestedJson, Json, Path, Query, not_null};
use crate::api::idempotency::IdempotencyKey;
use crate::api::page::{Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish, to_value};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::{Currency, Role, Scope, TimeZoneName, parse_organization_slug};
use crate::domain::fault::{Faults, Flaw};
use crate::domain::text::{Name, Slug};
use crate::store::audit::{self, Target};
use crate::store::members::insert_member;
use crate::store::organizations::{
    self, NewOrganization, OrganizationChange, OrganizationRow, OwnOrganization, SLUG_KEY,
};
use crate::store::{After, StoreError, Transaction, users};

#[cfg(test)]
mod tests;

/// Organizations that one user owns: bounds what a registration can cost.
const ORGANIZATIONS_PER_USER_MAX: i64 = 100;
const TIME_ZONE_DEFAULT: &str = "UTC";
const CURRENCY_DEFAULT: &str = "USD";

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, change))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateOrganization {
    /// First segment of its products' addresses on the gateway.
    #[schema(example = "acme", min_length = 2, max_length = 40, pattern = "^[a-z0-9](-?[a-z0-9])*$")]
    slug: String,
    #[schema(min_length = 1, max_length = 120)]
    name: String,
    /// IANA name; invoices are cut in it. `UTC` when left out.
    #[serde(default)]
    #[schema(example = "Europe/Berlin")]
    time_zone: Option<String>,
    /// ISO 4217; `USD` when left out.
    #[serde(default)]
    #[schema(example = "EUR", pattern = "^[A-Z]{3}$")]
    currency: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeOrganization {
    /// Only before the first product is published.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(min_length = 2, max_length = 40, nullable = false)]
    slug: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(min_length = 1, max_length = 120, nullable = false)]
    name: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    time_zone: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(pattern = "^[A-Z]{3}$", nullable = false)]
    currency: Option<String>,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OrganizationStatus {
    Active,
    Suspended,
}

#[derive(Serialize, ToSchema)]
struct OrganizationView {
    id: Uuid,
    slug: String,
    name: String,
    /// Made at sign-up.
    is_personal: bool,
    time_zone: String,
    currency: String,
    status: OrganizationStatus,
    /// Yours in it.
    role: Role,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl OrganizationView {
    fn of(row: OrganizationRow, role: Role) -> OrganizationView {
        OrganizationView {
            id: row.id,
            slug: row.slug,
            name: row.name,
            is_personal: row.is_personal,
            time_zone: row.time_zone,
            currency: row.currency,
            status: if row.is_active { OrganizationStatus::Active } else { OrganizationStatus::Suspended },
            role,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Fields of a create or a change, checked; `None` where left out.
struct Terms {
    slug: Option<Slug>,
    name: Option<Name>,
    time_zone: Option<TimeZoneName>,
    currency: Option<Currency>,
}

impl Terms {
    fn parse(
        slug: Option<&str>,
        name: Option<&str>,
        time_zone: Option<&str>,
        currency: Option<&str>,
    ) -> Result<Terms, Faults> {
        let mut faults = Faults::default();
        let slug = faults.take("/slug", slug.map(parse_organization_slug).transpose());
        let name = faults.take("/name", name.map(Name::parse).transpose());
        let time_zone = faults.take("/time_zone", time_zone.map(TimeZoneName::parse).transpose());
        let currency = faults.take("/currency", currency.map(Currency::parse).transpose());
        let whole = (|| Some(Terms { slug: slug?, name: name?, time_zone: time_zone?, currency: currency? }))();
        faults.finish(whole)
    }

    fn as_change(&self) -> OrganizationChange<'_> {
        OrganizationChange {
            slug: self.slug.as_ref().map(Slug::as_str),
            name: self.name.as_ref().map(Name::as_str),
            time_zone: self.time_zone.as_ref().map(TimeZoneName::as_str),
            currency: self.currency.as_ref().map(Currency::as_str),
        }
    }

    /// Postgres has the last word on which zones exist.
    async fn check_time_zone(&self, tx: &Transaction<'_>) -> Result<(), ApiError> {
        match &self.time_zone {
            Some(zone) if !organizations::is_time_zone(tx, zone.as_str()).await? => {
                Err(ApiError::field("/time_zone", TimeZoneName::unknown()))
            }
            _ => Ok(()),
        }
    }
}

fn slug_taken() -> ApiError {
    let errors = vec![Flaw::new("is taken").mend("choose another").at("/slug")];
    ApiError { errors, ..ApiError::new(Code::AlreadyExists, "Another organization has this slug.") }
}

/// Make an organization
///
/// You become its owner.
#[utoipa::path(post, path = "/v1/organizations", tag = "organizations", operation_id = "create_organization",
    request_body = CreateOrganization,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request answer like the first")),
    responses((status = 201, description = "Made", body = OrganizationView)))]
async fn create(
    State(state): State<AppState>,
    caller: Caller,
    key: IdempotencyKey,
    prefer: Prefer,
    DigestedJson { body, digest }: DigestedJson<CreateOrganization>,
) -> Result<Response, ApiError> {
    caller.require_unbound()?;
    caller.require_scope(Scope::Admin)?;
    let terms = Terms::parse(
        Some(&body.slug),
        Some(&body.name),
        Some(body.time_zone.as_deref().unwrap_or(TIME_ZONE_DEFAULT)),
        Some(body.currency.as_deref().unwrap_or(CURRENCY_DEFAULT)),
    )?;
    let once = key.claim(&caller, digest);
    let (caller, once, terms) = (&caller, &once, &terms);
    let written = state.store.run_tx("create_organization", |tx| {
        Box::pin(async move {
            if let Some(replay) = once.replay(tx).await? {
                return Ok(replay);
            }
            refuse_beyond_limit(tx, caller.user_id).await?;
            terms.check_time_zone(tx).await?;
            let row = insert(tx, terms).await?;
            insert_member(tx, row.id, caller.user_id, Role::Owner).await?;
            let (id, version) = (row.id, row.version);
            let view = OrganizationView::of(row, Role::Owner);
            let target = Target { kind: "organization", id, organization_id: Some(id) };
            audit::write(tx, &caller.actor(), "organization.create", target, None, Some(to_value(&view)?)).await?;
            let written = Written::created(format!("/v1/organizations/{id}"), &view)?.version(version);
            once.record(tx, &written).await?;
            Ok::<_, ApiError>(written)
        })
    });
    finish(&state, prefer, written.await?).await
}

/// The lock on the user makes the count true until the commit.
async fn refuse_beyond_limit(tx: &Transaction<'_>, user_id: Uuid) -> Result<(), ApiError> {
    users::lock_user(tx, user_id).await?;
    if organizations::count_owned(tx, user_id).await? >= ORGANIZATIONS_PER_USER_MAX {
        let detail = format!("A user owns at most {ORGANIZATIONS_PER_USER_MAX} organizations. Leave one first.");
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(())
}

async fn insert(tx: &Transaction<'_>, terms: &Terms) -> Result<OrganizationRow, ApiError> {
    let OrganizationChange { slug, name, time_zone, currency } = terms.as_change();
    let new = NewOrganization {
        id: Uuid::now_v7(),
        slug: slug.unwrap_or_default(),
        name: name.unwrap_or_default(),
        is_personal: false,
        time_zone: time_zone.unwrap_or(TIME_ZONE_DEFAULT),
        currency: currency.unwrap_or(CURRENCY_DEFAULT),
    };
    organizations::insert_organization(tx, new).await?.ok_or_else(slug_taken)
}

/// List your organizations
#[utoipa::path(get, path = "/v1/organizations", tag = "organizations", operation_id = "list_organizations", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<OrganizationView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<OrganizationView>>, ApiError> {
    let (user_id, only) = (caller.user_id, caller.bound_to());
    let rows = state.store.read("list_organizations", |tx| {
        Box::pin(
            async move { organizations::list_organizations_of(tx, user_id, only, query.after(), query.rows()).await },
        )
    });
    let rows = rows.await.map_err(ApiError::from)?;
    let key = |row: &OwnOrganization| After { created_at: row.organization.created_at, id: row.organization.id };
    Ok(axum::Json(query.page(rows, key, |row| OrganizationView::of(row.organization, row.role))))
}

/// Show an organization
#[utoipa::path(get, path = "/v1/organizations/{id}", tag = "organizations", operation_id = "show_organization",
    params(("id" = Uuid, Path, description = "The organization's id")),
    responses((status = 200, description = "The organization", body = OrganizationView)))]
async fn show(State(state): State<AppState>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    let caller = &caller;
    let found = state.store.read("show_organization", |tx| {
        Box::pin(async move {
            caller.member_in(tx, id, Role::Viewer).await?;
            Ok::<_, ApiError>(organizations::find_organization_of(tx, caller.user_id, id).await?)
        })
    });
    let OwnOrganization { organization, role } = found.await?.ok_or_else(|| ApiError::not_found("organization"))?;
    let version = organization.version;
    let written = Written::ok(&OrganizationView::of(organization, role))?.version(version);
    finish(&state, Prefer::default(), written).await
}

/// Change an organization
#[utoipa::path(patch, path = "/v1/organizations/{id}", tag = "organizations", operation_id = "change_organization",
    request_body = ChangeOrganization,
    params(("id" = Uuid, Path, description = "The organization's id"),
           ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses((status = 200, description = "Changed", body = OrganizationView)))]
async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    prefer: Prefer,
    Json(body): Json<ChangeOrganization>,
) -> Result<Response, ApiError> {
    let member = caller.member_of(&state.store, id, Role::Admin).await?;
    caller.require_scope(Scope::Admin)?;
    let (time_zone, currency) = (body.time_zone.as_deref(), body.currency.as_deref());
    let terms = Terms::parse(body.slug.as_deref(), body.name.as_deref(), time_zone, currency)?;
    let (caller, terms, if_match) = (&caller, &terms, &if_match);
    let written = state.store.run_tx("change_organization", |tx| {
        Box::pin(async move {
            let before = organizations::lock_organization(tx, id).await?;
            let before = before.ok_or_else(|| ApiError::not_found("organization"))?;
            if_match.check(before.version)?;
            terms.check_time_zone(tx).await?;
            let is_renamed = terms.slug.as_ref().is_some_and(|slug| slug.as_str() != before.slug);
            if is_renamed {
                refuse_rename_once_published(tx, id).await?;
            }
            let after = organizations::update_organization(tx, id, terms.as_change()).await;
            let after = after.map_err(|error| match error.is_conflict_on(SLUG_KEY) {
                true => slug_taken(),
                false => ApiError::from(error),
            })?;
            // Gateways know of an organization its slug, and its time zone by the ends of the periods that it bills.
            let is_in_snapshot = is_renamed || after.time_zone != before.time_zone;
            let (version, shown) = (after.version, json!({"slug": before.slug, "name": before.name}));
            let view = OrganizationView::of(after, member.role);
            let target = Target { kind: "organization", id, organization_id: Some(id) };
            audit::write(tx, &caller.actor(), "organization.update", target, Some(shown), Some(to_value(&view)?))
                .await?;
            let written = Written::ok(&view)?.version(version);
            if !is_in_snapshot {
                return Ok::<_, ApiError>(written);
            }
            let change = changes::record(tx, EntityKind::Organization, id).await?;
            Ok(written.change(change))
        })
    });
    finish(&state, prefer, written.await?).await
}

async fn refuse_rename_once_published(tx: &Transaction<'_>, id: Uuid) -> Result<(), ApiError> {
    let is_published: Result<bool, StoreError> = organizations::has_releases(tx, id).await;
    if is_published? {
        let detail = "A product was published under this slug, and consumers call it there.";
        return Err(ApiError::new(Code::InvalidState, detail));
    }
    Ok(())
}
