//! The document: committed, complete, and true.

use axum::http::StatusCode;
use serde_json::Value;

use super::complete;
use crate::router;
use crate::testing::App;

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

fn generated() -> String {
    complete(router::described().into_openapi()).to_pretty_json().unwrap() + "\n"
}

#[test]
fn the_committed_document_is_what_the_code_says() {
    let generated = generated();
    if std::env::var_os("APIHUB_REGENERATE").is_some() {
        std::fs::write(COMMITTED, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == generated, "control-plane/openapi.json is stale: run this test with APIHUB_REGENERATE=1");
}

#[test]
fn every_operation_has_a_name_a_summary_a_tag_and_problems() {
    let document: Value = serde_json::from_str(&generated()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut names = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/v1/"), "{path}");
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no operationId"));
            assert!(names.insert(id.to_owned()), "{id} stands twice");
            assert!(operation["summary"].is_string(), "{id} has no summary");
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{id}");
            assert!(operation["security"].is_array(), "{id}");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{id}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let text = generated();
    let document: Value = serde_json::from_str(&text).unwrap();
    for part in text.split("\"$ref\": \"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

/// The rules go by names, so a renamed field would lose its own without a word.
#[test]
fn texts_and_numbers_of_requests_are_bounded() {
    let document: Value = serde_json::from_str(&generated()).unwrap();
    let field = |pointer: &str| document.pointer(&format!("/components/schemas/{pointer}")).unwrap().clone();
    assert_eq!(field("NewProduct/properties/slug/maxLength"), 40);
    assert_eq!(field("NewKey/properties/scopes/items/pattern"), "^[A-Za-z0-9:._/-]{1,64}$");
    assert_eq!(field("EndpointPatch/properties/retries/maximum"), 3);
    assert_eq!(field("OverrideForm/properties/burst_limit/minimum"), 1);
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let is_body = schema["additionalProperties"] == false;
        for (field, schema) in schema["properties"].as_object().into_iter().flatten().filter(|_| is_body) {
            let kind = schema["type"].to_string();
            let is_free = schema.get("pattern").is_none() && schema.get("format").is_none();
            assert!(!(kind.contains("string") && is_free), "{name}.{field} takes any text");
            assert!(
                !kind.contains("integer") || schema.get("maximum").is_some() || name == "RollbackForm",
                "{name}.{field}"
            );
        }
    }
}

#[tokio::test]
async fn the_document_and_its_page_are_served_to_everybody() {
    let app = App::start().await;
    let document = app.nobody().get("/v1/openapi.json").await.expect(StatusCode::OK);
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.json, serde_json::from_str::<Value>(&generated()).unwrap());
    let root = app.nobody().get("/").await.expect(StatusCode::SEE_OTHER);
    assert_eq!(root.header("location"), "/v1/reference");
    let page = app.nobody().get("/v1/reference").await.expect(StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("style-src 'sha256-"));
    for part in ["/v1/users/me", "/v1/organizations/{id}/members", "time_zone"] {
        assert!(page.text.contains(part), "{part} is not on the page");
    }
    assert!(!page.text.contains("<script"));
}
