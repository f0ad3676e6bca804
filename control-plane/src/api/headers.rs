//! Request headers as the OpenAPI document tells them. They are read by `etag`, `idempotency` and `write`; nothing is read here.

use utoipa::IntoParams;

/// For creates.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyHeader {
    /// Makes a repeated request answer like the first.
    #[param(rename = "Idempotency-Key")]
    pub idempotency_key: Option<String>,
}

/// For edits.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IfMatchHeader {
    /// The ETag that was read; another version answers 412.
    #[param(rename = "If-Match")]
    pub if_match: Option<String>,
}

/// For what gateways must learn.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct PreferHeader {
    /// `wait=N`: answers after at most N seconds (30), with 202 unless every expected gateway serves the change.
    #[param(rename = "Prefer")]
    pub prefer: Option<String>,
}
