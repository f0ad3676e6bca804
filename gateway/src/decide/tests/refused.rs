//! Every way to be turned away before the upstream, in the order of the line.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::decide::still_admitted;

fn status(rejection: &Rejection) -> (u16, &'static str) {
    (rejection.status(), rejection.code())
}

/// The records' enum fields, by their wire numbers.
fn with_status(status: wire::SubscriptionStatus) -> House {
    let mut it = subscription(11, 1, 10);
    it.status = status.into();
    House::new().with(it)
}

#[test]
fn malformed_heads_are_refused_before_anything_is_looked_up() {
    let house = House::new();
    let path = format!("/acme/p1/{}", "a".repeat(9_000));
    let cookie = "x".repeat(70_000);
    for (request, expected) in [
        (get("/acme/p1/users/7").method("TRACE"), (405, "method_not_allowed")),
        (get("/acme/p1/users/7").method("BREW"), (501, "method_unknown")),
        (get(&path), (414, "uri_too_long")),
        (get("/").header("cookie", &cookie), (431, "headers_too_large")),
        (get("/").header("host", "b"), (400, "bad_host")),
        (Request { headers: HeaderMap::new(), ..get("/") }, (400, "bad_host")),
        (get("/").header("content-length", "5, 5"), (400, "bad_framing")),
        (get("/").header("transfer-encoding", "gzip"), (501, "transfer_coding_unknown")),
        (get("/acme/p1/a%2fb"), (400, "bad_path")),
        (get("/acme/p1//users"), (400, "bad_path")),
        (get("/acme/p1/../../../x"), (400, "bad_path")),
        (get("http://other.example/acme/p1/users/7"), (400, "bad_host")),
        (get("http://u@gateway.example/acme/p1/users/7"), (400, "bad_host")),
        (get("http:///acme/p1/users/7"), (400, "bad_host")),
        (get("http://gateway.example//acme/p1/users/7"), (400, "bad_path")),
        (get("ftp://gateway.example/acme/p1/users/7"), (400, "bad_path")),
        (get("*").method("OPTIONS"), (400, "bad_path")),
        (get("/acme/p1/users/7?a b"), (400, "bad_query")),
    ] {
        let request = request.key(&house.live);
        assert_eq!(status(&house.refusal(&request)), expected, "{} {}", request.method, request.target);
    }
}

#[test]
fn an_unknown_address_is_404_and_a_wrong_method_405_even_without_a_key() {
    let house = House::new();
    for target in ["/", "/acme", "/acme/p9/users/7", "/other/p1/users/7", "/acme/p1/nothing", "/acme/p1"] {
        assert_eq!(status(&house.refusal(&get(target))), (404, "no_route"), "{target}");
    }
    let rejection = house.refusal(&get("/acme/p1/users/7").method("PUT"));
    assert_eq!(rejection, Rejection::MethodNotAllowed(vec![Method::GET, Method::DELETE]));
}

#[test]
fn a_closed_product_and_a_gateway_without_a_snapshot_are_503() {
    let mut newer = product(1);
    newer.requires = vec!["unknown.v1".to_owned()];
    let house = House::new().with(newer);
    assert_eq!(house.refusal(&get("/acme/p1/users/7").key(&house.live)), Rejection::ProductClosed);

    let request = get("/acme/p1/users/7");
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let head = RequestHead::read(&Method::GET, request.version, b"/acme/p1", None, &request.headers, peer).unwrap();
    let outcome = decide(&head, &Arc::new(Snapshot::empty()), &house.limiter, NOW, &house.rules);
    assert_eq!(outcome.err().unwrap().rejection, Rejection::NotReady);
}

#[test]
fn a_declared_body_beyond_the_products_or_the_gateways_limit_is_413() {
    let mut small = product(1);
    small.body_bytes_max = 10;
    let mut house = House::new().with(small);
    let post = |length: &str| get("/acme/p1/users").method("POST").header("content-length", length);
    assert_eq!(house.refusal(&post("11")), Rejection::BodyTooLarge { limit_bytes: 10 });
    assert_eq!(house.admit(&post("10").key(&house.live)).body_bytes_max, 10);
    house.rules.body_bytes_max = 5;
    assert_eq!(house.refusal(&post("6")), Rejection::BodyTooLarge { limit_bytes: 5 });
}

