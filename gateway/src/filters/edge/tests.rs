//! Heads that two readers could understand differently are refused, each with its reason.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use proptest::prelude::*;

use super::*;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn codes<T>(result: Result<T, Rejection>) -> &'static str {
    result.err().map_or("ok", |rejection| rejection.code())
}

#[test]
fn the_length_of_a_body_can_be_read_in_one_way_only() {
    for (lines, expected) in [
        (&[][..], "ok"),
        (&[("content-length", "0")], "ok"),
        (&[("content-length", "9223372036854775807")], "ok"),
        (&[("content-length", "9223372036854775808")], "bad_framing"),
        (&[("content-length", "00000000000000000005")], "bad_framing"),
        (&[("content-length", "5"), ("content-length", "5")], "bad_framing"),
        (&[("content-length", "5, 5")], "bad_framing"),
        (&[("content-length", "+5")], "bad_framing"),
        (&[("content-length", "-1")], "bad_framing"),
        (&[("content-length", "0x5")], "bad_framing"),
        (&[("content-length", "")], "bad_framing"),
        (&[("content-length", "5 ")], "bad_framing"),
        (&[("content-length", "\u{665}")], "bad_framing"),
        (&[("transfer-encoding", "chunked")], "ok"),
        (&[("transfer-encoding", "Chunked")], "ok"),
        (&[("transfer-encoding", "gzip, chunked")], "transfer_coding_unknown"),
        (&[("transfer-encoding", "xchunked")], "transfer_coding_unknown"),
        (&[("transfer-encoding", "chunked ")], "transfer_coding_unknown"),
        (&[("transfer-encoding", "chunked, chunked")], "transfer_coding_unknown"),
        (&[("transfer-encoding", "identity")], "transfer_coding_unknown"),
        (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "bad_framing"),
        (&[("content-length", "5"), ("transfer-encoding", "chunked")], "bad_framing"),
    ] {
        assert_eq!(codes(read_framing(Version::HTTP_11, &headers(lines))), expected, "{lines:?}");
    }
    let chunked = headers(&[("transfer-encoding", "chunked")]);
    assert_eq!(codes(read_framing(Version::HTTP_10, &chunked)), "bad_framing");
    assert_eq!(codes(read_framing(Version::HTTP_2, &chunked)), "bad_framing");
    assert_eq!(read_framing(Version::HTTP_11, &headers(&[("content-length", "42")])), Ok(Some(42)));
}

#[test]
fn a_content_length_that_pingora_dropped_is_found_in_the_raw_head() {
    assert!(raw_head_has_content_length(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 5\r\n\r\n"));
    assert!(!raw_head_has_content_length(b"POST / HTTP/1.1\r\nX-Content-Length: 5\r\nA: content-length: 5\r\n\r\n"));
    assert_eq!(both_framings().status(), 400);
}

#[test]
fn a_request_names_exactly_one_well_formed_host() {
    for (host, expected) in [
        ("example.com", "ok"),
        ("example.com:8080", "ok"),
        ("a_b-c.example.", "ok"),
        ("127.0.0.1:1", "ok"),
        ("[::1]:443", "ok"),
        ("[2001:db8::1]", "ok"),
        ("", "bad_host"),
        (":80", "bad_host"),
        ("a b", "bad_host"),
        ("a/b", "bad_host"),
        ("a?b", "bad_host"),
        ("a#b", "bad_host"),
        ("u@a", "bad_host"),
        ("a,b", "bad_host"),
        ("a:b", "bad_host"),
        ("a:123456", "bad_host"),
        ("a:1:2", "bad_host"),
        ("[::1", "bad_host"),
        ("[::g]", "bad_host"),
        ("[::1]x", "bad_host"),
        ("b\u{fc}cher.example", "bad_host"),
        ("%61.example", "bad_host"),
    ] {
        assert_eq!(codes(check_host(Version::HTTP_11, None, &headers(&[("host", host)]))), expected, "{host}");
    }
    let long = "a".repeat(300);
    assert_eq!(codes(check_host(Version::HTTP_2, Some(&long), &HeaderMap::new())), "bad_host");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        assert_eq!(codes(check_host(version, None, &HeaderMap::new())), "bad_host");
    }
    assert_eq!(codes(check_host(Version::HTTP_10, None, &HeaderMap::new())), "ok");
    assert_eq!(codes(check_host(Version::HTTP_10, Some("a"), &HeaderMap::new())), "ok");
    assert_eq!(codes(check_host(Version::HTTP_11, Some("a"), &HeaderMap::new())), "bad_host");
    assert_eq!(codes(check_host(Version::HTTP_11, Some("a"), &headers(&[("host", "b")]))), "bad_host");
    assert_eq!(codes(check_host(Version::HTTP_2, Some("a"), &HeaderMap::new())), "ok");
    assert_eq!(codes(check_host(Version::HTTP_2, Some("a"), &headers(&[("host", "A")]))), "ok");
    assert_eq!(codes(check_host(Version::HTTP_2, Some("a"), &headers(&[("host", "b")]))), "bad_host");
    assert_eq!(codes(check_host(Version::HTTP_11, None, &headers(&[("host", "a"), ("host", "a")]))), "bad_host");
}

#[test]
fn a_request_that_came_through_us_too_often_goes_in_a_circle() {
    for (lines, expected) in [
        (&[][..], "ok"),
        (&[("via", "1.1 apihub, 1.1 apihub"), ("via", "1.1 apihub")], "ok"),
        (&[("via", "1.1 apihub, 1.1 apihub, 2 proxy.example, 1.1 apihub"), ("via", "2 APIHUB (v1)")], "loop_detected"),
        (&[("via", "1.1 a, 1.1 b, 1.1 apihub.example, 1.1 c, 1.1 d, apihub, ,,")], "ok"),
    ] {
        assert_eq!(codes(check_loop(&headers(lines))), expected, "{lines:?}");
    }
}

#[test]
fn methods_are_those_of_the_list() {
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(codes(check_method(&method.parse().unwrap())), "ok");
    }
    for method in [Method::TRACE, Method::CONNECT] {
        assert_eq!(codes(check_method(&method)), "method_not_allowed");
    }
    for method in ["get", "PROPFIND", "PURGE", "X"] {
        assert_eq!(codes(check_method(&method.parse().unwrap())), "method_unknown");
    }
}

