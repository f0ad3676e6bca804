//! One key, in one of the known places; everything else is 400 or 401.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn outcome(lines: &[(&str, &str)], query: Option<&str>, key_in_query: bool) -> String {
    match extract(&headers(lines), query, key_in_query) {
        Ok(found) => {
            format!("{} query={}", String::from_utf8_lossy(found.key), found.query.as_deref().unwrap_or("-"))
        }
        Err(rejection) => rejection.code().to_owned(),
    }
}

#[test]
fn a_key_is_found_in_each_of_its_places() {
    for (lines, expected) in [
        (&[("authorization", "Bearer k")][..], "k query=-"),
        (&[("authorization", "bearer   k ")], "k query=-"),
        (&[("x-api-key", "k")], "k query=-"),
        (&[("apikey", " k")], "k query=-"),
        (&[("x-api-key", "k"), ("authorization", "Bearer k")], "k query=-"),
        (&[("x-api-key", "k"), ("authorization", "Basic dTpw")], "k query=-"),
        (&[("authorization", "Basic dTpw")], "missing_key"),
        (&[("authorization", "Bearer")], "missing_key"),
        (&[("authorization", "Bearerk")], "missing_key"),
        (&[("x-api-key", "")], "missing_key"),
        (&[("x_api_key", "k")], "missing_key"),
        (&[], "missing_key"),
        (&[("x-api-key", "k"), ("authorization", "Bearer other")], "conflicting_credentials"),
        (&[("x-api-key", "k"), ("apikey", "other")], "conflicting_credentials"),
        (&[("x-api-key", "k"), ("apikey", "")], "conflicting_credentials"),
        (&[("x-api-key", "k"), ("x-api-key", "k")], "duplicate_credential"),
        (&[("authorization", "Bearer k"), ("authorization", "Basic dTpw")], "duplicate_credential"),
        (&[("apikey", "k"), ("apikey", "other")], "duplicate_credential"),
    ] {
        assert_eq!(outcome(lines, None, false), expected, "{lines:?}");
    }
}

#[test]
fn a_key_in_the_query_counts_only_where_the_product_allows_it_and_is_taken_out() {
    for (query, allowed, expected) in [
        ("apikey=k", true, "k query=-"),
        ("a=1&apikey=k&b=2", true, "k query=a=1&b=2"),
        ("apikey=k&a", true, "k query=a"),
        ("apikey=k", false, "missing_key"),
        ("apikey=k&apikey=k", true, "duplicate_credential"),
        ("apikey", true, "missing_key"),
        ("myapikey=k", true, "missing_key"),
    ] {
        assert_eq!(outcome(&[], Some(query), allowed), expected, "{query}");
    }
    assert_eq!(outcome(&[("x-api-key", "k")], Some("apikey=other"), true), "conflicting_credentials");
    assert_eq!(outcome(&[("x-api-key", "k")], Some("apikey=other"), false), "k query=apikey=other");
    assert_eq!(outcome(&[("x-api-key", "k")], Some("a=%61"), true), "k query=a=%61");
}

#[test]
fn the_places_tell_what_to_remove() {
    let found = headers(&[("x-api-key", "k"), ("authorization", "Basic dTpw")]);
    let places = extract(&found, Some("apikey=k"), true).unwrap().places;
    assert_eq!(places, KeyPlaces { authorization: false, x_api_key: true, apikey: false, query: true });
}

#[test]
fn one_of_our_keys_never_stays_in_the_query_even_where_the_product_takes_none_there() {
    let minted = snapshot::key::mint("hub", snapshot::key::Environment::Live).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", minted.reveal().parse().unwrap());
    let query = format!("a=1&apikey={}&b=2", minted.reveal());
    let credential = extract(&headers, Some(&query), false).unwrap();
    assert_eq!(credential.query.as_deref(), Some("a=1&b=2"));
    let own = extract(&headers, Some("apikey=of-the-upstream"), false).unwrap();
    assert_eq!(own.query.as_deref(), Some("apikey=of-the-upstream"));
}
