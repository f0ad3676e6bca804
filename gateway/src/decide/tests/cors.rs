//! Cross-origin: preflights without a key, grants on answers and errors, nothing for products without rules.

use super::*;
use crate::filters::cors::Preflight;

fn rules(origins: &[&str], credentials: bool) -> wire::Product {
    let mut open = product(1);
    open.cors = Some(wire::Cors {
        origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        headers: vec!["Content-Type".to_owned(), "X-API-Key".to_owned()],
        exposed_headers: vec!["ETag".to_owned()],
        credentials,
        max_age_s: 600,
    });
    open
}

fn preflight(target: &str, origin: &str, wanted: &str) -> Request {
    get(target).method("OPTIONS").header("origin", origin).header("access-control-request-method", wanted)
}

fn text(headers: &[(HeaderName, HeaderValue)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect()
}

fn answer(house: &House, request: &Request) -> Preflight {
    match house.decide(request) {
        Ok(Decision::Answer(preflight)) => preflight,
        Ok(Decision::Admitted(_) | Decision::Undecided(_)) => panic!("it was admitted"),
        Err(rejected) => panic!("{:?}", rejected.rejection),
    }
}

#[test]
fn a_preflight_is_answered_without_a_key() {
    let house = House::new().with(rules(&["https://app.example"], true));
    let granted = answer(&house, &preflight("/acme/p1/users/7", "https://app.example", "GET"));
    insta::assert_snapshot!(text(&granted.headers), @r"
    access-control-allow-origin: https://app.example
    access-control-allow-credentials: true
    access-control-allow-methods: GET
    access-control-allow-headers: Content-Type, X-API-Key, authorization, apikey
    access-control-max-age: 600
    vary: Origin, Access-Control-Request-Method
    ");
    let stranger = answer(&house, &preflight("/acme/p1/users/7", "https://evil.example", "GET"));
    assert_eq!(text(&stranger.headers), "vary: Origin, Access-Control-Request-Method\n");
    let other_method = answer(&house, &preflight("/acme/p1/users/7", "https://app.example", "PUT"));
    assert!(text(&other_method.headers).contains("access-control-allow-methods: GET\n"));
    assert_eq!(house.refusal(&preflight("/acme/p1/nothing", "https://app.example", "GET")), Rejection::NoRoute);
}

#[test]
fn without_rules_a_preflight_is_a_request_like_any_other() {
    let house = House::new();
    let rejected = house.refuse(&preflight("/acme/p1/users/7", "https://app.example", "GET"));
    assert_eq!(rejected.rejection.code(), "method_not_allowed");
    assert!(rejected.cors.is_none());
}

#[test]
fn any_origin_never_comes_with_credentials() {
    let house = House::new().with(rules(&["*"], true));
    let admitted = house.admit(&get("/acme/p1/users/7").key(&house.live).header("origin", "https://any.example"));
    insta::assert_snapshot!(text(&admitted.cors.unwrap().headers()), @r"
    access-control-allow-origin: *
    access-control-expose-headers: ETag
    ");
}

#[test]
fn errors_can_be_read_by_pages_of_an_allowed_origin_and_by_no_others() {
    let house = House::new().with(rules(&["https://app.example"], false));
    let headers = |origin: &str| {
        let rejected = house.refuse(&get("/acme/p1/users/7").header("origin", origin));
        assert_eq!(rejected.rejection, Rejection::MissingKey);
        text(&rejected.cors.unwrap().headers())
    };
    insta::assert_snapshot!(headers("https://app.example"), @r"
    access-control-allow-origin: https://app.example
    access-control-expose-headers: ETag
    vary: Origin
    ");
    assert_eq!(headers("https://evil.example"), "vary: Origin\n");
    assert_eq!(headers("null"), "vary: Origin\n");
}
