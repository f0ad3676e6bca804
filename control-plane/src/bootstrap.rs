//! What an operator needs before REST can be used: the first user who may do everything, and a token that speaks for him.
//! `apihub up` and the command line call it. Refuses to change the password of somebody who is there.

use jiff::{SignedDuration, Timestamp};
use settings::Secret;
use uuid::Uuid;

use crate::domain::accounts::{Email, Scope};
use crate::domain::fault::Flaw;
use crate::domain::text::Name;
use crate::passwords::{self, PasswordError, Passwords};
use crate::store::access_tokens::{NewAccessToken, insert_access_token};
use crate::store::audit::{self, Actor, Target};
use crate::store::registration::{Registration, register};
use crate::store::{Store, StoreError, Transaction, users};
use crate::tokens::{self, RandomFault};

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
    Random(#[from] RandomFault),
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

/// A token of a user with every scope, for a program that goes on over REST. It ends by itself after `lifetime`.
pub async fn issue_token(
    store: &Store,
    user_id: Uuid,
    name: &str,
    lifetime: SignedDuration,
) -> Result<Secret, BootstrapError> {
    let minted = tokens::mint_access_token()?;
    let expires_at = Timestamp::now().saturating_add(lifetime).unwrap_or(Timestamp::MAX);
    let id = Uuid::now_v7();
    let new = NewAccessToken {
        id,
        user_id,
        organization_id: None,
        name,
        prefix: &minted.prefix,
        token_digest: &minted.digest,
        scopes: &[Scope::Admin],
        expires_at: Some(expires_at),
    };
    let issued = store.run_tx("issue_token", |tx| {
        Box::pin(async move {
            insert_access_token(tx, new).await?;
            let target = Target { kind: "access_token", id, organization_id: None };
            let after = serde_json::json!({"name": name, "user_id": user_id, "expires_at": expires_at});
            audit::write(tx, &Actor::default(), "access_token.create", target, None, Some(after)).await?;
            Ok::<_, BootstrapError>(())
        })
    });
    issued.await?;
    Ok(Secret::new(minted.reveal()))
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
