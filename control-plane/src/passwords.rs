//! Passwords: which are accepted, how they are hashed and verified. Hashing runs beside the reactor and few at a time, so
//! that a flood of sign-ins takes neither the memory nor the cores of everybody else. Refuses to keep or log a password.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use settings::Secret;
use tokio::sync::Semaphore;

use crate::domain::fault::Flaw;

#[cfg(test)]
mod tests;

/// At least 19 MiB, two passes, one lane: what OWASP asks of argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Hashes computed at the same time; each takes `MEMORY_KIB` and a core.
const CONCURRENT_MAX: usize = 2;
/// A sign-in waits this long for its turn; then it is told to come back.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

pub const PASSWORD_CHARS_MIN: usize = 10;
/// Longer ones only cost time: argon2 digests them first.
pub const PASSWORD_CHARS_MAX: usize = 1024;

/// The commonest passwords of at least ten characters, from published breach lists; compared in lower case.
const COMMON: &str = include_str!("passwords/common.txt");

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("too many passwords are being checked")]
    Busy,
    #[error("hashing failed: {0}")]
    Hashing(String),
}

#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    /// Verified when there is no user, so that the answer takes the same time.
    dummy: Arc<str>,
}

impl Passwords {
    pub fn new() -> Result<Passwords, PasswordError> {
        let dummy = hash_now("a password that nobody has")?;
        Ok(Passwords { turns: Arc::new(Semaphore::new(CONCURRENT_MAX)), dummy: dummy.into() })
    }

    /// The PHC string to store.
    pub async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        self.in_turn(move || hash_now(password.expose())).await
    }

    /// Whether `password` is the one behind `stored`. Without a stored hash it works as long and says no.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool, PasswordError> {
        let dummy = Arc::clone(&self.dummy);
        self.in_turn(move || {
            let is_right = verify_now(password.expose(), stored.as_deref().unwrap_or(&dummy))?;
            Ok(is_right && stored.is_some())
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let turn = tokio::time::timeout(TURN_WAIT_MAX, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(PasswordError::Busy) };
        let task = tokio::task::spawn_blocking(move || {
            // Held until the work ends, even when the caller has gone away.
            let _turn = turn;
            work()
        });
        task.await.map_err(|error| PasswordError::Hashing(error.to_string()))?
    }
}

/// Whether a new password may be used; `email` must not be the password.
pub fn check_new(password: &str, email: &str) -> Result<(), Flaw> {
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(Flaw::new(format!("has fewer than {PASSWORD_CHARS_MIN} characters")).mend("use a longer one"));
    }
    if password.chars().count() > PASSWORD_CHARS_MAX {
        return Err(Flaw::new(format!("has more than {PASSWORD_CHARS_MAX} characters")).mend("use a shorter one"));
    }
    if password.contains(char::is_control) {
        return Err(Flaw::new("has control characters").mend("use what a keyboard types"));
    }
    let lower = password.to_lowercase();
    let is_common = COMMON.lines().any(|common| common == lower) || lower.chars().all(|c| lower.starts_with(c));
    if is_common {
        return Err(Flaw::new("is among the commonest passwords").mend("use one that nobody else would think of"));
    }
    if lower == email.to_lowercase() {
        return Err(Flaw::new("is the e-mail address").mend("use one that cannot be guessed from it"));
    }
    Ok(())
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| PasswordError::Hashing(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_now(password: &str) -> Result<String, PasswordError> {
    let hash =
        argon2()?.hash_password(password.as_bytes()).map_err(|error| PasswordError::Hashing(error.to_string()))?;
    Ok(hash.to_string())
}

fn verify_now(password: &str, stored: &str) -> Result<bool, PasswordError> {
    let hash = PasswordHash::new(stored).map_err(|error| PasswordError::Hashing(error.to_string()))?;
    Ok(argon2()?.verify_password(password.as_bytes(), &hash).is_ok())
}
