//! `Idempotency-Key` on creates: a repeated request gets the first one's answer. Refuses a key that belongs to another
//! request, and never shows a secret again.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde_json::{Value, json};

use crate::api::auth::Caller;
use crate::api::problem::{ApiError, Code};
use crate::api::write::Written;
use crate::changes::ChangeId;
use crate::domain::fault::Flaw;
use crate::store::Transaction;
use crate::store::idempotency::{Claim, Claimed, claim, record_response};

const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;

/// The header, if any, with the request that it stands for.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    key: Option<String>,
    method: String,
    path: String,
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IdempotencyKey, ApiError> {
        let key = match parts.headers.get(HEADER) {
            None => None,
            Some(value) => Some(read_key(value.as_bytes()).ok_or_else(bad_key)?),
        };
        Ok(IdempotencyKey { key, method: parts.method.to_string(), path: parts.uri.path().to_owned() })
    }
}

fn read_key(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let fits = (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

fn bad_key() -> ApiError {
    let flaw =
        Flaw::new("is not an idempotency key").mend(format!("use 1 to {KEY_BYTES_MAX} visible ASCII characters"));
    ApiError::field("/Idempotency-Key", flaw)
}

impl IdempotencyKey {
    /// For this caller and body; `digest` comes with `DigestedJson`.
    pub fn claim(self, caller: &Caller, digest: [u8; 32]) -> Once {
        let claim = self.key.map(|key| Claim {
            user_id: caller.user_id,
            key,
            method: self.method,
            path: self.path,
            request_digest: digest,
        });
        Once { claim }
    }
}

/// A create that happens once. Both steps belong into the creating transaction; without a key they do nothing.
#[derive(Clone, Debug)]
pub struct Once {
    claim: Option<Claim>,
}

impl Once {
    /// The first step: the answer given before, if there was one. Errors: 409 for another request's key.
    pub async fn replay(&self, tx: &Transaction<'_>) -> Result<Option<Written>, ApiError> {
        let Some(wanted) = &self.claim else { return Ok(None) };
        match claim(tx, wanted).await? {
            Claimed::Fresh => Ok(None),
            Claimed::Replay { status, response } => replayed(status, response).map(Some),
            Claimed::Reused => {
                let detail = "This key was sent with another request within the last day. Use a new one.";
                Err(ApiError::new(Code::IdempotencyKeyReused, detail))
            }
        }
    }

    /// The last step: keeps the answer, without what is shown once.
    pub async fn record(&self, tx: &Transaction<'_>, written: &Written) -> Result<(), ApiError> {
        let Some(claim) = &self.claim else { return Ok(()) };
        let status = i16::try_from(written.status.as_u16()).map_err(|error| ApiError::internal(error.to_string()))?;
        let kept = json!({
            "body": written.body_to_keep(),
            "version": written.version,
            "location": written.location,
            "change": written.change.map(|ChangeId(id)| id),
        });
        Ok(record_response(tx, claim, status, &kept).await?)
    }
}

fn replayed(status: i16, mut kept: Value) -> Result<Written, ApiError> {
    let status = u16::try_from(status).ok().and_then(|status| axum::http::StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| ApiError::internal("an idempotency key keeps a status that is none"))?;
    let mut written = Written::new(status, kept.get_mut("body").map(Value::take).unwrap_or_default());
    written.version = kept.get("version").and_then(Value::as_i64);
    written.location = kept.get("location").and_then(Value::as_str).map(str::to_owned);
    written.change = kept.get("change").and_then(Value::as_i64).map(ChangeId);
    written.is_replay = true;
    Ok(written)
}
