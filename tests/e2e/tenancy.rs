//! No tenant reaches into another: on the gateway by key and route, on REST by id.

use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn keys_and_routes_of_one_organization_mean_nothing_in_another() {
    let world = World::start().await;
    let (ann, bob) = (world.publisher("ann").await, world.publisher("bob").await);
    let url = world.upstream.url();
    let a = ann.product("same").endpoint("GET", "/only-ann", &url).publish().await;
    let b = bob.product("same").endpoint("GET", "/only-bob", &url).publish().await;
    let get =
        |path: String, key: &str| world.client.get(format!("{}{path}", world.gateway().url)).bearer_auth(key).send();
    assert_eq!(get(format!("{}/only-ann", a.path), &a.key).await.unwrap().status(), 200);
    assert_eq!(get(format!("{}/only-bob", a.path), &a.key).await.unwrap().status(), 404);
    assert_eq!(get(format!("{}/only-ann", b.path), &b.key).await.unwrap().status(), 404);
    assert_eq!(get(format!("{}/only-ann", a.path), &b.key).await.unwrap().status(), 403);
}

#[tokio::test]
async fn what_another_organization_owns_is_not_found_over_rest() {
    let world = World::start().await;
    let (ann, bob) = (world.publisher("ann").await, world.publisher("bob").await);
    let a = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    for path in [
        format!("/v1/organizations/{}", ann.organization),
        format!("/v1/organizations/{}/members", ann.organization),
        format!("/v1/organizations/{}/products", ann.organization),
        format!("/v1/organizations/{}/audit-log", ann.organization),
        format!("/v1/products/{}", a.product),
        format!("/v1/products/{}/endpoints", a.product),
        format!("/v1/products/{}/releases", a.product),
        format!("/v1/products/{}/subscriptions", a.product),
        format!("/v1/subscriptions/{}", a.subscription),
        format!("/v1/subscriptions/{}/keys", a.subscription),
        format!("/v1/keys/{}", a.key_id),
    ] {
        let request = bob.rest.request(reqwest::Method::GET, &path);
        assert_eq!(bob.rest.send(request).await.unwrap().status, 404, "{path}");
        let request = ann.rest.request(reqwest::Method::GET, &path);
        assert_eq!(ann.rest.send(request).await.unwrap().status, 200, "{path}");
    }
    let revoke = bob.send(reqwest::Method::POST, &format!("/v1/keys/{}/revoke", a.key_id), json!({})).await;
    assert_eq!(revoke.status, 404);
}

#[tokio::test]
async fn a_publication_with_faults_is_refused_with_all_of_them_and_what_serves_stays() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let url = world.upstream.url();
    let catalog = ann.product("api").endpoint("GET", "/x", &url).publish().await;
    for (pattern, target) in
        [("/a/{one}", url.clone()), ("/a/{two}", url.clone()), ("/inside", "http://169.254.169.254/latest".to_owned())]
    {
        let body = json!({ "method": "GET", "path_pattern": pattern, "target_url": target });
        let made = ann.send(reqwest::Method::POST, &format!("/v1/products/{}/endpoints", catalog.product), body).await;
        if pattern == "/inside" {
            assert_eq!(made.status, 422, "{}", made.json);
            let text = made.json.to_string();
            assert!(text.contains("/target_url") && text.contains("metadata"), "{text}");
        } else {
            assert_eq!(made.status, 201, "{}", made.json);
        }
    }
    let refused =
        ann.send(reqwest::Method::POST, &format!("/v1/products/{}/publish", catalog.product), json!({})).await;
    assert_eq!(refused.status, 422);
    let text = refused.json.to_string();
    assert!(text.contains("GET /a/{one}") && text.contains("GET /a/{two}"), "{text}");
    let answer = world.client.get(format!("{}{}/x", world.gateway().url, catalog.path)).bearer_auth(&catalog.key);
    assert_eq!(answer.send().await.unwrap().status(), 200);
}
