//! Entity tags: a row's version as `"7"`; `If-Match` keeps two editors from overwriting each other. Refuses weak tags.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};

use crate::api::problem::{ApiError, Code};

/// `"7"` for version 7.
pub fn tag(version: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// The `If-Match` header, if any.
#[derive(Clone, Debug, Default)]
pub struct IfMatch(Option<Vec<u8>>);

impl IfMatch {
    /// `version` is 0 where there is nothing yet, which `*` does not name. Errors: 412 when the header is there and names another version.
    pub fn check(&self, version: i64) -> Result<(), ApiError> {
        let Some(wanted) = &self.0 else { return Ok(()) };
        let current = tag(version);
        let is_same = wanted
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|one| (one == b"*" && version > 0) || one == current.as_bytes());
        if is_same {
            return Ok(());
        }
        let detail = "If-Match names another version. Read it again and repeat the change on what you find.";
        Err(ApiError::new(Code::PreconditionFailed, detail).with_header(header::ETAG, current))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IfMatch, Infallible> {
        let values: Vec<&[u8]> = parts.headers.get_all(header::IF_MATCH).iter().map(HeaderValue::as_bytes).collect();
        Ok(IfMatch((!values.is_empty()).then(|| values.join(&b','))))
    }
}