#[test]
fn targets_and_headers_have_bounds() {
    let path = format!("/{}", "a".repeat(TARGET_BYTES_MAX - 1));
    assert_eq!(codes(check_target(&path, None, TARGET_BYTES_MAX)), "ok");
    assert_eq!(codes(check_target(&path, Some(""), TARGET_BYTES_MAX)), "uri_too_long");
    for (query, expected) in [
        ("a=1&b[]=%20", "ok"),
        ("a={1|2}", "ok"),
        ("a b", "bad_query"),
        ("a#b", "bad_query"),
        ("a\u{0}", "bad_query"),
        ("é", "bad_query"),
        ("<", "bad_query"),
    ] {
        assert_eq!(codes(check_target("/", Some(query), TARGET_BYTES_MAX)), expected, "{query}");
    }
    let mut many = HeaderMap::new();
    for _ in 0..=HEADER_LINES_MAX {
        many.append("a", HeaderValue::from_static("b"));
    }
    assert_eq!(codes(check_header_size(&many, HEADER_BYTES_MAX, HEADER_LINES_MAX)), "headers_too_large");
    let large = headers(&[("a", &"x".repeat(HEADER_BYTES_MAX))]);
    assert_eq!(codes(check_header_size(&large, HEADER_BYTES_MAX, HEADER_LINES_MAX)), "headers_too_large");
}

#[test]
fn a_target_is_split_at_its_first_question_mark() {
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let split = |raw| split_target(version, raw);
        assert_eq!(split(b"/a?b?c"), Ok(TargetParts { authority: None, path: "/a", query: Some("b?c") }));
        assert_eq!(split(b"/a"), Ok(TargetParts { authority: None, path: "/a", query: None }));
        assert_eq!(codes(split(b"/\xff")), "bad_path");
    }
}

#[test]
fn the_absolute_form_is_split_in_http_1_and_only_in_the_schemes_of_http() {
    for (raw, authority, path, query) in [
        ("http://a/b?c", Some("a"), "/b", Some("c")),
        ("HTTPS://a:1/b", Some("a:1"), "/b", None),
        ("http://a", Some("a"), "/", None),
        ("http://a?c", Some("a"), "/", Some("c")),
        ("http://a//b", Some("a"), "//b", None),
        ("http://u@a/b", Some("u@a"), "/b", None),
        ("http://a\\b/c", Some("a\\b"), "/c", None),
        ("http:///b", Some(""), "/b", None),
        ("http:/a/b", None, "http:/a/b", None),
        ("ftp://a/b", None, "ftp://a/b", None),
        ("/http://a/b", None, "/http://a/b", None),
        ("é", None, "é", None),
    ] {
        let expected = TargetParts { authority, path, query };
        assert_eq!(split_target(Version::HTTP_11, raw.as_bytes()), Ok(expected), "{raw}");
    }
    let in_http2 = split_target(Version::HTTP_2, b"http://a/b").unwrap();
    assert_eq!(in_http2, TargetParts { authority: None, path: "http://a/b", query: None });
}

proptest! {
    #[test]
    fn a_query_that_passes_can_be_put_into_a_uri(query in "[ -~]{0,40}") {
        if check_target("/", Some(&query), TARGET_BYTES_MAX).is_ok() {
            let target = format!("/a?{query}");
            prop_assert!(target.parse::<http::uri::PathAndQuery>().is_ok());
        }
    }

    #[test]
    fn a_host_that_passes_is_an_authority(host in "[a-z0-9.:\\[\\]_-]{0,20}") {
        if check_host(Version::HTTP_11, Some(&host), &HeaderMap::new()).is_ok() {
            prop_assert!(host.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(!host.contains(['/', '?', '#', '@', ' ']));
        }
    }
}