#[test]
fn without_one_good_key_it_is_401_or_400() {
    let unknown = fixtures::minted(Environment::Live);
    let house = House::new();
    let to = || get("/acme/p1/users/7");
    let mut mistyped = house.live.reveal().to_owned();
    mistyped.pop();
    mistyped.push('!');
    for (request, expected) in [
        (to(), "missing_key"),
        (to().header("authorization", "Basic dTpw"), "missing_key"),
        (to().header("x-api-key", "nonsense"), "invalid_key"),
        (to().header("x-api-key", &mistyped), "invalid_key"),
        (to().key(&unknown), "invalid_key"),
        (get(&format!("/acme/p1/users/7?apikey={}", house.live.reveal())), "missing_key"),
        (to().key(&house.live).header("apikey", house.test.reveal()), "conflicting_credentials"),
        (to().key(&house.live).key(&house.live), "duplicate_credential"),
    ] {
        let rejected = house.refuse(&request);
        assert_eq!(rejected.rejection.code(), expected, "{:?}", request.headers);
        assert_eq!(rejected.rejection.status(), if expected.ends_with("key") { 401 } else { 400 });
        assert!(rejected.context.is_none() && rejected.limits.is_none());
    }
}

#[test]
fn a_key_expires_by_the_gateways_clock_and_a_removed_one_is_unknown() {
    let mut house = House::new();
    let mut key = fixtures::key(21, 11, &house.live);
    key.expires_at_ms = Some(NOW.unix_ms + 1);
    house = house.with(key);
    let request = get("/acme/p1/users/7").key(&house.live);
    assert!(house.decide(&request).is_ok());
    let later = NOW.after(Duration::from_millis(1));
    assert_eq!(house.decide_at(&request, later).err().unwrap().rejection, Rejection::ExpiredKey);

    let (revoked, _) = house.snapshot().apply(token(2), &[fixtures::remove(wire::EntityKind::Key, 21)]);
    let known = house.admit(&request).known;
    assert_eq!(still_admitted(&known, &house.snapshot(), NOW), Ok(()));
    assert_eq!(still_admitted(&known, &house.snapshot(), later), Err(Rejection::ExpiredKey));
    assert_eq!(still_admitted(&known, &revoked, NOW), Err(Rejection::InvalidKey));
}

#[test]
fn a_key_opens_its_own_product_only_and_tells_the_other_publisher_nothing() {
    let house = House::new();
    let rejected = house.refuse(&get("/acme/p1/users/7").key(&house.of_other_product));
    assert_eq!(status(&rejected.rejection), (403, "no_subscription"));
    assert!(rejected.context.is_none());
    house.admit(&get("/acme/p2/users/7").key(&house.of_other_product));

    let (alone, _) = house.snapshot().apply(token(2), &[fixtures::remove(wire::EntityKind::Subscription, 11)]);
    let known = house.admit(&get("/acme/p1/users/7").key(&house.live)).known;
    assert_eq!(still_admitted(&known, &alone, NOW), Err(Rejection::NoSubscription));
}

#[test]
fn the_status_of_the_subscription_decides_with_402_or_403_and_is_logged() {
    use wire::SubscriptionStatus as Status;
    for (status, expected) in [
        (Status::Pending, (403, "subscription_pending")),
        (Status::Suspended, (403, "subscription_suspended")),
        (Status::Cancelled, (403, "subscription_cancelled")),
    ] {
        let house = with_status(status);
        let rejected = house.refuse(&get("/acme/p1/users/7").key(&house.live));
        assert_eq!((rejected.rejection.status(), rejected.rejection.code()), expected);
        assert_eq!(rejected.context.unwrap().subscription.meter_id, 11);
        assert_eq!(rejected.limits.unwrap().rate.limit, 100);
        assert_eq!(house.limiter.slots(), 0);
    }
}

#[test]
fn an_unpaid_subscription_is_served_until_its_day_and_a_cancelled_one_until_its_end() {
    let mut unpaid = subscription(11, 1, 10);
    unpaid.status = wire::SubscriptionStatus::PastDue.into();
    unpaid.refuse_unpaid_from_ms = Some(NOW.unix_ms + 1);
    let mut ending = subscription(12, 2, 10);
    ending.cancel_at_ms = Some(NOW.unix_ms + 1);
    let house = House::new().with(unpaid).with(ending);
    let later = NOW.after(Duration::from_millis(1));
    for (request, expected) in [
        (get("/acme/p1/users/7").key(&house.live), Rejection::PaymentRequired),
        (get("/acme/p2/users/7").key(&house.of_other_product), Rejection::SubscriptionCancelled),
    ] {
        assert!(house.decide(&request).is_ok());
        let rejected = house.decide_at(&request, later).err().unwrap();
        assert_eq!(rejected.rejection, expected);
        assert!(rejected.context.is_some());
    }
}

