//! `organization_members`: who may do what in an organization. That an organization keeps an owner is the database's word,
//! given at commit.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{After, StoreError, Transaction};
use crate::domain::accounts::Role;

#[derive(Clone, Debug)]
pub struct MemberRow {
    pub user_id: Uuid,
    pub email: String,
    pub display_name: String,
    pub role: Role,
    pub version: i64,
    pub joined_at: Timestamp,
}

/// A caller's standing in an organization.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub role: Role,
    pub is_organization_active: bool,
}

pub const MEMBER_KEY: &str = "organization_members_pkey";
/// The trigger that keeps an owner; it speaks at commit.
pub const LAST_OWNER: &str = "organization_members_last_owner";

impl MemberRow {
    fn read(row: &Row) -> Result<MemberRow, StoreError> {
        Ok(MemberRow {
            user_id: row.try_get("user_id")?,
            email: row.try_get("email")?,
            display_name: row.try_get("display_name")?,
            role: read_role(row)?,
            version: row.try_get("version")?,
            joined_at: row.try_get("joined_at")?,
        })
    }
}

pub async fn insert_member(
    tx: &Transaction<'_>,
    organization_id: Uuid,
    user_id: Uuid,
    role: Role,
) -> Result<(), StoreError> {
    let sql = "-- insert_member\nINSERT INTO organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)";
    tx.execute_cached(sql, &[&organization_id, &user_id, &role.as_str()]).await.map(|_| ())
}

pub async fn find_standing(
    tx: &Transaction<'_>,
    organization_id: Uuid,
    user_id: Uuid,
) -> Result<Option<Standing>, StoreError> {
    let sql = "-- find_standing
        SELECT m.role, o.status FROM organization_members m JOIN organizations o ON o.id = m.organization_id
        WHERE m.organization_id = $1 AND m.user_id = $2";
    let Some(row) = tx.query_opt_cached(sql, &[&organization_id, &user_id]).await? else { return Ok(None) };
    let status: &str = row.try_get("status")?;
    Ok(Some(Standing { role: read_role(&row)?, is_organization_active: status == "active" }))
}

pub async fn list_members(
    tx: &Transaction<'_>,
    organization_id: Uuid,
    role: Option<Role>,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<MemberRow>, StoreError> {
    let sql = "-- list_members
        SELECT m.user_id, u.email, u.display_name, m.role, m.version, m.joined_at
        FROM organization_members m JOIN users u ON u.id = m.user_id
        WHERE m.organization_id = $1 AND ($2::text IS NULL OR m.role = $2)
          AND ($3::timestamptz IS NULL OR (m.joined_at, m.user_id) > ($3, $4))
        ORDER BY m.joined_at, m.user_id LIMIT $5";
    let (at, id) = After::split(after);
    let role = role.map(Role::as_str);
    tx.query_cached(sql, &[&organization_id, &role, &at, &id, &rows]).await?.iter().map(MemberRow::read).collect()
}

pub async fn count_members(tx: &Transaction<'_>, organization_id: Uuid) -> Result<i64, StoreError> {
    let sql = "-- count_members\nSELECT count(*) FROM organization_members WHERE organization_id = $1";
    Ok(tx.query_one_cached(sql, &[&organization_id]).await?.try_get(0)?)
}

/// Locks the membership for a change.
pub async fn lock_member(
    tx: &Transaction<'_>,
    organization_id: Uuid,
    user_id: Uuid,
) -> Result<Option<MemberRow>, StoreError> {
    let sql = "-- lock_member
        SELECT m.user_id, u.email, u.display_name, m.role, m.version, m.joined_at
        FROM organization_members m JOIN users u ON u.id = m.user_id
        WHERE m.organization_id = $1 AND m.user_id = $2 FOR UPDATE OF m";
    tx.query_opt_cached(sql, &[&organization_id, &user_id]).await?.as_ref().map(MemberRow::read).transpose()
}

pub async fn update_role(
    tx: &Transaction<'_>,
    organization_id: Uuid,
    user_id: Uuid,
    role: Role,
) -> Result<(), StoreError> {
    let sql = "-- update_role\nUPDATE organization_members SET role = $3 WHERE organization_id = $1 AND user_id = $2";
    StoreError::expect_one("update_role", tx.execute_cached(sql, &[&organization_id, &user_id, &role.as_str()]).await?)
}

pub async fn delete_member(tx: &Transaction<'_>, organization_id: Uuid, user_id: Uuid) -> Result<(), StoreError> {
    let sql = "-- delete_member\nDELETE FROM organization_members WHERE organization_id = $1 AND user_id = $2";
    StoreError::expect_one("delete_member", tx.execute_cached(sql, &[&organization_id, &user_id]).await?)
}

pub(super) fn read_role(row: &Row) -> Result<Role, StoreError> {
    let text: &str = row.try_get("role")?;
    Role::from_stored(text).ok_or_else(|| StoreError::BadRow(format!("a role is '{text}'")))
}
