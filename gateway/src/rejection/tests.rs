//! Every rejection once: its status, code, headers and words.

use std::collections::BTreeSet;

use http::Method;
use snapshot::path::PathFault;

use super::Rejection;

fn all() -> Vec<Rejection> {
    vec![
        Rejection::BadRequest,
        Rejection::BadHost("The request names no host."),
        Rejection::BadFraming("The request has several Content-Length lines."),
        Rejection::BadPath(PathFault::EmptySegment),
        Rejection::BadQuery,
        Rejection::ConflictingCredentials,
        Rejection::DuplicateCredential,
        Rejection::MissingKey,
        Rejection::InvalidKey,
        Rejection::ExpiredKey,
        Rejection::PaymentRequired,
        Rejection::NoSubscription,
        Rejection::SubscriptionPending,
        Rejection::SubscriptionSuspended,
        Rejection::SubscriptionCancelled,
        Rejection::InsufficientScope,
        Rejection::NoRoute,
        Rejection::MethodNotAllowed(vec![Method::GET, Method::POST]),
        Rejection::RequestTimeout,
        Rejection::BodyTooLarge { limit_bytes: 9 },
        Rejection::UriTooLong,
        Rejection::HeadersTooLarge,
        Rejection::RateLimited { retry_after_s: 0 },
        Rejection::QuotaExceeded { retry_after_s: 7 },
        Rejection::ProductBusy,
        Rejection::TooManyConnections,
        Rejection::Internal,
        Rejection::MethodUnknown,
        Rejection::TransferCodingUnknown,
        Rejection::UpstreamUnreachable,
        Rejection::UpstreamBadResponse,
        Rejection::UpstreamReset,
        Rejection::NotReady,
        Rejection::ProductClosed,
        Rejection::PlanUnavailable,
        Rejection::NoHealthyUpstream,
        Rejection::UsageStorageFull,
        Rejection::UpstreamTimeout,
        Rejection::LoopDetected,
    ]
}

#[test]
fn every_rejection_has_a_code_of_its_own_and_the_list_of_codes_is_complete() {
    let codes: Vec<&str> = all().iter().map(Rejection::code).collect();
    assert_eq!(codes, Rejection::ALL_CODES);
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
}

#[test]
fn statuses_and_headers_are_those_of_the_design() {
    let line = |rejection: &Rejection| {
        let headers: Vec<String> = rejection
            .headers()
            .iter()
            .filter(|(name, _)| !["content-type", "cache-control"].contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        format!("{} {}\n", rejection.status(), headers.join(" | "))
    };
    let table: String = all().iter().map(line).collect();
    insta::assert_snapshot!(table, @r#"
    400 x-gateway-error: bad_request
    400 x-gateway-error: bad_host
    400 x-gateway-error: bad_framing
    400 x-gateway-error: bad_path
    400 x-gateway-error: bad_query
    400 x-gateway-error: conflicting_credentials
    400 x-gateway-error: duplicate_credential
    401 x-gateway-error: missing_key | www-authenticate: Bearer realm="apihub"
    401 x-gateway-error: invalid_key | www-authenticate: Bearer realm="apihub"
    401 x-gateway-error: expired_key | www-authenticate: Bearer realm="apihub"
    402 x-gateway-error: payment_required
    403 x-gateway-error: no_subscription
    403 x-gateway-error: subscription_pending
    403 x-gateway-error: subscription_suspended
    403 x-gateway-error: subscription_cancelled
    403 x-gateway-error: insufficient_scope
    404 x-gateway-error: no_route
    405 x-gateway-error: method_not_allowed | allow: GET, POST
    408 x-gateway-error: request_timeout
    413 x-gateway-error: body_too_large
    414 x-gateway-error: uri_too_long
    431 x-gateway-error: headers_too_large
    429 x-gateway-error: rate_limited | retry-after: 1
    429 x-gateway-error: quota_exceeded | retry-after: 7
    503 x-gateway-error: product_busy | retry-after: 1
    503 x-gateway-error: too_many_connections | retry-after: 1
    500 x-gateway-error: internal_error
    501 x-gateway-error: method_unknown
    501 x-gateway-error: transfer_coding_unknown
    502 x-gateway-error: upstream_unreachable
    502 x-gateway-error: upstream_bad_response
    502 x-gateway-error: upstream_reset
    503 x-gateway-error: not_ready | retry-after: 1
    503 x-gateway-error: product_closed | retry-after: 1
    503 x-gateway-error: plan_unavailable | retry-after: 1
    503 x-gateway-error: no_healthy_upstream | retry-after: 1
    503 x-gateway-error: usage_storage_full | retry-after: 1
    504 x-gateway-error: upstream_timeout
    508 x-gateway-error: loop_detected
    "#);
    for rejection in all() {
        let headers = rejection.headers();
        assert!(headers.iter().any(|(name, value)| name == "content-type" && value == "application/problem+json"));
        assert!(headers.iter().any(|(name, value)| name == "cache-control" && value == "no-store"));
    }
}

#[test]
fn the_body_is_a_problem_document_without_the_query() {
    let body = Rejection::RateLimited { retry_after_s: 3 }.body("/acme/p1/\"x\"?apikey=secret", "0190-id");
    insta::assert_snapshot!(String::from_utf8(body.to_vec()).unwrap(), @r#"{"type":"/errors/rate_limited","title":"Too many requests","status":429,"detail":"The limit per minute is reached; retry in 3 s.","instance":"/acme/p1/\"x\"","code":"rate_limited","request_id":"0190-id"}"#);
}

#[test]
fn a_long_path_is_cut_between_characters_and_every_body_is_json() {
    let path = format!("/{}", "é".repeat(1_000));
    for rejection in all() {
        let problem: serde_json::Value = serde_json::from_slice(&rejection.body(&path, "id")).unwrap();
        assert!(problem["instance"].as_str().unwrap().len() <= 512);
        assert_eq!(problem["status"], rejection.status());
        assert!(problem["detail"].as_str().unwrap().ends_with('.'), "{rejection:?}");
    }
}
