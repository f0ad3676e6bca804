//! What a publish refuses, and where it says the fault is; what two releases differ in.

use prost::Message as _;
use serde_json::json;
use snapshot::guard::AddressPolicy;
use snapshot::record;
use snapshot::wire;
use uuid::Uuid;

use super::compare::compare;
use super::release::{Draft, compile, recheck};
use crate::domain::endpoint::UpstreamHttp;
use crate::domain::product::{Approval, ProductCaps, ProductStatus, Visibility};
use crate::store::endpoints::EndpointRow;
use crate::store::products::ProductRow;

fn product() -> ProductRow {
    let at = jiff::Timestamp::UNIX_EPOCH;
    ProductRow {
        id: Uuid::now_v7(),
        meter_id: 7,
        organization_id: Uuid::now_v7(),
        slug: "weather".into(),
        name: "Weather".into(),
        description: String::new(),
        category: None,
        visibility: Visibility::Public,
        status: ProductStatus::Draft,
        approval: Approval::Auto,
        key_in_query: false,
        body_bytes_max: 0,
        cors: None,
        caps: ProductCaps { requests_in_flight_max: None, upstream_connections_max: None },
        hosts: vec![],
        live_release_id: None,
        live_release_number: None,
        quarantine_reason: None,
        version: 1,
        created_at: at,
        updated_at: at,
    }
}

fn endpoint(method: &str, path_pattern: &str, target_url: &str) -> EndpointRow {
    let at = jiff::Timestamp::UNIX_EPOCH;
    EndpointRow {
        id: Uuid::now_v7(),
        meter_id: 1,
        product_id: Uuid::now_v7(),
        method: method.into(),
        path_pattern: path_pattern.into(),
        target_url: target_url.into(),
        scope: None,
        connect_timeout_ms: 2000,
        read_timeout_ms: 30000,
        write_timeout_ms: 30000,
        total_timeout_ms: None,
        retries: 0,
        upstream_http: UpstreamHttp::Auto,
        retired_at: None,
        version: 1,
        created_at: at,
        updated_at: at,
    }
}

fn draft<'a>(product: &'a ProductRow, endpoints: &'a [EndpointRow]) -> Draft<'a> {
    Draft { product, organization_slug: "acme", endpoints, plans: &[], number: 3 }
}

#[test]
fn what_is_released_compiles_in_the_gateway() {
    let (product, endpoints) = (product(), [endpoint("GET", "/users/{id}", "https://api.example.com/v2/users/{id}")]);
    let compiled = compile(&draft(&product, &endpoints), &AddressPolicy::default()).unwrap();
    let served = record::Product::compile(&wire::Product::decode(&compiled.bytes[..]).unwrap()).unwrap();
    assert_eq!((served.organization_slug.as_str(), served.slug.as_str(), served.release), ("acme", "weather", 3));
    assert_eq!(served.endpoints[0].id, endpoints[0].id);
    assert!(recheck(&compiled.bytes, &AddressPolicy::default()).is_ok());
}

#[test]
fn every_fault_is_told_at_once_with_its_endpoint() {
    let endpoints = [
        endpoint("GET", "/a/{x}", "https://api.example.com/{x}"),
        endpoint("GET", "/a/{y}", "https://api.example.com/{y}"),
        endpoint("GET", "/meta", "http://169.254.169.254/latest"),
        endpoint("POST", "/b/{id}", "https://api.example.com/{other}"),
    ];
    let product = product();
    let faults = compile(&draft(&product, &endpoints), &AddressPolicy::default()).unwrap_err();
    let at = |endpoint: &EndpointRow, field: &str| {
        let pointer = format!("/endpoints/{}/{field}", endpoint.id);
        faults.iter().find(|fault| fault.pointer == pointer).unwrap_or_else(|| panic!("{pointer} in {faults:?}"))
    };
    assert_eq!(faults.len(), 3);
    assert_eq!(at(&endpoints[1], "path_pattern").reason, "'GET /a/{x}' and 'GET /a/{y}' match the same requests");
    assert!(at(&endpoints[2], "target_url").reason.contains("link-local or metadata"));
    assert!(at(&endpoints[3], "target_url").reason.contains("'{other}'"));
}

#[test]
fn a_product_without_endpoints_is_refused() {
    let product = product();
    let faults = compile(&draft(&product, &[]), &AddressPolicy::default()).unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.pointer.as_str()).collect::<Vec<_>>(), ["/endpoints"]);
}

#[test]
fn an_old_release_is_judged_by_todays_rules() {
    let (product, endpoints) = (product(), [endpoint("GET", "/echo", "http://127.0.0.1:9000/echo")]);
    let allowed = AddressPolicy { allow: vec!["127.0.0.1/32:9000".parse().unwrap()], ..AddressPolicy::default() };
    let compiled = compile(&draft(&product, &endpoints), &allowed).unwrap();
    assert!(recheck(&compiled.bytes, &allowed).is_ok());
    assert!(recheck(&compiled.bytes, &AddressPolicy::default()).is_err());
    assert!(recheck(b"not a release", &allowed).is_err());
}

#[test]
fn releases_are_compared_by_field_and_by_item() {
    let before = json!({
        "settings": {"slug": "a", "key_in_query": false},
        "endpoints": [{"id": "1", "method": "GET"}, {"id": "2", "method": "GET"}],
        "plans": []
    });
    let after = json!({
        "settings": {"slug": "a", "key_in_query": true},
        "endpoints": [{"id": "2", "method": "POST"}, {"id": "3", "method": "GET"}],
        "plans": []
    });
    let diff = serde_json::to_value(compare(&before, &after)).unwrap();
    let expected = json!({
        "settings": [{"field": "key_in_query", "before": false, "after": true}],
        "endpoints": {
            "added": [{"id": "3", "method": "GET"}],
            "removed": [{"id": "1", "method": "GET"}],
            "changed": [{"id": "2", "fields": [{"field": "method", "before": "GET", "after": "POST"}]}]
        },
        "plans": {"added": [], "removed": [], "changed": []}
    });
    assert_eq!(diff, expected);
    assert_eq!(compare(&before, &before), Default::default());
}
