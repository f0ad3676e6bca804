//! How every mutation ends: its change gets a revision, and, where the client asked for it, every gateway serves it. Refuses
//! to say "done everywhere" when it is not: then the answer is 202 and names the gateways that lack it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::api::etag;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::changes::ChangeId;

#[cfg(test)]
mod tests;

const CONFIG_REVISION: HeaderName = HeaderName::from_static("x-config-revision");
const CONFIG_MISSING: HeaderName = HeaderName::from_static("x-config-missing");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest that a client may have us wait for the gateways.
const WAIT_S_MAX: u64 = 30;
/// Nodes named in one header; a header must stay short.
const MISSING_NAMED_MAX: usize = 20;

/// `Prefer: wait=N`; other preferences are ignored, as RFC 7240 allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    pub wait: Option<Duration>,
}

impl<S: Sync> FromRequestParts<S> for Prefer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Prefer, Infallible> {
        let values = parts.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let mut preferences = values.flat_map(|text| text.split([',', ';'])).map(str::trim);
        Ok(Prefer { wait: preferences.find_map(read_wait) })
    }
}

fn read_wait(preference: &str) -> Option<Duration> {
    let (name, value) = preference.split_once('=')?;
    let seconds = value.trim().trim_matches('"').parse::<u64>().ok()?;
    name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds.min(WAIT_S_MAX)))
}

/// What a mutation did, ready to be told.
#[derive(Clone, Debug)]
pub struct Written {
    pub status: StatusCode,
    pub body: Value,
    /// Becomes the ETag.
    pub version: Option<i64>,
    pub location: Option<String>,
    /// The last change of the transaction, where the snapshot is concerned.
    pub change: Option<ChangeId>,
    pub is_replay: bool,
    shown_once: Option<&'static str>,
}

impl Written {
    pub fn new(status: StatusCode, body: Value) -> Written {
        Written { status, body, version: None, location: None, change: None, is_replay: false, shown_once: None }
    }

    pub fn ok(body: &impl Serialize) -> Result<Written, ApiError> {
        Ok(Written::new(StatusCode::OK, to_value(body)?))
    }

    /// `location` as in `/v1/products/…`.
    pub fn created(location: String, body: &impl Serialize) -> Result<Written, ApiError> {
        Ok(Written { location: Some(location), ..Written::new(StatusCode::CREATED, to_value(body)?) })
    }

    pub fn no_content() -> Written {
        Written::new(StatusCode::NO_CONTENT, Value::Null)
    }

    pub fn version(self, version: i64) -> Written {
        Written { version: Some(version), ..self }
    }

    pub fn change(self, change: ChangeId) -> Written {
        Written { change: Some(change), ..self }
    }

    /// A field of the body that a replay must not show: there it is left out and `secret_already_shown` is true.
    pub fn showing_once(self, field: &'static str) -> Written {
        Written { shown_once: Some(field), ..self }
    }

    /// The body as it may be stored.
    pub(super) fn body_to_keep(&self) -> Value {
        let mut body = self.body.clone();
        if let (Some(field), Value::Object(fields)) = (self.shown_once, &mut body) {
            fields.remove(field);
            fields.insert("secret_already_shown".to_owned(), Value::Bool(true));
        }
        body
    }
}

pub fn to_value(body: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(body).map_err(|error| ApiError::internal(format!("an answer cannot be written: {error}")))
}

/// The end of every mutation that is committed. Errors: none that would hide from the client what was done.
pub async fn finish(state: &AppState, prefer: Prefer, written: Written) -> Result<Response, ApiError> {
    let reach = match written.change {
        Some(change) => wait_for_gateways(state, prefer, change).await,
        None => Reach::default(),
    };
    let status = if reach.is_incomplete { StatusCode::ACCEPTED } else { written.status };
    let mut response = match (&written.body, status) {
        (Value::Null, StatusCode::ACCEPTED) => status.into_response(),
        (Value::Null, _) => written.status.into_response(),
        (body, status) => (status, axum::Json(body)).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(version) = written.version {
        headers.insert(header::ETAG, etag::tag(version));
    }
    if let Some(location) = written.location.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(header::LOCATION, location);
    }
    if written.is_replay {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    headers.extend(reach.headers);
    Ok(response)
}

/// How far a change has come.
#[derive(Default)]
struct Reach {
    is_incomplete: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

async fn wait_for_gateways(state: &AppState, prefer: Prefer, change: ChangeId) -> Reach {
    let mut reach = Reach::default();
    let revision = match state.revisions.numbered(change).await {
        Ok(revision) => revision,
        Err(error) => {
            // It is committed and will be numbered; what the client must not hear is that it failed, or that it is served.
            tracing::warn!(%error, "a committed change has no revision yet");
            reach.is_incomplete = true;
            return reach;
        }
    };
    reach.headers.push((CONFIG_REVISION, HeaderValue::from(revision)));
    let Some(patience) = prefer.wait else { return reach };
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", patience.as_secs())) {
        reach.headers.push((PREFERENCE_APPLIED, applied));
    }
    match state.revisions.served(revision, patience).await {
        Ok(served) => {
            let names: Vec<&str> = served.missing.iter().take(MISSING_NAMED_MAX).map(|lag| lag.name.as_str()).collect();
            reach.is_incomplete = !names.is_empty();
            if let (true, Ok(value)) = (reach.is_incomplete, HeaderValue::from_str(&names.join(", "))) {
                reach.headers.push((CONFIG_MISSING, value));
            }
        }
        Err(error) => {
            tracing::warn!(%error, "cannot ask which gateways serve a revision");
            reach.is_incomplete = true;
        }
    }
    reach
}
