//! Every way in which the gateway itself says no, and the only writer of error bodies. Each rejection has one stable
//! code, one status, and words that leak nothing; what the log says is written elsewhere.

mod body;
mod words;

#[cfg(test)]
mod tests;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use snapshot::path::PathFault;

/// Only on errors of the gateway's own making, so that they can be told from an upstream's.
pub const X_GATEWAY_ERROR: HeaderName = HeaderName::from_static("x-gateway-error");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// A refusal is about this moment; nothing in between may keep it.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"apihub\"");
/// When our own trouble is likely over, in seconds: the resolver, the feed and the balancer all look at least this often.
const RETRY_OWN_TROUBLE_S: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    BadRequest,
    BadHost(&'static str),
    BadFraming(&'static str),
    BadPath(PathFault),
    BadQuery,
    ConflictingCredentials,
    DuplicateCredential,
    MissingKey,
    InvalidKey,
    ExpiredKey,
    PaymentRequired,
    NoSubscription,
    SubscriptionPending,
    SubscriptionSuspended,
    SubscriptionCancelled,
    InsufficientScope,
    NoRoute,
    /// The methods that the path has.
    MethodNotAllowed(Vec<http::Method>),
    RequestTimeout,
    BodyTooLarge {
        limit_bytes: u64,
    },
    UriTooLong,
    HeadersTooLarge,
    RateLimited {
        retry_after_s: u64,
    },
    QuotaExceeded {
        retry_after_s: u64,
    },
    /// The product has as many requests in flight as it may.
    ProductBusy,
    /// The product has as many upstream connections as it may.
    TooManyConnections,
    Internal,
    MethodUnknown,
    TransferCodingUnknown,
    UpstreamUnreachable,
    UpstreamBadResponse,
    UpstreamReset,
    NotReady,
    ProductClosed,
    PlanUnavailable,
    NoHealthyUpstream,
    UsageStorageFull,
    UpstreamTimeout,
    LoopDetected,
}

impl Rejection {
    pub fn status(&self) -> u16 {
        self.words().status
    }

    /// Stable and in snake_case: programs branch on it, metrics are labelled with it.
    pub fn code(&self) -> &'static str {
        self.words().code
    }

    pub fn title(&self) -> &'static str {
        self.words().title
    }

    /// Whether the gateway or the upstream is at fault, and not the request.
    pub fn is_server_fault(&self) -> bool {
        self.status() >= 500 && !matches!(self, Rejection::MethodUnknown | Rejection::TransferCodingUnknown)
    }

    /// Seconds, at least 1, where asking again later can help.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Rejection::RateLimited { retry_after_s } | Rejection::QuotaExceeded { retry_after_s } => {
                Some((*retry_after_s).max(1))
            }
            Rejection::NotReady
            | Rejection::ProductClosed
            | Rejection::PlanUnavailable
            | Rejection::NoHealthyUpstream
            | Rejection::UsageStorageFull
            | Rejection::ProductBusy
            | Rejection::TooManyConnections => Some(RETRY_OWN_TROUBLE_S),
            _ => None,
        }
    }

    /// All headers of the answer but its length and those every answer has.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![
            (CONTENT_TYPE, PROBLEM_JSON),
            (CACHE_CONTROL, NO_STORE),
            (X_GATEWAY_ERROR, HeaderValue::from_static(self.code())),
        ];
        if self.status() == 401 {
            headers.push((WWW_AUTHENTICATE, CHALLENGE));
        }
        if let Rejection::MethodNotAllowed(methods) = self {
            headers.push((ALLOW, allow(methods)));
        }
        if let Some(seconds) = self.retry_after_s() {
            headers.push((RETRY_AFTER, HeaderValue::from(seconds)));
        }
        headers
    }
}

fn allow(methods: &[http::Method]) -> HeaderValue {
    let names: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
    // Names of methods are tokens: always a valid header value.
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}
