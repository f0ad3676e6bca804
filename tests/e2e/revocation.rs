//! What is taken away is gone everywhere once the write was answered.

use serde_json::json;

use crate::harness::{World, eventually};

#[tokio::test]
async fn a_revoked_key_is_refused_on_every_gateway_as_soon_as_the_wait_was_answered() {
    let world = World::with().gateways(3).start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    for round in 0..10 {
        let body = json!({ "name": format!("k{round}"), "environment": "live" });
        let (id, key) = ann.key(&catalog.subscription, body).await;
        for gateway in &world.gateways {
            let url = format!("{}{}/x", gateway.url, catalog.path);
            assert_eq!(world.client.get(&url).bearer_auth(&key).send().await.unwrap().status(), 200);
        }
        let revoked = ann.post_served(&format!("/v1/keys/{id}/revoke"), json!({})).await;
        assert!(revoked.headers.contains_key("x-config-revision"));
        for gateway in &world.gateways {
            let url = format!("{}{}/x", gateway.url, catalog.path);
            assert_eq!(world.client.get(&url).bearer_auth(&key).send().await.unwrap().status(), 401);
        }
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_listed_and_never_called_success() {
    let mut world = World::with().gateways(2).start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    world.gateways[1].role.kill();
    let path = format!("/v1/keys/{}/revoke", catalog.key_id);
    let request = ann.rest.request(reqwest::Method::POST, &path).header("prefer", "wait=1").json(&json!({}));
    let answer = ann.rest.send(request).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.json);
    assert_eq!(answer.headers["x-config-missing"], "gateway-1");
    let url = format!("{}{}/x", world.gateways[0].url, catalog.path);
    assert_eq!(world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap().status(), 401);
    world.gateways[1].role.start_again();
    let url = format!("{}{}/x", world.gateways[1].url, catalog.path);
    eventually("the node that was away learns of it", || async {
        let answer = world.client.get(&url).bearer_auth(&catalog.key).send().await.ok()?;
        (answer.status() == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_rotated_key_works_beside_the_new_one_for_the_overlap_alone() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    let rotate = format!("/v1/keys/{}/rotate", catalog.key_id);
    let rotated = ann.post_served(&rotate, json!({ "overlap_seconds": 2 })).await;
    let new = rotated.json["key"].as_str().unwrap();
    for key in [new, &catalog.key] {
        assert_eq!(world.client.get(&url).bearer_auth(key).send().await.unwrap().status(), 200);
    }
    eventually("the old key expires without a revision", || async {
        let answer = world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap();
        (answer.status() == 401).then_some(())
    })
    .await;
    assert_eq!(world.client.get(&url).bearer_auth(new).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_retired_product_is_gone_and_a_rollback_brings_an_older_release_back() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &format!("{}/one", world.upstream.url())).publish().await;
    let endpoints = ann.rest.get(&format!("/v1/products/{}/endpoints", catalog.product)).await.unwrap();
    let endpoint = endpoints["data"][0]["id"].as_str().unwrap().to_owned();
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    let target = || async {
        let answer = world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["target"].as_str().unwrap().to_owned()
    };
    let body = json!({ "target_url": format!("{}/two", world.upstream.url()) });
    let changed = ann.send(reqwest::Method::PATCH, &format!("/v1/endpoints/{endpoint}"), body).await;
    assert_eq!(changed.status, 200, "{}", changed.json);
    assert_eq!(target().await, "/one", "an edit is a draft until it is published");
    ann.post_served(&format!("/v1/products/{}/publish", catalog.product), json!({})).await;
    assert_eq!(target().await, "/two");
    ann.post_served(&format!("/v1/products/{}/rollback", catalog.product), json!({ "release": 1 })).await;
    assert_eq!(target().await, "/one");
    ann.post_served(&format!("/v1/products/{}/retire", catalog.product), json!({})).await;
    assert_eq!(world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap().status(), 404);
}
