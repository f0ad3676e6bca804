//! What an admitted request carries on: the endpoint, the rendered target, the caller, the limits.

use std::num::NonZeroU32;

use super::*;
use crate::filters::limits::{effective_policy, effective_quota};

#[test]
fn an_admitted_request_knows_its_endpoint_target_and_caller() {
    let house = House::new();
    let admitted = house.admit(&get("/acme/p1/users/a%7Eb?z=1").key(&house.live));
    assert_eq!(admitted.path_and_query, "/u/a~b?z=1");
    assert_eq!(admitted.known.endpoint.pattern.to_string(), "/users/{id}");
    assert_eq!((admitted.known.product.meter_id, admitted.known.plan.meter_id), (1, 10));
    assert_eq!((admitted.known.key.meter_id, admitted.known.subscription.meter_id), (21, 11));
    assert_eq!(admitted.client.to_string(), "203.0.113.5");
    assert!(admitted.key_places.x_api_key && admitted.cors.is_none());
    let head = house.admit(&get("/acme/p1/users/7").method("HEAD").key(&house.live));
    assert_eq!(head.known.endpoint.id, admitted.known.endpoint.id);
}

#[test]
fn what_is_decided_on_is_what_is_sent_on() {
    let house = House::new();
    for target in ["/acme/p1/x/../users/7", "/acme/./p1/users/%37", "/%61cme/p1/users/7"] {
        assert_eq!(house.admit(&get(target).key(&house.live)).path_and_query, "/u/7", "{target}");
    }
}

#[test]
fn the_absolute_form_is_decided_on_and_sent_on_by_its_path() {
    let house = House::new();
    for target in ["http://gateway.example/acme/p1/users/7", "HTTPS://Gateway.Example/acme/p1/x/../users/%37"] {
        assert_eq!(house.admit(&get(target).key(&house.live)).path_and_query, "/u/7", "{target}");
    }
}

#[test]
fn a_host_of_its_own_serves_the_product_at_its_root() {
    let mut own = product(1);
    own.hosts = vec!["api.example.com".to_owned()];
    let house = House::new().with(own);
    let mut request = get("/users/7").key(&house.live);
    request.headers.insert("host", HeaderValue::from_static("API.example.com:8443"));
    assert_eq!(house.admit(&request).path_and_query, "/u/7");
    request.headers.remove("host");
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let read = |authority| {
        RequestHead::read(&Method::GET, Version::HTTP_2, b"/users/7", Some(authority), &request.headers, peer).unwrap()
    };
    let (snapshot, rules) = (house.snapshot(), &house.rules);
    assert!(decide(&read("api.example.com"), &snapshot, &house.limiter, NOW, rules).is_ok());
    let elsewhere = decide(&read("other.example"), &snapshot, &house.limiter, NOW, rules);
    assert_eq!(elsewhere.err().unwrap().rejection, Rejection::NoRoute);
}

#[test]
fn a_key_in_the_query_works_where_allowed_and_is_not_sent_on() {
    let mut open = product(1);
    open.key_in_query = true;
    let house = House::new().with(open);
    let admitted = house.admit(&get(&format!("/acme/p1/users/7?a=1&apikey={}", house.live.reveal())));
    assert_eq!(admitted.path_and_query, "/u/7?a=1");
    assert!(admitted.key_places.query);
    let alone = house.admit(&get(&format!("/acme/p1/users/7?apikey={}", house.live.reveal())));
    assert_eq!(alone.path_and_query, "/u/7");
}

#[test]
fn the_client_is_whom_a_trusted_proxy_names() {
    let mut house = House::new();
    house.rules.trusted_proxies = vec!["203.0.113.0/24".parse().unwrap()];
    let request = get("/acme/p1/users/7").key(&house.live).header("x-forwarded-for", "1.1.1.1, 198.51.100.7");
    assert_eq!(house.admit(&request).client.to_string(), "198.51.100.7");
}

#[test]
fn a_test_key_has_small_limits_of_its_own_and_uses_no_quota() {
    let mut monthly = plan(10, 1_000);
    (monthly.included_requests, monthly.quota_hard) = (Some(1), true);
    let house = House::new().with(monthly);
    let request = get("/acme/p1/users/7").key(&house.test);
    let first = house.admit(&request);
    assert_eq!(effective_quota(&first.known), None);
    assert_eq!(effective_policy(&first.known).per_minute.get(), 60);
    for _ in 1..10 {
        house.admit(&request);
    }
    assert_eq!(house.refusal(&request).code(), "rate_limited");
    // The live key's window and quota are whole.
    let live = house.admit(&get("/acme/p1/users/7").key(&house.live));
    assert_eq!(live.limits.rate.remaining, 999);
}

#[test]
fn an_override_replaces_the_plans_rate_and_a_windows_burst_is_its_limit() {
    let mut generous = subscription(11, 1, 10);
    (generous.override_requests_per_minute, generous.override_burst_limit) = (Some(500), Some(50));
    let house = House::new().with(generous.clone());
    let policy = effective_policy(&house.admit(&get("/acme/p1/users/7").key(&house.live)).known);
    assert_eq!((policy.per_minute, policy.burst), (NonZeroU32::new(500).unwrap(), NonZeroU32::new(50).unwrap()));

    let mut windowed = plan(10, 100);
    windowed.policy =
        windowed.policy.map(|policy| wire::Policy { algorithm: wire::Algorithm::SlidingWindow.into(), ..policy });
    let house = house.with(windowed);
    let policy = effective_policy(&house.admit(&get("/acme/p1/users/7").key(&house.live)).known);
    assert_eq!((policy.per_minute.get(), policy.burst.get()), (500, 500));
}
