//! One product's caps from the operator to the gateway: in force without a release, exact, and unnoticed by everybody else.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Catalog, World, eventually};

async fn set_caps(world: &World, catalog: &Catalog, caps: Value) {
    let operator = world.operator().await;
    let path = format!("/v1/products/{}/caps", catalog.product);
    let request = operator.request(Method::PUT, &path).header("prefer", "wait=20").json(&caps);
    let answer = operator.send(request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.json);
}

async fn get(world: &World, catalog: &Catalog, path: &str) -> reqwest::Response {
    let url = format!("{}{}{path}", world.gateway().url, catalog.path);
    world.client.get(url).bearer_auth(&catalog.key).send().await.unwrap()
}

#[tokio::test]
async fn a_product_at_its_cap_is_refused_at_once_and_its_neighbour_is_served() {
    let world = World::start().await;
    let (ann, bob) = (world.publisher("ann").await, world.publisher("bob").await);
    let url = world.upstream.url();
    let slow = ann.product("slow").endpoint("GET", "/sse", &format!("{url}/sse")).endpoint("GET", "/x", &url);
    let slow = slow.publish().await;
    let calm = bob.product("calm").endpoint("GET", "/x", &url).publish().await;
    assert_eq!(get(&world, &slow, "/x").await.status(), 200, "before there was a cap");
    set_caps(&world, &slow, json!({ "requests_in_flight_max": 2 })).await;

    let streams = [get(&world, &slow, "/sse").await, get(&world, &slow, "/sse").await];
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let refused = get(&world, &slow, "/x").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["x-gateway-error"]),
        (503, &"product_busy".parse().unwrap())
    );
    assert_eq!(refused.headers()["retry-after"], "1");
    for _ in 0..20 {
        assert_eq!(get(&world, &calm, "/x").await.status(), 200);
    }
    assert!(world.gateway().metric("gateway_product_refusals_total").await >= 1.0);

    drop(streams);
    eventually("those who left made room", || async { (get(&world, &slow, "/x").await.status() == 200).then_some(()) })
        .await;
    let refusals = "SELECT count(*) FROM usage_logs WHERE status = 503 AND NOT billable";
    eventually("the refusal is in the log, unbilled", || async { (world.count(refusals).await >= 1).then_some(()) })
        .await;

    set_caps(&world, &slow, json!({})).await;
    let streams = [get(&world, &slow, "/sse").await, get(&world, &slow, "/sse").await];
    assert!(streams.iter().all(|stream| stream.status() == 200));
    assert_eq!(get(&world, &slow, "/x").await.status(), 200, "the gateway's own cap is far away");
}
