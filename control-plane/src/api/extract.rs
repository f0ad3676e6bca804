//! Extractors: body, query and path as types, strictly. Every refusal names the field and, where that can be said, the mend.
//! Refuses unknown fields, deep nesting, long bodies, and NUL characters, which Postgres cannot store.

mod fault_of_serde;

use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::domain::fault::{Fault, Flaw};

use fault_of_serde::{pointer_of, refine};

#[cfg(test)]
mod tests;

/// A JSON body. Every struct behind it denies unknown fields.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Json<T>, ApiError> {
        let bytes = read_body(request, state).await?;
        parse_json(&bytes).map(Json)
    }
}

/// A JSON body together with the digest of its bytes, for creates that take an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct DigestedJson<T> {
    pub body: T,
    pub digest: [u8; 32],
}

impl<T: DeserializeOwned> FromRequest<AppState> for DigestedJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<DigestedJson<T>, ApiError> {
        let bytes = read_body(request, state).await?;
        Ok(DigestedJson { body: parse_json(&bytes)?, digest: Sha256::digest(&bytes).into() })
    }
}

/// For actions whose body may be left out: no body reads as `{}`.
#[derive(Clone, Copy, Debug)]
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<OptionalJson<T>, ApiError> {
        parse_json(&read_optional(request, state).await?).map(OptionalJson)
    }
}

/// As `OptionalJson`, with the digest of the body: for creations whose body may be left out.
#[derive(Clone, Copy, Debug)]
pub struct OptionalDigestedJson<T> {
    pub body: T,
    pub digest: [u8; 32],
}

impl<T: DeserializeOwned> FromRequest<AppState> for OptionalDigestedJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<OptionalDigestedJson<T>, ApiError> {
        let bytes = read_optional(request, state).await?;
        Ok(OptionalDigestedJson { body: parse_json(&bytes)?, digest: Sha256::digest(&bytes).into() })
    }
}

/// The body, or `{}` where there is none.
async fn read_optional(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    let has_type = request.headers().contains_key(header::CONTENT_TYPE);
    let bytes = if has_type {
        read_body(request, state).await?
    } else {
        read_bytes(request, state.settings.rest.body_bytes_max).await?
    };
    match bytes.trim_ascii() {
        b"" => Ok(Bytes::from_static(b"{}")),
        _ if !has_type => Err(unsupported_media_type()),
        _ => Ok(bytes),
    }
}

/// Query parameters. Every struct behind it denies unknown fields.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, ApiError> {
        let text = parts.uri.query().unwrap_or("");
        if text.contains("%00") {
            return Err(ApiError::new(Code::MalformedRequest, "The query holds a NUL character."));
        }
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        let deserializer = serde_urlencoded_pairs(pairs)?;
        serde_path_to_error::deserialize(serde::de::value::MapDeserializer::new(deserializer.into_iter()))
            .map(Query)
            .map_err(|error: serde_path_to_error::Error<serde::de::value::Error>| {
                let pointer = pointer_of(error.path());
                ApiError::fields(vec![refine(pointer, &error.into_inner().to_string())])
            })
    }
}

/// Path parameters: ids and numbers. A malformed one names nothing that exists: 404.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(error) if error.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                Err(ApiError::internal(error.body_text()))
            }
            Err(_) => Err(ApiError::new(Code::NotFound, "The address holds something that is no id.")),
        }
    }
}

/// For fields of a PATCH that may be set to null: absent is `None`, null is `Some(None)`. Use with
/// `#[serde(default, deserialize_with = "nullable")]`.
pub fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// For fields of a PATCH that may be left out but not be null: null is a fault that names the field. Use with
/// `#[serde(default, deserialize_with = "not_null")]`.
pub fn not_null<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Parameters may come once each; numbers and booleans are read from their text by the fields' own types.
fn serde_urlencoded_pairs<'a>(
    pairs: impl Iterator<Item = (std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)>,
) -> Result<Vec<(String, QueryValue)>, ApiError> {
    let mut found: Vec<(String, QueryValue)> = Vec::new();
    for (name, value) in pairs {
        if found.iter().any(|(other, _)| *other == name) {
            let flaw = Flaw::new("stands twice in the query").mend("send it once");
            return Err(ApiError::field(&format!("/{name}"), flaw));
        }
        found.push((name.into_owned(), QueryValue(value.into_owned())));
    }
    Ok(found)
}

/// A query value: text that turns into whatever the field wants.
struct QueryValue(String);

impl<'de> serde::de::IntoDeserializer<'de, serde::de::value::Error> for QueryValue {
    type Deserializer = fault_of_serde::TextDeserializer;

    fn into_deserializer(self) -> fault_of_serde::TextDeserializer {
        fault_of_serde::TextDeserializer(self.0)
    }
}

async fn read_body(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    if !is_json(request.headers()) {
        return Err(unsupported_media_type());
    }
    read_bytes(request, state.settings.rest.body_bytes_max).await
}

async fn read_bytes(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::new(Code::BodyTooLarge, format!("The body may have {bytes_max} bytes at most."));
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large());
    }
    let body = request.with_limited_body().into_body();
    axum::body::to_bytes(body, bytes_max).await.map_err(|error| {
        let is_length =
            std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("length limit"));
        if is_length { too_large() } else { ApiError::new(Code::MalformedRequest, "The body was cut short.") }
    })
}

fn unsupported_media_type() -> ApiError {
    ApiError::new(Code::UnsupportedMediaType, "Send the body as `Content-Type: application/json`.")
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Twice over at most 64 KiB: once for the notation, whatever the type, and once for the type, which sees repeated fields.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    let mut found = Vec::new();
    find_nul(&value, String::new(), &mut found);
    if !found.is_empty() {
        return Err(ApiError::fields(found));
    }
    // serde would take a list of values in the order of the fields for the object.
    if !value.is_object() {
        return Err(ApiError::fields(vec![Flaw::new("is of the wrong kind").mend("send a JSON object").at("")]));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer_of(error.path());
        ApiError::fields(vec![refine(pointer, &without_place(error.inner()))])
    })
}

fn malformed(error: &serde_json::Error) -> ApiError {
    let reason = without_place(error);
    let place = format!("line {}, column {}", error.line(), error.column());
    ApiError::new(Code::MalformedJson, format!("The body is not JSON that can be read: {reason} at {place}."))
}

/// serde_json ends its messages with the place, which the pointer says better.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map_or(text.clone(), str::to_owned)
}

/// Postgres cannot store NUL, which JSON can say as an escape. The parser has bounded the nesting.
fn find_nul(value: &serde_json::Value, pointer: String, found: &mut Vec<Fault>) {
    let flaw = || Flaw::new("holds a NUL character").mend("leave it out");
    match value {
        serde_json::Value::String(text) if text.contains('\0') => found.push(flaw().at(pointer)),
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| find_nul(item, format!("{pointer}/{at}"), found));
        }
        serde_json::Value::Object(fields) => {
            for (name, item) in fields {
                if name.contains('\0') {
                    found.push(flaw().at(pointer.clone()));
                }
                find_nul(item, format!("{pointer}/{name}"), found);
            }
        }
        _ => {}
    }
}
