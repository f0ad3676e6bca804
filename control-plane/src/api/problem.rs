//! Problems: every error that a client can get, each with a code, and the one place that writes them as problem+json. What
//! the log says stands apart. Refuses to leak what the store or the system said.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::source::RequestId;
use crate::api::state::AppState;
use crate::domain::fault::{Fault, Faults, Flaw};
use crate::passwords::PasswordError;
use crate::store::StoreError;
use crate::store::members::LAST_OWNER;
use crate::throttle::Throttled;

#[cfg(test)]
mod tests;

/// One row per problem: variant, code, status, title.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// Every problem that the control plane answers with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)+ }

        /// All of them, for the documents and the tests.
        pub const ALL_CODES: &[Code] = &[$(Code::$name,)+];

        impl Code {
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)+ }
            }

            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)+ }
            }
        }
    };
}

codes! {
    MalformedRequest = "malformed_request", BAD_REQUEST, "The request cannot be read";
    MalformedJson = "malformed_json", BAD_REQUEST, "The body is not JSON";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "Sign in first";
    InvalidCredentials = "invalid_credentials", UNAUTHORIZED, "E-mail address or password is wrong";
    Forbidden = "forbidden", FORBIDDEN, "Not allowed";
    InsufficientRole = "insufficient_role", FORBIDDEN, "Your role in the organization does not allow this";
    InsufficientScope = "insufficient_scope", FORBIDDEN, "The access token's scopes do not allow this";
    OriginRefused = "origin_refused", FORBIDDEN, "The request comes from a foreign page";
    RegistrationClosed = "registration_closed", FORBIDDEN, "Registration is closed";
    OrganizationSuspended = "organization_suspended", FORBIDDEN, "The organization is suspended";
    NotFound = "not_found", NOT_FOUND, "There is no such thing";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The address does not have this method";
    AlreadyExists = "already_exists", CONFLICT, "It exists already";
    StillReferenced = "still_referenced", CONFLICT, "Something else refers to it";
    InvalidState = "invalid_state", CONFLICT, "Its state does not allow this";
    IdempotencyKeyReused = "idempotency_key_reused", CONFLICT, "The Idempotency-Key belongs to another request";
    PreconditionFailed = "precondition_failed", PRECONDITION_FAILED, "It has changed since you read it";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    ValidationFailed = "validation_failed", UNPROCESSABLE_ENTITY, "Some fields are wrong";
    PublishRefused = "publish_refused", UNPROCESSABLE_ENTITY, "The product cannot be published as it is";
    TooManyRequests = "too_many_requests", TOO_MANY_REQUESTS, "Too many attempts";
    Internal = "internal_error", INTERNAL_SERVER_ERROR, "Something broke here";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The database is unavailable";
    Timeout = "timeout", SERVICE_UNAVAILABLE, "The request took too long";
}

/// An error on its way to the client. `detail` and `errors` are for the client; `log` is for the operator alone.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: Code,
    pub detail: String,
    pub errors: Vec<Fault>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub log: Option<String>,
}

/// Seconds after which a client may try again when the store is away.
const UNAVAILABLE_RETRY_AFTER_S: u64 = 2;

impl ApiError {
    pub fn new(code: Code, detail: impl Into<String>) -> ApiError {
        ApiError { code, detail: detail.into(), errors: Vec::new(), headers: Vec::new(), log: None }
    }

    /// For things that are not there, and for things of others alike.
    pub fn not_found(what: &str) -> ApiError {
        ApiError::new(Code::NotFound, format!("There is no {what} with this id that you may see."))
    }

    /// Something that should not happen; the client learns only that.
    pub fn internal(log: impl Into<String>) -> ApiError {
        let detail = "The error was logged under this request's id.";
        ApiError { log: Some(log.into()), ..ApiError::new(Code::Internal, detail) }
    }

    /// One wrong field; `pointer` as in `/name`.
    pub fn field(pointer: &str, flaw: Flaw) -> ApiError {
        ApiError::fields(vec![flaw.at(pointer)])
    }

    pub fn fields(errors: Vec<Fault>) -> ApiError {
        let count = errors.len();
        let detail = if count == 1 { "One field is wrong.".to_owned() } else { format!("{count} fields are wrong.") };
        ApiError { errors, ..ApiError::new(Code::ValidationFailed, detail) }
    }

    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> ApiError {
        self.headers.push((name, value));
        self
    }

    fn with_retry_after(self, seconds: u64) -> ApiError {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }
}

impl From<Faults> for ApiError {
    fn from(faults: Faults) -> ApiError {
        ApiError::fields(faults.into_vec())
    }
}

