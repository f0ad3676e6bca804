//! Code, status, title and detail of every rejection: the table that docs/API.md repeats. Details name what the caller
//! can mend and nothing of the gateway's inside.

use std::borrow::Cow;

use super::Rejection;

pub(super) struct Words {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) title: &'static str,
}

const fn words(status: u16, code: &'static str, title: &'static str) -> Words {
    Words { status, code, title }
}

impl Rejection {
    /// Every code there is, for the documentation's test and the metrics' labels.
    pub const ALL_CODES: [&'static str; 39] = [
        "bad_request",
        "bad_host",
        "bad_framing",
        "bad_path",
        "bad_query",
        "conflicting_credentials",
        "duplicate_credential",
        "missing_key",
        "invalid_key",
        "expired_key",
        "payment_required",
        "no_subscription",
        "subscription_pending",
        "subscription_suspended",
        "subscription_cancelled",
        "insufficient_scope",
        "no_route",
        "method_not_allowed",
        "request_timeout",
        "body_too_large",
        "uri_too_long",
        "headers_too_large",
        "rate_limited",
        "quota_exceeded",
        "product_busy",
        "too_many_connections",
        "internal_error",
        "method_unknown",
        "transfer_coding_unknown",
        "upstream_unreachable",
        "upstream_bad_response",
        "upstream_reset",
        "not_ready",
        "product_closed",
        "plan_unavailable",
        "no_healthy_upstream",
        "usage_storage_full",
        "upstream_timeout",
        "loop_detected",
    ];

    pub(super) fn words(&self) -> Words {
        match self {
            Rejection::BadRequest => words(400, "bad_request", "The request is malformed"),
            Rejection::BadHost(_) => words(400, "bad_host", "The host is missing or malformed"),
            Rejection::BadFraming(_) => words(400, "bad_framing", "The length of the body is unclear"),
            Rejection::BadPath(_) => words(400, "bad_path", "The path is malformed"),
            Rejection::BadQuery => words(400, "bad_query", "The query is malformed"),
            Rejection::ConflictingCredentials => {
                words(400, "conflicting_credentials", "The request carries two different credentials")
            }
            Rejection::DuplicateCredential => words(400, "duplicate_credential", "The request repeats a credential"),
            Rejection::MissingKey => words(401, "missing_key", "An API key is required"),
            Rejection::InvalidKey => words(401, "invalid_key", "The API key is not valid"),
            Rejection::ExpiredKey => words(401, "expired_key", "The API key has expired"),
            Rejection::PaymentRequired => words(402, "payment_required", "The subscription is unpaid"),
            Rejection::NoSubscription => words(403, "no_subscription", "The key has no subscription to this product"),
            Rejection::SubscriptionPending => {
                words(403, "subscription_pending", "The subscription awaits the publisher's approval")
            }
            Rejection::SubscriptionSuspended => words(403, "subscription_suspended", "The subscription is suspended"),
            Rejection::SubscriptionCancelled => words(403, "subscription_cancelled", "The subscription is cancelled"),
            Rejection::InsufficientScope => words(403, "insufficient_scope", "The key lacks the scope"),
            Rejection::NoRoute => words(404, "no_route", "Nothing is served here"),
            Rejection::MethodNotAllowed(_) => words(405, "method_not_allowed", "The method is not allowed here"),
            Rejection::RequestTimeout => words(408, "request_timeout", "The request took too long to arrive"),
            Rejection::BodyTooLarge { .. } => words(413, "body_too_large", "The body is too large"),
            Rejection::UriTooLong => words(414, "uri_too_long", "The request target is too long"),
            Rejection::RateLimited { .. } => words(429, "rate_limited", "Too many requests"),
            Rejection::QuotaExceeded { .. } => words(429, "quota_exceeded", "The month's quota is used up"),
            Rejection::HeadersTooLarge => words(431, "headers_too_large", "The headers are too large"),
            Rejection::Internal => words(500, "internal_error", "The gateway failed"),
            Rejection::MethodUnknown => words(501, "method_unknown", "The method is not supported"),
            Rejection::TransferCodingUnknown => {
                words(501, "transfer_coding_unknown", "The transfer coding is not supported")
            }
            Rejection::UpstreamUnreachable => words(502, "upstream_unreachable", "The upstream cannot be reached"),
            Rejection::UpstreamBadResponse => words(502, "upstream_bad_response", "The upstream's answer is malformed"),
            Rejection::UpstreamReset => words(502, "upstream_reset", "The upstream broke off"),
            Rejection::ProductBusy => words(503, "product_busy", "The product has too many requests in flight"),
            Rejection::TooManyConnections => {
                words(503, "too_many_connections", "The product has too many upstream connections")
            }
            Rejection::NotReady => words(503, "not_ready", "The gateway is starting"),
            Rejection::ProductClosed => words(503, "product_closed", "The product is closed for now"),
            Rejection::PlanUnavailable => words(503, "plan_unavailable", "The subscription's plan is not loaded"),
            Rejection::NoHealthyUpstream => words(503, "no_healthy_upstream", "No upstream is available"),
            Rejection::UsageStorageFull => words(503, "usage_storage_full", "Usage cannot be recorded"),
            Rejection::UpstreamTimeout => words(504, "upstream_timeout", "The upstream took too long"),
            Rejection::LoopDetected => words(508, "loop_detected", "The request goes in a circle"),
        }
    }

