//! The body of an error answer: problem+json (RFC 9457). Writes nothing that the rejection, the path and the request id
//! do not say.

use bytes::Bytes;
use serde::Serialize;

use super::Rejection;

/// Longest `instance` that is repeated to the caller, in bytes; a longer path is cut.
const INSTANCE_BYTES_MAX: usize = 512;

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'a str,
    request_id: &'a str,
}

impl Rejection {
    /// `instance` is the request's path without its query, which may hold a key.
    pub fn body(&self, instance: &str, request_id: &str) -> Bytes {
        let path = instance.split('?').next().unwrap_or_default();
        let problem = Problem {
            r#type: format!("/errors/{}", self.code()),
            title: self.title(),
            status: self.status(),
            detail: &self.detail(),
            instance: cut(path),
            code: self.code(),
            request_id,
        };
        // Strings and a number: this serialisation has no way to fail.
        serde_json::to_vec(&problem).map(Bytes::from).unwrap_or_default()
    }
}

fn cut(path: &str) -> &str {
    let end = path.floor_char_boundary(INSTANCE_BYTES_MAX);
    path.get(..end).unwrap_or_default()
}
