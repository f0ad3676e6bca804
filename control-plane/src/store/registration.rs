//! A new user together with the organization that is his own, so that he can publish and subscribe at once. Refuses to
//! leave one without the other: all of it is one transaction's work.

use uuid::Uuid;

use super::audit::{self, Actor, Target};
use super::members::insert_member;
use super::organizations::{NewOrganization, OrganizationRow, insert_organization};
use super::users::{NewUser, UserRow, insert_user};
use super::{StoreError, Transaction};
use crate::domain::accounts::{Email, Role, slug_from_text, slug_with_suffix};
use crate::domain::text::{Name, Slug};

/// Suffixes tried before a random one is taken.
const NUMBERED_SUFFIXES: std::ops::RangeInclusive<u32> = 2..=9;
/// Random suffixes tried before giving up; each is one of 2^32.
const RANDOM_SUFFIXES_MAX: u32 = 5;
const FALLBACK_SLUG: &str = "personal";

#[derive(Debug)]
pub struct Registration<'a> {
    pub email: &'a Email,
    pub display_name: &'a Name,
    pub password_hash: &'a str,
    pub is_admin: bool,
}

#[derive(Debug)]
pub struct Registered {
    pub user: UserRow,
    pub organization: OrganizationRow,
}

/// Errors: `Conflict` on `users::EMAIL_KEY` when the address is taken. The actor's user is the new one.
pub async fn register(tx: &Transaction<'_>, new: &Registration<'_>, actor: Actor) -> Result<Registered, StoreError> {
    let id = Uuid::now_v7();
    let user = NewUser {
        id,
        email: new.email.as_str(),
        display_name: new.display_name.as_str(),
        password_hash: new.password_hash,
        is_admin: new.is_admin,
    };
    let user = insert_user(tx, user).await?;
    let organization = insert_personal_organization(tx, new).await?;
    insert_member(tx, organization.id, id, Role::Owner).await?;
    let actor = Actor { user_id: Some(actor.user_id.unwrap_or(id)), ..actor };
    let after = serde_json::json!({"email": user.email, "display_name": user.display_name, "is_admin": user.is_admin});
    audit::write(tx, &actor, "user.register", Target { kind: "user", id, organization_id: None }, None, Some(after))
        .await?;
    let target = Target { kind: "organization", id: organization.id, organization_id: Some(organization.id) };
    let after = serde_json::json!({"slug": organization.slug, "name": organization.name, "is_personal": true});
    audit::write(tx, &actor, "organization.create", target, None, Some(after)).await?;
    Ok(Registered { user, organization })
}

async fn insert_personal_organization(
    tx: &Transaction<'_>,
    new: &Registration<'_>,
) -> Result<OrganizationRow, StoreError> {
    let id = Uuid::now_v7();
    for slug in candidates(new.email.local_part(), new.display_name.as_str()) {
        let organization = NewOrganization {
            id,
            slug: slug.as_str(),
            name: new.display_name.as_str(),
            is_personal: true,
            time_zone: "UTC",
            currency: "USD",
        };
        if let Some(organization) = insert_organization(tx, organization).await? {
            return Ok(organization);
        }
    }
    Err(StoreError::unavailable("no free slug was found for the personal organization"))
}

/// From what the person typed, then with a number, then with something random.
fn candidates(local_part: &str, display_name: &str) -> impl Iterator<Item = Slug> {
    let base =
        slug_from_text(local_part).or_else(|| slug_from_text(display_name)).or_else(|| Slug::parse(FALLBACK_SLUG).ok());
    let numbered = base
        .clone()
        .into_iter()
        .flat_map(|base| NUMBERED_SUFFIXES.filter_map(move |number| slug_with_suffix(&base, &number.to_string())));
    let random = base.clone().into_iter().flat_map(|base| {
        (0..RANDOM_SUFFIXES_MAX).filter_map(move |_| {
            let (suffix, ..) = Uuid::new_v4().as_fields();
            slug_with_suffix(&base, &format!("{suffix:08x}"))
        })
    });
    base.into_iter().chain(numbered).chain(random)
}
