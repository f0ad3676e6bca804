//! Whether a key is one that the snapshot knows and that still holds. Says the same of every key that is not, so that
//! nobody learns which of his guesses came near.

use snapshot::key::{self, Environment};

use super::credential::Credential;
use crate::clock::Now;
use crate::live::{ServedKey, Snapshot};
use crate::rejection::Rejection;

/// A key that is known, of the right environment, and not expired.
pub struct Authenticated {
    pub key: ServedKey,
}

/// Form and checksum come before the digest: floods and typos cost no hash. 401 otherwise.
pub fn authenticate(snapshot: &Snapshot, credential: &Credential<'_>, now: Now) -> Result<Authenticated, Rejection> {
    let (environment, digest) = key::parse(credential.key).map_err(|_| Rejection::InvalidKey)?;
    let key = snapshot.key(&digest).ok_or(Rejection::InvalidKey)?;
    if key.environment != environment {
        return Err(Rejection::InvalidKey);
    }
    if is_expired(&key, now) {
        return Err(Rejection::ExpiredKey);
    }
    Ok(Authenticated { key })
}

/// By the gateway's own clock: expiry needs no revision.
pub fn is_expired(key: &ServedKey, now: Now) -> bool {
    key.expires_at_ms.is_some_and(|at| at <= now.unix_ms)
}

pub fn is_test(key: &ServedKey) -> bool {
    key.environment == Environment::Test
}
