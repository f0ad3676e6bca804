//! Strict bodies and queries, as a client meets them.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::testing::App;

const JSON: &str = "application/json";

#[tokio::test]
async fn each_wrong_field_is_named_with_what_is_expected() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let post = async |body| ann.post("/v1/organizations", body).await.expect_problem(422, "validation_failed");
    assert_eq!(post(json!({"slug": "x1", "name": "X", "is_personal": true})).await.pointers(), ["/is_personal"]);
    assert_eq!(post(json!({"slug": "x1"})).await.pointers(), ["/name"]);
    assert_eq!(post(json!({"slug": 7, "name": "X"})).await.pointers(), ["/slug"]);
    assert_eq!(post(json!({"slug": "x1", "name": "nul\0"})).await.pointers(), ["/name"]);
    assert_eq!(post(json!([])).await.pointers(), [""]);
    assert_eq!(post(json!(["x1", "X", null, null])).await.pointers(), [""], "a list is no object");
    let all = post(json!({"slug": "X", "name": "", "time_zone": "Mars", "currency": "eur"})).await;
    assert_eq!(all.pointers(), ["/slug", "/name", "/time_zone", "/currency"]);
    assert!(all.json["errors"].as_array().unwrap().iter().all(|error| error["mend"].is_string()), "{}", all.text);
    let unknown = post(json!({"slug": "x1", "name": "X", "id": "1", "role": "owner"})).await;
    assert_eq!(unknown.pointers(), ["/id"]);
    assert!(unknown.text.contains("expected one of"), "{}", unknown.text);
}

#[tokio::test]
async fn what_is_not_json_is_400_and_says_where() {
    let app = App::start().await;
    let nobody = app.nobody();
    for body in ["{", "{\"email\": }", "{} {}", "", "\u{feff}{}", "{\"a\":1,}"] {
        let answer = nobody.raw(Method::POST, "/v1/sessions", JSON, body).await.expect_problem(400, "malformed_json");
        assert!(answer.json["detail"].as_str().unwrap().contains("line 1"), "{}", answer.text);
    }
    nobody.raw(Method::POST, "/v1/sessions", JSON, vec![b'{', 0xff, b'}']).await.expect_problem(400, "malformed_json");
    let deep = format!("{{\"email\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let answer = nobody.raw(Method::POST, "/v1/sessions", JSON, deep).await.expect_problem(400, "malformed_json");
    assert!(answer.text.contains("recursion limit"), "{}", answer.text);
}

#[tokio::test]
async fn a_body_of_another_type_is_415_and_a_long_one_413() {
    let app = App::start().await;
    let nobody = app.nobody();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/json"] {
        nobody.raw(Method::POST, "/v1/sessions", kind, "{}").await.expect_problem(415, "unsupported_media_type");
    }
    nobody
        .raw(Method::POST, "/v1/sessions", "Application/JSON; charset=utf-8", "{}")
        .await
        .expect_problem(422, "validation_failed");
    let long = format!("{{\"email\": \"{}\"}}", "x".repeat(64 * 1024));
    let answer = nobody.raw(Method::POST, "/v1/sessions", JSON, long).await.expect_problem(413, "body_too_large");
    assert!(answer.text.contains("65536"), "{}", answer.text);
    let stream =
        axum::body::Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>("[1,".repeat(100))));
    nobody.raw(Method::POST, "/v1/sessions", JSON, stream).await.expect_problem(413, "body_too_large");
}

#[tokio::test]
async fn queries_are_as_strict_as_bodies() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let get = async |query: &str| {
        ann.get(&format!("/v1/organizations?{query}")).await.expect_problem(422, "validation_failed")
    };
    for limit in ["0", "101", "1000000000", "-1", "x", "", "99999999999999999999999"] {
        let answer = get(&format!("limit={limit}")).await;
        assert_eq!(answer.pointers(), ["/limit"], "{limit}");
    }
    assert!(get("limit=101").await.text.contains("from 1 to 100"));
    assert_eq!(get("cursor=nonsense").await.pointers(), ["/cursor"]);
    assert_eq!(get("page=2").await.pointers(), ["/page"]);
    assert_eq!(get("limit=1&limit=2").await.pointers(), ["/limit"]);
    ann.get("/v1/organizations?cursor=%00").await.expect_problem(400, "malformed_request");
    ann.get("/v1/organizations?limit=100").await.expect(StatusCode::OK);
    let path = format!("/v1/organizations/{}/members?role=king", ann.organization_id);
    assert_eq!(ann.get(&path).await.expect_problem(422, "validation_failed").pointers(), ["/role"]);
}

#[tokio::test]
async fn an_address_with_something_that_is_no_id_is_404() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    for path in ["/v1/organizations/1", "/v1/organizations/%00", "/v1/organizations/..", "/v1/nothing", "/nothing"] {
        ann.get(path).await.expect_problem(404, "not_found");
    }
}
