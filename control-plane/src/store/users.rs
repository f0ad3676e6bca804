//! `users`. Refuses to hand out a password's hash but to sign-in and to a change of the password.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{StoreError, Transaction};

#[derive(Clone, Debug)]
pub struct UserRow {
    pub id: Uuid,
    pub email: String,
    pub display_name: String,
    pub is_admin: bool,
    pub is_active: bool,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What sign-in needs.
#[derive(Clone, Debug)]
pub struct SignInRow {
    pub user: UserRow,
    pub password_hash: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct NewUser<'a> {
    pub id: Uuid,
    pub email: &'a str,
    pub display_name: &'a str,
    pub password_hash: &'a str,
    pub is_admin: bool,
}

/// The unique index over `lower(email)`.
pub const EMAIL_KEY: &str = "users_email_key";

impl UserRow {
    pub(super) fn read(row: &Row) -> Result<UserRow, StoreError> {
        let status: &str = row.try_get("status")?;
        Ok(UserRow {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
            display_name: row.try_get("display_name")?,
            is_admin: row.try_get("is_admin")?,
            is_active: status == "active",
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

pub async fn insert_user(tx: &Transaction<'_>, new: NewUser<'_>) -> Result<UserRow, StoreError> {
    let sql = "-- insert_user
        INSERT INTO users (id, email, display_name, password_hash, is_admin) VALUES ($1, $2, $3, $4, $5)
        RETURNING id, email, display_name, is_admin, status, version, created_at, updated_at";
    let values: super::Values<'_> = &[&new.id, &new.email, &new.display_name, &new.password_hash, &new.is_admin];
    UserRow::read(&tx.query_one_cached(sql, values).await?)
}

pub async fn find_user(tx: &Transaction<'_>, id: Uuid) -> Result<Option<UserRow>, StoreError> {
    let sql = "-- find_user
        SELECT id, email, display_name, is_admin, status, version, created_at, updated_at FROM users WHERE id = $1";
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(UserRow::read).transpose()
}

pub async fn find_user_by_email(tx: &Transaction<'_>, email: &str) -> Result<Option<UserRow>, StoreError> {
    let sql = "-- find_user_by_email
        SELECT id, email, display_name, is_admin, status, version, created_at, updated_at
        FROM users WHERE lower(email) = lower($1)";
    tx.query_opt_cached(sql, &[&email]).await?.as_ref().map(UserRow::read).transpose()
}

pub async fn find_for_sign_in(tx: &Transaction<'_>, email: &str) -> Result<Option<SignInRow>, StoreError> {
    let sql = "-- find_for_sign_in
        SELECT id, email, display_name, is_admin, status, version, created_at, updated_at, password_hash
        FROM users WHERE lower(email) = lower($1)";
    tx.query_opt_cached(sql, &[&email]).await?.as_ref().map(read_sign_in).transpose()
}

pub async fn find_with_password(tx: &Transaction<'_>, id: Uuid) -> Result<Option<SignInRow>, StoreError> {
    let sql = "-- find_with_password
        SELECT id, email, display_name, is_admin, status, version, created_at, updated_at, password_hash
        FROM users WHERE id = $1";
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(read_sign_in).transpose()
}

/// Locks the row for a change, but not against rows that refer to it: an idempotency key of the same request does already.
pub async fn lock_user(tx: &Transaction<'_>, id: Uuid) -> Result<Option<SignInRow>, StoreError> {
    let sql = "-- lock_user
        SELECT id, email, display_name, is_admin, status, version, created_at, updated_at, password_hash
        FROM users WHERE id = $1 FOR NO KEY UPDATE";
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(read_sign_in).transpose()
}

/// Leaves out what is `None`.
pub async fn update_user(
    tx: &Transaction<'_>,
    id: Uuid,
    display_name: Option<&str>,
    password_hash: Option<&str>,
) -> Result<UserRow, StoreError> {
    let sql = "-- update_user
        UPDATE users SET display_name = coalesce($2, display_name), password_hash = coalesce($3, password_hash)
        WHERE id = $1
        RETURNING id, email, display_name, is_admin, status, version, created_at, updated_at";
    UserRow::read(&tx.query_one_cached(sql, &[&id, &display_name, &password_hash]).await?)
}

pub async fn set_admin(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- set_admin\nUPDATE users SET is_admin = true WHERE id = $1";
    StoreError::expect_one("set_admin", tx.execute_cached(sql, &[&id]).await?)
}

pub async fn record_sign_in(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- record_sign_in\nUPDATE users SET last_sign_in_at = now() WHERE id = $1";
    StoreError::expect_one("record_sign_in", tx.execute_cached(sql, &[&id]).await?)
}

fn read_sign_in(row: &Row) -> Result<SignInRow, StoreError> {
    Ok(SignInRow { user: UserRow::read(row)?, password_hash: row.try_get("password_hash")? })
}
