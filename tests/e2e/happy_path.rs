//! The main job: created over REST, compiled, pushed, called, limited, proxied, counted.

use std::time::Instant;

use serde_json::json;

use crate::harness::{World, eventually};

#[tokio::test]
async fn a_product_made_over_rest_is_called_with_its_key_and_counted_in_postgres() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let target = format!("{}/v2/users/{{id}}?from=gateway", world.upstream.url());
    let catalog = ann.product("weather").endpoint("GET", "/users/{id}", &target).publish().await;

    let url = format!("{}{}/users/7%C3%A9?units=c", world.gateway().url, catalog.path);
    let answer =
        world.client.get(&url).bearer_auth(&catalog.key).header("x-consumer-id", "forged").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    let seen: serde_json::Value = answer.json().await.unwrap();

    assert_eq!(seen["target"], "/v2/users/7%C3%A9?from=gateway&units=c");
    let sent = &seen["headers"];
    assert_eq!(sent["x-subscription-id"], catalog.subscription.as_str());
    assert_eq!(sent["x-credential-identifier"], catalog.key_id.as_str());
    assert_eq!(sent["x-plan"], "Plan");
    assert_ne!(sent["x-consumer-id"], "forged");
    assert_eq!(sent["x-request-id"], headers["x-request-id"].to_str().unwrap());
    assert_eq!(sent["x-forwarded-for"], "127.0.0.1");
    assert_eq!(sent["x-forwarded-proto"], "http");
    assert!(sent["traceparent"].as_str().unwrap().starts_with("00-"));
    assert!(sent["via"].as_str().unwrap().starts_with("1.1 "));
    assert!(sent.get("authorization").is_none(), "the key stays with the gateway");
    assert_eq!(sent["host"], world.upstream.address.to_string().as_str());

    assert_eq!(headers["ratelimit-policy"], "\"minute\";q=60000;w=60");
    assert!(headers["ratelimit"].to_str().unwrap().starts_with("\"minute\";r="));
    assert_eq!(headers["x-ratelimit-limit"], "60000");
    assert!(headers.contains_key("x-ratelimit-remaining") && headers.contains_key("x-ratelimit-reset"));
    assert!(headers["server-timing"].to_str().unwrap().contains("gateway;dur="));
    assert!(!headers.contains_key("x-gateway-error"));

    let rows = eventually("the request is a row of usage_logs", || async {
        let rows = world.query("SELECT status, verdict, billable, method FROM usage_logs").await;
        (!rows.is_empty()).then_some(rows)
    })
    .await;
    let row: Vec<&str> = rows[0].iter().map(|value| value.as_deref().unwrap()).collect();
    assert_eq!(row, ["200", "admitted", "t", "GET"]);
    assert_eq!(world.count("SELECT sum(request_count)::bigint FROM usage_minutes").await, 1);
}

#[tokio::test]
async fn the_plan_of_a_subscription_is_enforced_to_its_bound_on_one_node() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    for (slug, algorithm, burst) in
        [("bucket", "token_bucket", 5), ("sliding", "sliding_window", 6), ("fixed", "fixed_window", 6)]
    {
        let policy = json!({ "algorithm": algorithm, "burst_limit": burst });
        let plan = json!({ "rate_limit": 6, "policy": policy });
        let catalog = ann.product(slug).endpoint("GET", "/x", &world.upstream.url()).plan(plan).publish().await;
        let url = format!("{}{}/x", world.gateway().url, catalog.path);
        // What a single node may owe beyond the bucket: e = ⌊B/2⌋ at most.
        let overdraft = burst / 2;
        let ask = || async { world.client.get(&url).header("x-api-key", &catalog.key).send().await.unwrap() };
        let began = Instant::now();
        // Where Redis does not answer in time a request is refused, and the next one asks again.
        for _ in 0..burst {
            eventually("the whole burst is served", || async { (ask().await.status() == 200).then_some(()) }).await;
        }
        let mut answers = Vec::new();
        for _ in 0..overdraft + 2 {
            answers.push(ask().await);
        }
        let more = answers.iter().filter(|answer| answer.status() == 200).count();
        // One in ten seconds flows in.
        let flown = usize::try_from(began.elapsed().as_secs()).unwrap() / 10;
        assert!(more <= overdraft + flown, "{algorithm}: {more} beyond {burst}");
        let used_up = || async {
            let answer = ask().await;
            (answer.status() == 429 && answer.headers()["x-ratelimit-remaining"] == "0").then_some(answer)
        };
        let refused = eventually("it is used up", used_up).await;
        assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        assert_eq!(refused.headers()["x-gateway-error"], "rate_limited");
    }
}

#[tokio::test]
async fn a_second_key_shares_the_limit_and_an_override_replaces_it_without_publishing() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    // Nothing flows in while the test runs.
    let plan = json!({ "rate_limit": 1, "policy": { "burst_limit": 2 } });
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).plan(plan).publish().await;
    let (_, second) = ann.key(&catalog.subscription, json!({ "name": "second", "environment": "live" })).await;
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    let status = |key: String| {
        let request = world.client.get(&url).bearer_auth(key);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    // Each of them may have to ask Redis, and is refused where that takes longer than 5 ms.
    let keys = [&catalog.key, &second];
    for key in keys {
        eventually("each key is served once", || async { (status(key.clone()).await == 200).then_some(()) }).await;
    }
    let mut more = 0;
    for key in keys.repeat(4) {
        more += u32::from(status(key.clone()).await == 200);
    }
    // What a single node may owe beyond the bucket; a bucket of its own each would have had one more for both.
    assert!(more <= 1, "{more} beyond the burst");
    assert_eq!(status(second.clone()).await, 429);

    let path = format!("/v1/subscriptions/{}/override", catalog.subscription);
    let body = json!({ "requests_per_minute": 60_000, "burst_limit": 6_000 });
    let request = ann.rest.request(reqwest::Method::PUT, &path).header("prefer", "wait=20").json(&body);
    let answer = ann.rest.send(request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.json);
    eventually("the override is enforced", || async { (status(second.clone()).await == 200).then_some(()) }).await;
}

#[tokio::test]
async fn an_override_holds_on_every_gateway_as_soon_as_the_wait_was_answered() {
    let world = World::with().gateways(3).start().await;
    let ann = world.publisher("ann").await;
    let plan = json!({ "rate_limit": 600, "policy": { "burst_limit": 60 } });
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).plan(plan).publish().await;
    let path = format!("/v1/subscriptions/{}/override", catalog.subscription);
    let releases = "SELECT count(*) FROM releases";
    let published = world.count(releases).await;
    for (method, body, limit) in [
        (reqwest::Method::PUT, json!({ "requests_per_minute": 6_000, "burst_limit": 600 }), "6000"),
        (reqwest::Method::DELETE, json!({}), "600"),
    ] {
        let request = ann.rest.request(method, &path).header("prefer", "wait=20").json(&body);
        let answer = ann.rest.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.json);
        for gateway in &world.gateways {
            let url = format!("{}{}/x", gateway.url, catalog.path);
            let answer = world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["x-ratelimit-limit"], limit);
        }
    }
    assert_eq!(world.count(releases).await, published, "nothing was published for it");
}