#[test]
fn a_key_with_scopes_needs_the_endpoints_scope() {
    let house = House::new();
    let mut reader = fixtures::key(21, 11, &house.live);
    reader.scopes = vec!["read".to_owned()];
    let delete = || get("/acme/p1/users/7").method("DELETE");
    house.admit(&delete().key(&house.live));
    let house = house.with(reader.clone());
    let rejected = house.refuse(&delete().key(&house.live));
    assert_eq!(status(&rejected.rejection), (403, "insufficient_scope"));
    assert!(rejected.context.is_some());
    house.admit(&get("/acme/p1/users/7").key(&house.live));
    reader.scopes.push("admin".to_owned());
    let house = house.with(reader);
    house.admit(&delete().key(&house.live));
}

#[test]
fn a_subscription_whose_plan_is_not_here_fails_closed() {
    let house = House::new().with(subscription(11, 1, 77));
    assert_eq!(house.refusal(&get("/acme/p1/users/7").key(&house.live)), Rejection::PlanUnavailable);
}

#[test]
fn too_fast_is_429_with_the_wait_and_the_windows() {
    let house = House::new().with(plan(10, 2));
    let request = get("/acme/p1/users/7").key(&house.live);
    assert_eq!(house.admit(&request).limits.rate.remaining, 1);
    house.admit(&request);
    let rejected = house.refuse(&request);
    assert_eq!(status(&rejected.rejection), (429, "rate_limited"));
    assert!(rejected.rejection.retry_after_s().unwrap() >= 1);
    assert_eq!(rejected.limits.unwrap().rate.limit, 2);
    assert_eq!(rejected.context.unwrap().plan.meter_id, 10);
    // Another subscription to another product is not held up.
    house.admit(&get("/acme/p2/users/7").key(&house.of_other_product));
}

#[test]
fn a_used_up_hard_quota_is_429_and_takes_nothing_from_the_rate() {
    let mut monthly = plan(10, 100);
    (monthly.included_requests, monthly.quota_hard) = (Some(1), true);
    let house = House::new().with(monthly);
    let request = get("/acme/p1/users/7").key(&house.live);
    let before = house.admit(&request).limits.rate.remaining;
    let rejected = house.refuse(&request);
    assert_eq!(status(&rejected.rejection), (429, "quota_exceeded"));
    assert_eq!(rejected.limits.unwrap().rate.remaining, before);
}

#[test]
fn a_request_that_is_refused_for_another_reason_takes_nothing_from_the_limits() {
    let house = House::new().with(plan(10, 1));
    let mut reader = fixtures::key(21, 11, &house.live);
    reader.scopes = vec!["read".to_owned()];
    let house = house.with(reader);
    for _ in 0..5 {
        let refused = house.refuse(&get("/acme/p1/users/7").method("DELETE").key(&house.live));
        assert_eq!(refused.limits.unwrap().rate.remaining, 1, "it is told how the limits stand");
    }
    assert_eq!(house.limiter.slots(), 0);
    house.admit(&get("/acme/p1/users/7").key(&house.live));
    let refused = house.refuse(&get("/acme/p1/users/7").method("DELETE").key(&house.live));
    assert_eq!(refused.limits.unwrap().rate.remaining, 0);
}

proptest! {
    #[test]
    fn any_head_is_answered(
        target in proptest::collection::vec(any::<u8>(), 0..60),
        inside in "/acme/p1/[ -~]{0,30}",
        lines in proptest::collection::vec(
            ("(host|authorization|apikey|x-api-key|origin|content-length|x-forwarded-for)", "[ -~]{0,40}"), 0..6
        ),
    ) {
        let house = House::new();
        let snapshot = house.snapshot();
        let mut headers = HeaderMap::new();
        for (name, value) in &lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for target in [target.as_slice(), inside.as_bytes()] {
            let Ok(head) = RequestHead::read(&Method::OPTIONS, Version::HTTP_11, target, None, &headers, peer) else {
                continue;
            };
            if let Ok(Decision::Admitted(_)) = decide(&head, &snapshot, &house.limiter, NOW, &house.rules) {
                panic!("nobody has a key here");
            }
        }
    }
}
