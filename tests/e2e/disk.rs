//! A gateway's disk is full, or turns read-only, under traffic: serving goes on, what cannot be written is counted, nothing
//! that was written is torn. As root alone, because disks are mounted.

use reqwest::Method;
use serde_json::json;

use crate::faults::{Traffic, counted_exactly};
use crate::harness::breaking_disk::BreakingDisk;
use crate::harness::{Catalog, Publisher, World, eventually};

async fn catalog(world: &World, ann: &Publisher) -> Catalog {
    let plan = json!({ "rate_limit": 6_000_000, "policy": { "burst_limit": 1_000_000 } });
    ann.product("api").endpoint("GET", "/x", &world.upstream.url()).plan(plan).publish().await
}

async fn status(world: &World, catalog: &Catalog, key: &str) -> u16 {
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    world.client.get(url).bearer_auth(key).send().await.unwrap().status().as_u16()
}

/// Changes that surely fill what is left of the page that a log of changes ends in.
const CHANGES_MAX: usize = 200;

async fn has_failed_to_save(world: &World) -> bool {
    world.gateway().metric("gateway_snapshot_save_failures_total").await >= 1.0
}

/// A key is made, serves once, and is revoked; more are made until the disk cannot take a change.
async fn change_something(world: &World, ann: &Publisher, catalog: &Catalog) -> String {
    let body = json!({ "name": "on a broken disk", "environment": "live" });
    let (id, key) = ann.key(&catalog.subscription, body).await;
    assert_eq!(status(world, catalog, &key).await, 200);
    ann.post_served(&format!("/v1/keys/{id}/revoke"), json!({})).await;
    assert_eq!(status(world, catalog, &key).await, 401);
    for number in 0..CHANGES_MAX {
        if has_failed_to_save(world).await {
            break;
        }
        ann.key(&catalog.subscription, json!({ "name": format!("filler {number}"), "environment": "live" })).await;
    }
    eventually("the failed write is counted", || async { has_failed_to_save(world).await.then_some(()) }).await;
    key
}

#[tokio::test]
async fn a_full_disk_fails_no_request_and_costs_neither_changes_nor_usage() {
    let mut world = World::with().own_postgres().small_disk().start().await;
    // It said why there is none.
    if world.small_disk.is_none() {
        return;
    }
    let ann = world.publisher("ann").await;
    let catalog = catalog(&world, &ann).await;
    let traffic = Traffic::start(&world, &catalog);
    traffic.more(100).await;
    world.gateway().saved().await;
    world.small_disk.as_ref().unwrap().fill().unwrap();
    let revoked = change_something(&world, &ann, &catalog).await;
    traffic.more(300).await;
    world.small_disk.as_ref().unwrap().make_room();
    world.gateway().saved().await;
    traffic.more(50).await;
    let answered = traffic.stop().await;
    // One more with the key that was revoked since.
    counted_exactly(&world, answered + 1).await;
    // What is on the disk is the newest again.
    world.control_planes[0].role.kill();
    world.gateways[0].role.kill();
    world.gateways[0].role.start_again();
    world.gateways[0].role.ready().await;
    assert_eq!(status(&world, &catalog, &catalog.key).await, 200);
    assert_eq!(status(&world, &catalog, &revoked).await, 401);
}

#[tokio::test]
async fn a_disk_that_turns_read_only_fails_no_request_and_keeps_its_last_good_snapshot() {
    let Some(disk) = BreakingDisk::mount() else { return };
    let mut world = World::with().gateway_disk(disk.path()).start().await;
    let ann = world.publisher("ann").await;
    let catalog = catalog(&world, &ann).await;
    world.gateway().saved().await;
    let traffic = Traffic::start(&world, &catalog);
    traffic.more(50).await;
    disk.turn_read_only();
    change_something(&world, &ann, &catalog).await;
    traffic.more(300).await;
    assert!(traffic.stop().await >= 350);
    // Everything else is down, the disk is repaired: it serves from what was written before.
    world.control_planes[0].role.kill();
    world.gateways[0].role.kill();
    disk.mount_again();
    world.gateways[0].role.start_again();
    world.gateways[0].role.ready().await;
    assert_eq!(status(&world, &catalog, &catalog.key).await, 200);
    let refused = ann.rest.request(Method::GET, "/v1/organizations");
    assert!(ann.rest.send(refused).await.is_err(), "nobody else is there to help");
}
