//! What an operator needs before REST can be used: the first user who may do everything. `apihub up` and the command line
//! call it. Refuses to change the password of somebody who is there.

use settings::Secret;
use uuid::Uuid;

use crate::domain::accounts::Email;
use crate::domain::fault::Flaw;
use crate::domain::text::Name;
use crate::passwords::{self, PasswordError, Passwords};
use crate::store::audit::{self, Actor, Target};
use crate::store::registration::{Registration, register};
use crate::store::{Store, StoreError, Transaction, users};

#[cfg(test)]
mod tests;

/// What the first operator is called until he says otherwise.
const DISPLAY_NAME: &str = "Operator";

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("the e-mail address: {}", .0.reason)]
    Email(Flaw),
    #[error("the password: {}", .0.reason)]
    Password(Flaw),
    #[error(transparent)]
    Hashing(#[from] PasswordError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The operator after `ensure_admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    pub user_id: Uuid,
    /// Whether the user was made now, and so has the given password.
    pub is_new: bool,
}

/// Makes sure that a user with this address exists and is an operator. An existing one keeps his password.
pub async fn ensure_admin(store: &Store, email: &str, password: &Secret) -> Result<Admin, BootstrapError> {
    let email = Email::parse(email).map_err(BootstrapError::Email)?;
    let name = Name::parse(DISPLAY_NAME).map_err(BootstrapError::Email)?;
    if let Some(admin) = store.run_tx("promote_admin", |tx| Box::pin(promote(tx, &email))).await? {
        return Ok(admin);
    }
    passwords::check_new(password.expose(), email.as_str()).map_err(BootstrapError::Password)?;
    let hash = Passwords::new()?.hash(password.clone()).await?;
    let new = Registration { email: &email, display_name: &name, password_hash: &hash, is_admin: true };
    let new = &new;
    let registered = store
        .run_tx("register_admin", |tx| {
            Box::pin(async move { Ok::<_, BootstrapError>(register(tx, new, Actor::default()).await?) })
        })
        .await?;
    Ok(Admin { user_id: registered.user.id, is_new: true })
}

async fn promote(tx: &Transaction<'_>, email: &Email) -> Result<Option<Admin>, BootstrapError> {
    let Some(user) = users::find_user_by_email(tx, email.as_str()).await? else { return Ok(None) };
    if !user.is_admin {
        users::set_admin(tx, user.id).await?;
        let target = Target { kind: "user", id: user.id, organization_id: None };
        let after = serde_json::json!({"is_admin": true});
        audit::write(tx, &Actor::default(), "user.promote", target, None, Some(after)).await?;
    }
    Ok(Some(Admin { user_id: user.id, is_new: false }))
}