    /// One sentence for the caller, about this very case.
    pub fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Rejection::BadPath(fault) => return Cow::Owned(format!("{fault}.")),
            Rejection::BodyTooLarge { limit_bytes } => {
                return Cow::Owned(format!("This product takes bodies of at most {limit_bytes} bytes."));
            }
            Rejection::RateLimited { retry_after_s } => {
                let seconds = (*retry_after_s).max(1);
                return Cow::Owned(format!("The limit per minute is reached; retry in {seconds} s."));
            }
            Rejection::QuotaExceeded { retry_after_s } => {
                let seconds = (*retry_after_s).max(1);
                let detail = "The quota of the month is used up";
                return Cow::Owned(format!("{detail}; retry in {seconds} s, or change to a larger plan."));
            }
            Rejection::MethodNotAllowed(_) => "The Allow header lists the methods that are served at this path.",
            Rejection::BadHost(fault) | Rejection::BadFraming(fault) => fault,
            Rejection::BadRequest => "The request could not be read.",
            Rejection::BadQuery => "The query has a character that must be percent-encoded.",
            Rejection::ConflictingCredentials => {
                "Send the key in one place: 'Authorization: Bearer', 'X-API-Key' or 'apikey'."
            }
            Rejection::DuplicateCredential => "Send the header or parameter that carries the key once.",
            Rejection::MissingKey => "Send a key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'.",
            Rejection::InvalidKey => "The key is malformed, unknown or revoked.",
            Rejection::ExpiredKey => "Make or rotate the key in the dashboard.",
            Rejection::PaymentRequired => "Requests are served again once the open invoice is paid.",
            Rejection::NoSubscription => "Subscribe to the product, or use the key of the subscription to it.",
            Rejection::SubscriptionPending => "Requests are served once the publisher has approved it.",
            Rejection::SubscriptionSuspended => "Ask the publisher of the product.",
            Rejection::SubscriptionCancelled => "Subscribe to the product again.",
            Rejection::InsufficientScope => "This endpoint needs a scope that the key was not given.",
            Rejection::NoRoute => "No product or endpoint matches the address.",
            Rejection::RequestTimeout => "Send the request faster.",
            Rejection::UriTooLong => "The path and query are longer than the gateway accepts.",
            Rejection::HeadersTooLarge => "The headers are more or longer than the gateway accepts.",
            Rejection::ProductBusy => "Its upstream answers more slowly than requests come; retry in a moment.",
            Rejection::TooManyConnections => {
                "Every connection it may have to its upstreams is in use; retry in a moment."
            }
            Rejection::Internal => "The failure was logged with the request id.",
            Rejection::MethodUnknown => "Methods are GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS.",
            Rejection::TransferCodingUnknown => "The only transfer coding is 'chunked'.",
            Rejection::UpstreamUnreachable => "No connection to the upstream could be made.",
            Rejection::UpstreamBadResponse => "The upstream sent something that is not a valid answer.",
            Rejection::UpstreamReset => "The upstream closed the connection before its answer was complete.",
            Rejection::NotReady => "The gateway has no configuration yet.",
            Rejection::ProductClosed => "The product cannot be served by this gateway at the moment.",
            Rejection::PlanUnavailable => "The gateway has not received the subscription's plan yet.",
            Rejection::NoHealthyUpstream => "The upstream has no address that answers.",
            Rejection::UsageStorageFull => {
                "The gateway has no room left to record requests, and was told not to go on without."
            }
            Rejection::UpstreamTimeout => "The upstream did not answer within the endpoint's timeout.",
            Rejection::LoopDetected => "The request came through this gateway too often; an upstream leads back to it.",
        })
    }
}
