//! The feed between real processes, where one of them dies in the middle of a sentence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::fault_proxy::Flow;
use crate::harness::{World, eventually};

/// Enough for a full snapshot of several chunks.
const KEYS: usize = 30_000;
/// Well within that snapshot.
const BYTES_BEFORE_THE_END: u64 = 1_000_000;

#[tokio::test]
async fn a_control_plane_killed_amid_a_full_snapshot_is_replaced_by_another_and_nothing_half_is_served() {
    let mut world = World::with().control_planes(2).feed_link().start().await;
    let ann = world.publisher("ann").await;
    let plan = serde_json::json!({ "rate_limit": 6_000_000, "policy": { "burst_limit": 1_000_000 } });
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).plan(plan).publish().await;
    let body = serde_json::json!({ "name": "other", "environment": "live" });
    let (revoked_id, revoked) = ann.key(&catalog.subscription, body).await;
    let late = snapshot::key::mint("hub", snapshot::key::Environment::Live).unwrap();
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    let client = world.client.clone();
    let status = |key: String| {
        let request = client.get(&url).bearer_auth(key);
        async move { request.send().await.unwrap().status().as_u16() }
    };

    // A good key is called with all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let calls = {
        let (stop, client, url, key) = (stop.clone(), client.clone(), url.clone(), catalog.key.clone());
        tokio::spawn(async move {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.get(&url).bearer_auth(&key).send().await.unwrap().status(), 200);
                calls += 1;
            }
            calls
        })
    };

    let link = world.feed_link.as_ref().unwrap();
    let end = link.passed() + BYTES_BEFORE_THE_END;
    link.set(Flow::UpTo(end));
    // Many keys, one of them revoked, in an epoch of its own: only a full snapshot can tell.
    world
        .query(&format!(
            "BEGIN;
            INSERT INTO api_keys (id, subscription_id, name, key_digest, prefix, last_four, environment, created_by)
                SELECT gen_random_uuid(), k.subscription_id, 'filled',
                    CASE i WHEN 1 THEN decode('{digest}', 'hex') ELSE sha256(int8send(i)) END,
                    k.prefix, k.last_four, 'live', k.created_by
                FROM generate_series(1, {KEYS}) i, api_keys k WHERE k.id = '{kept}';
            UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = '{revoked_id}';
            INSERT INTO config_changes (entity, entity_id) VALUES ('key', '{revoked_id}');
            UPDATE feed_state SET epoch = gen_random_uuid();
            COMMIT",
            digest = snapshot::key::digest(late.reveal().as_bytes())
                .0
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>(),
            kept = catalog.key_id,
        ))
        .await;
    eventually("a full snapshot is under way", || async { (link.passed() >= end).then_some(()) }).await;
    assert_eq!(status(revoked.clone()).await, 200, "what has half arrived is not served");
    assert_eq!(status(late.reveal().to_owned()).await, 401);
    world.control_planes[0].role.kill();
    // As its socket does.
    link.set(Flow::Closed);

    eventually("another control plane sends all of it", || async {
        (status(revoked.clone()).await == 401).then_some(())
    })
    .await;
    assert_eq!(status(late.reveal().to_owned()).await, 200, "all of it is served");
    stop.store(true, Ordering::Relaxed);
    assert!(calls.await.unwrap() > 0);
    assert_eq!(world.gateway().metric("gateway_config_apply_failures_total").await, 0.0);
}
