//! `organizations`. Every read names the user who asks: an organization that he is not a member of is not there.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{After, StoreError, Transaction};
use crate::domain::accounts::Role;

#[derive(Clone, Debug)]
pub struct OrganizationRow {
    pub id: Uuid,
    pub slug: String,
    pub name: String,
    pub is_personal: bool,
    pub time_zone: String,
    pub currency: String,
    pub is_active: bool,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An organization as one of its members sees it.
#[derive(Clone, Debug)]
pub struct OwnOrganization {
    pub organization: OrganizationRow,
    pub role: Role,
}

#[derive(Clone, Copy, Debug)]
pub struct NewOrganization<'a> {
    pub id: Uuid,
    pub slug: &'a str,
    pub name: &'a str,
    pub is_personal: bool,
    pub time_zone: &'a str,
    pub currency: &'a str,
}

/// What a change leaves out is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrganizationChange<'a> {
    pub slug: Option<&'a str>,
    pub name: Option<&'a str>,
    pub time_zone: Option<&'a str>,
    pub currency: Option<&'a str>,
}

pub const SLUG_KEY: &str = "organizations_slug_key";

impl OrganizationRow {
    fn read(row: &Row) -> Result<OrganizationRow, StoreError> {
        let status: &str = row.try_get("status")?;
        Ok(OrganizationRow {
            id: row.try_get("id")?,
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
            is_personal: row.try_get("is_personal")?,
            time_zone: row.try_get("time_zone")?,
            currency: row.try_get("currency")?,
            is_active: status == "active",
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

impl OwnOrganization {
    fn read(row: &Row) -> Result<OwnOrganization, StoreError> {
        Ok(OwnOrganization { organization: OrganizationRow::read(row)?, role: super::members::read_role(row)? })
    }
}

/// `None` when the slug is taken; the transaction goes on, so that another one can be tried.
pub async fn insert_organization(
    tx: &Transaction<'_>,
    new: NewOrganization<'_>,
) -> Result<Option<OrganizationRow>, StoreError> {
    let sql = "-- insert_organization
        INSERT INTO organizations (id, slug, name, is_personal, time_zone, currency) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (slug) DO NOTHING
        RETURNING id, slug, name, is_personal, time_zone, currency, status, version, created_at, updated_at";
    let values: super::Values<'_> = &[&new.id, &new.slug, &new.name, &new.is_personal, &new.time_zone, &new.currency];
    tx.query_opt_cached(sql, values).await?.as_ref().map(OrganizationRow::read).transpose()
}

/// Organizations that the user owns, alone or with others.
pub async fn count_owned(tx: &Transaction<'_>, user_id: Uuid) -> Result<i64, StoreError> {
    let sql = "-- count_owned\nSELECT count(*) FROM organization_members WHERE user_id = $1 AND role = 'owner'";
    Ok(tx.query_one_cached(sql, &[&user_id]).await?.try_get(0)?)
}

pub async fn list_organizations_of(
    tx: &Transaction<'_>,
    user_id: Uuid,
    only: Option<Uuid>,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<OwnOrganization>, StoreError> {
    let sql = "-- list_organizations_of
        SELECT o.id, o.slug, o.name, o.is_personal, o.time_zone, o.currency, o.status, o.version, o.created_at, o.updated_at,
               m.role
        FROM organization_members m JOIN organizations o ON o.id = m.organization_id
        WHERE m.user_id = $1 AND ($2::uuid IS NULL OR o.id = $2)
          AND ($3::timestamptz IS NULL OR (o.created_at, o.id) > ($3, $4))
        ORDER BY o.created_at, o.id LIMIT $5";
    let (at, id) = After::split(after);
    tx.query_cached(sql, &[&user_id, &only, &at, &id, &rows]).await?.iter().map(OwnOrganization::read).collect()
}

pub async fn find_organization_of(
    tx: &Transaction<'_>,
    user_id: Uuid,
    id: Uuid,
) -> Result<Option<OwnOrganization>, StoreError> {
    let sql = "-- find_organization_of
        SELECT o.id, o.slug, o.name, o.is_personal, o.time_zone, o.currency, o.status, o.version, o.created_at, o.updated_at,
               m.role
        FROM organization_members m JOIN organizations o ON o.id = m.organization_id
        WHERE m.user_id = $1 AND o.id = $2";
    tx.query_opt_cached(sql, &[&user_id, &id]).await?.as_ref().map(OwnOrganization::read).transpose()
}

pub async fn is_known(tx: &Transaction<'_>, id: Uuid) -> Result<bool, StoreError> {
    let sql = "-- organizations.is_known\nSELECT EXISTS (SELECT FROM organizations WHERE id = $1)";
    Ok(tx.query_one_cached(sql, &[&id]).await?.try_get(0)?)
}

/// Locks the row for a change by a member who was checked before.
pub async fn lock_organization(tx: &Transaction<'_>, id: Uuid) -> Result<Option<OrganizationRow>, StoreError> {
    let sql = "-- lock_organization
        SELECT id, slug, name, is_personal, time_zone, currency, status, version, created_at, updated_at
        FROM organizations WHERE id = $1 FOR NO KEY UPDATE";
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(OrganizationRow::read).transpose()
}

pub async fn update_organization(
    tx: &Transaction<'_>,
    id: Uuid,
    change: OrganizationChange<'_>,
) -> Result<OrganizationRow, StoreError> {
    let sql = "-- update_organization
        UPDATE organizations SET slug = coalesce($2, slug), name = coalesce($3, name),
               time_zone = coalesce($4, time_zone), currency = coalesce($5, currency)
        WHERE id = $1
        RETURNING id, slug, name, is_personal, time_zone, currency, status, version, created_at, updated_at";
    let values: super::Values<'_> = &[&id, &change.slug, &change.name, &change.time_zone, &change.currency];
    OrganizationRow::read(&tx.query_one_cached(sql, values).await?)
}

/// Whether gateways know the slug already: a product of the organization was published once.
pub async fn has_releases(tx: &Transaction<'_>, id: Uuid) -> Result<bool, StoreError> {
    let sql = "-- has_releases
        SELECT EXISTS (SELECT FROM releases r JOIN api_products p ON p.id = r.product_id WHERE p.organization_id = $1)";
    Ok(tx.query_one_cached(sql, &[&id]).await?.try_get(0)?)
}

/// Postgres has the last word on which zones exist.
pub async fn is_time_zone(tx: &Transaction<'_>, name: &str) -> Result<bool, StoreError> {
    let sql = "-- is_time_zone\nSELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)";
    Ok(tx.query_one_cached(sql, &[&name]).await?.try_get(0)?)
}