impl From<StoreError> for ApiError {
    /// Handlers that expect a refusal (a taken slug) catch it before; what arrives here gets the general answer.
    fn from(error: StoreError) -> ApiError {
        let log = error.to_string();
        let known = match &error {
            StoreError::Unavailable(_) | StoreError::Retry => {
                ApiError::new(Code::Unavailable, "The database does not answer in time. Nothing was changed.")
                    .with_retry_after(UNAVAILABLE_RETRY_AFTER_S)
            }
            StoreError::OutcomeUnknown(_) => ApiError::new(
                Code::Unavailable,
                "It may or may not have been done: read it again, or repeat with the same Idempotency-Key.",
            )
            .with_retry_after(UNAVAILABLE_RETRY_AFTER_S),
            StoreError::Conflict { .. } => {
                ApiError::new(Code::AlreadyExists, "Something with this name exists already.")
            }
            StoreError::Referenced { table, .. } => {
                ApiError::new(Code::StillReferenced, format!("Rows of {table} stand in the way."))
            }
            StoreError::Refused { constraint, .. } => ApiError::new(Code::InvalidState, explain_refusal(constraint)),
            StoreError::BadValue(_) => ApiError::new(Code::ValidationFailed, "A value cannot be stored."),
            StoreError::RowCount { .. }
            | StoreError::BadRow(_)
            | StoreError::Settings(_)
            | StoreError::Statement(_) => return ApiError::internal(log),
        };
        ApiError { log: Some(log), ..known }
    }
}

/// The rules that the database keeps, in the words of those who meet them.
fn explain_refusal(constraint: &str) -> &'static str {
    match constraint {
        LAST_OWNER => "An organization keeps at least one owner. Make somebody else an owner first.",
        _ => "Its present state does not allow this change.",
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> ApiError {
        match error {
            PasswordError::Busy => {
                ApiError::new(Code::TooManyRequests, "Too many people sign in at this moment. Try again.")
                    .with_retry_after(1)
            }
            PasswordError::Hashing(_) => ApiError::internal(error.to_string()),
        }
    }
}

impl From<Throttled> for ApiError {
    fn from(throttled: Throttled) -> ApiError {
        let seconds = throttled.retry_after.as_secs().saturating_add(1);
        ApiError::new(Code::TooManyRequests, format!("Too many attempts. Try again in {seconds} s."))
            .with_retry_after(seconds)
    }
}

impl IntoResponse for ApiError {
    /// Only a carrier: `write_problems` fills in headers and body, because it knows the request.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of every error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `/errors/` and the code.
    #[serde(rename = "type")]
    #[schema(example = "/errors/validation_failed")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    /// The path of the request.
    instance: String,
    #[schema(example = "validation_failed")]
    code: &'static str,
    request_id: String,
    /// The wrong fields, where there are such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body, or the parameter's name after a slash.
    #[schema(example = "/name")]
    pointer: String,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// The outermost layer but for the request id: the only writer of error bodies, for our errors and the framework's alike.
pub async fn write_problems(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let request_id = request.extensions().get::<RequestId>().copied().unwrap_or_default();
    let instance = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let error = match parts.extensions.remove::<ApiError>() {
        Some(error) => error,
        None if is_our_own_body(&parts.headers) => return Response::from_parts(parts, body),
        None => error_of_framework(status),
    };
    state.metrics.count_problem(error.code.as_str());
    log_problem(&error, request_id, &instance);
    parts.status = error.code.status();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    error.headers.iter().for_each(|(name, value)| drop(parts.headers.insert(name.clone(), value.clone())));
    Response::from_parts(parts, Body::from(render(error, request_id, instance)))
}

/// Readiness answers 503 with a body of its own.
fn is_our_own_body(headers: &axum::http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

fn error_of_framework(status: StatusCode) -> ApiError {
    match status {
        StatusCode::NOT_FOUND => ApiError::new(Code::NotFound, "There is nothing at this address."),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::new(Code::MethodNotAllowed, "The Allow header says which methods it has.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(Code::BodyTooLarge, "The body is longer than this server reads.")
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiError::new(Code::UnsupportedMediaType, "Send `application/json`."),
        StatusCode::SERVICE_UNAVAILABLE => {
            ApiError::new(Code::Timeout, "The request was given up.").with_retry_after(UNAVAILABLE_RETRY_AFTER_S)
        }
        status if status.is_client_error() => ApiError::new(Code::MalformedRequest, "The request cannot be read."),
        status => ApiError::internal(format!("a layer answered {status}")),
    }
}

fn log_problem(error: &ApiError, request_id: RequestId, instance: &str) {
    let (code, log) = (error.code.as_str(), error.log.as_deref().unwrap_or(""));
    if error.code.status().is_server_error() {
        tracing::error!(%request_id, path = instance, code, log, "request failed");
    } else {
        tracing::debug!(%request_id, path = instance, code, log, "request refused");
    }
}

fn render(error: ApiError, request_id: RequestId, instance: String) -> Vec<u8> {
    let errors = error.errors.into_iter().map(|field| FieldError {
        pointer: field.pointer,
        detail: field.reason,
        mend: field.mend,
    });
    let problem = Problem {
        kind: format!("/errors/{}", error.code.as_str()),
        title: error.code.title(),
        status: error.code.status().as_u16(),
        detail: error.detail,
        instance,
        code: error.code.as_str(),
        request_id: request_id.to_string(),
        errors: errors.collect(),
    };
    // A struct of strings and numbers always serializes; an empty body would still carry the status.
    serde_json::to_vec(&problem).unwrap_or_default()
}
