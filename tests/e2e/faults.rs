//! Any one part is killed or frozen under traffic: no request fails, nothing is counted twice or lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use servers::Signal;

use crate::harness::{Catalog, World, eventually, eventually_within};

/// What a control plane held when it was killed is left alone for 30 s, and the next one looks for such every 10 s.
const COUNTED_WITHIN: Duration = Duration::from_secs(90);
/// REST promises 5 s. A busy machine may take some times as long; without a deadline of its own the wait would be endless.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);
/// The request takes 1.5 s. A gateway that did not see it end would stop at the end of its grace period of 30 s.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// Steady traffic on one gateway; every answer must be a 200.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    workers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Traffic {
    pub fn start(world: &World, catalog: &Catalog) -> Traffic {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let url = format!("{}{}/x", world.gateway().url, catalog.path);
        let workers = (0..4).map(|_| {
            let (stop, good, client) = (stop.clone(), good.clone(), world.client.clone());
            let (url, key) = (url.clone(), catalog.key.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match client.get(&url).bearer_auth(&key).send().await {
                        Ok(answer) => {
                            let status = answer.status();
                            match answer.bytes().await {
                                Ok(_) if status == 200 => drop(good.fetch_add(1, Ordering::Relaxed)),
                                Ok(body) => failed.push(format!("{status}: {}", String::from_utf8_lossy(&body))),
                                Err(error) => failed.push(format!("a body cut short: {error:?}")),
                            }
                        }
                        Err(error) => failed.push(format!("{error:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                failed
            })
        });
        Traffic { workers: workers.collect(), stop, good }
    }

    /// Returns when so many more requests were answered well.
    pub async fn more(&self, count: u64) {
        let goal = self.good.load(Ordering::Relaxed) + count;
        eventually("traffic goes on", || async { (self.good.load(Ordering::Relaxed) >= goal).then_some(()) }).await;
    }

    /// The number of answered requests; fails where one was not a 200.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            let failed = worker.await.unwrap();
            assert!(failed.is_empty(), "{} requests failed, the first: {}", failed.len(), failed[0]);
        }
        self.good.load(Ordering::Relaxed)
    }
}

async fn world_with_traffic() -> (World, Catalog, Traffic) {
    let world = World::with().own_postgres().start().await;
    let ann = world.publisher("ann").await;
    let plan = serde_json::json!({ "rate_limit": 6_000_000, "policy": { "burst_limit": 1_000_000 } });
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).plan(plan).publish().await;
    let traffic = Traffic::start(&world, &catalog);
    traffic.more(100).await;
    (world, catalog, traffic)
}

/// Every answered request is a row, once. What comes a second time comes late: so nothing may be on its way any more.
pub async fn counted_exactly(world: &World, answered: u64) {
    let wanted = i64::try_from(answered).unwrap();
    let rows = "SELECT count(*) FROM usage_logs";
    eventually_within(COUNTED_WITHIN, "every request is counted, and nothing is on its way", || async {
        let logged = world.count(rows).await;
        assert!(logged <= wanted, "{logged} rows for {wanted} requests");
        (logged == wanted && world.is_usage_at_rest().await).then_some(())
    })
    .await;
    for sum in [
        rows,
        "SELECT coalesce(sum(request_count), 0)::bigint FROM usage_minutes",
        "SELECT coalesce(sum(request_count), 0)::bigint FROM usage_quarter_hours",
        "SELECT coalesce(sum(events), 0)::bigint FROM ingested_batches",
    ] {
        assert_eq!(world.count(sum).await, wanted, "{sum}");
    }
}

#[tokio::test]
async fn killing_the_control_plane_fails_no_request_and_counts_none_twice() {
    let (mut world, _, traffic) = world_with_traffic().await;
    for _ in 0..3 {
        world.control_planes[0].role.kill();
        traffic.more(100).await;
        world.control_planes[0].role.start_again();
        world.control_planes[0].role.ready().await;
        traffic.more(50).await;
    }
    let answered = traffic.stop().await;
    counted_exactly(&world, answered).await;
}

#[tokio::test]
async fn killing_postgres_fails_no_request_and_rest_recovers_by_itself() {
    let (mut world, _, traffic) = world_with_traffic().await;
    let postgres = world.postgres.as_mut().unwrap();
    servers::send(postgres.child(), Signal::KILL);
    let _ = postgres.child().wait();
    traffic.more(200).await;
    let url = format!("{}/v1/catalog/products", world.control_planes[0].url);
    let started = std::time::Instant::now();
    assert_eq!(world.client.get(&url).send().await.unwrap().status(), 503);
    assert!(started.elapsed() < REFUSED_WITHIN, "the answer came after {:?}", started.elapsed());
    world.postgres.as_mut().unwrap().restart().unwrap();
    eventually("REST recovers", || async { (world.client.get(&url).send().await.ok()?.status() == 200).then_some(()) })
        .await;
    let answered = traffic.stop().await;
    counted_exactly(&world, answered).await;
}

#[tokio::test]
async fn a_write_that_waits_outlasts_a_failover_of_postgres_and_says_done_only_when_it_is() {
    let mut world = World::with().own_postgres().start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    let revoke = |key_id: &str, seconds: u32| {
        let request = ann.rest.request(reqwest::Method::POST, &format!("/v1/keys/{key_id}/revoke"));
        let request = request.header("prefer", format!("wait={seconds}")).json(&serde_json::json!({}));
        let rest = ann.rest.clone();
        tokio::spawn(async move { rest.send(request).await.unwrap() })
    };
    let numbered = "SELECT count(*) FROM config_changes WHERE entity = 'key' AND revision IS NOT NULL";
    // A frozen gateway acknowledges nothing, so the wait begins before Postgres goes.
    world.gateways[0].role.signal(Signal::STOP);
    let before = world.count(numbered).await;
    let waiting = revoke(&catalog.key_id, 25);
    eventually("it is committed and numbered", || async { (world.count(numbered).await > before).then_some(()) }).await;
    let postgres = world.postgres.as_mut().unwrap();
    servers::send(postgres.child(), Signal::KILL);
    let _ = postgres.child().wait();
    world.gateways[0].role.signal(Signal::CONT);
    let ready = format!("{}/readyz", world.control_planes[0].url);
    eventually("Postgres is missed", || async { (reqwest::get(&ready).await.unwrap().status() == 503).then_some(()) })
        .await;
    assert!(!waiting.is_finished(), "nobody can know yet that every gateway serves it");
    world.postgres.as_mut().unwrap().restart().unwrap();
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200, "{} {:?}", answer.json, answer.headers);
    assert_eq!(world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap().status(), 401);
    // A Postgres that does not come back in time: never "done".
    let (key_id, _) = ann.key(&catalog.subscription, serde_json::json!({ "name": "k", "environment": "live" })).await;
    world.gateways[0].role.signal(Signal::STOP);
    let before = world.count(numbered).await;
    let waiting = revoke(&key_id, 2);
    eventually("it is committed and numbered", || async { (world.count(numbered).await > before).then_some(()) }).await;
    let postgres = world.postgres.as_mut().unwrap();
    servers::send(postgres.child(), Signal::KILL);
    let _ = postgres.child().wait();
    assert_eq!(waiting.await.unwrap().status, 202);
    world.gateways[0].role.signal(Signal::CONT);
}

#[tokio::test]
async fn killing_or_freezing_redis_fails_no_request_and_loses_no_usage() {
    let (mut world, _, traffic) = world_with_traffic().await;
    servers::send(world.redis.child(), Signal::STOP);
    traffic.more(200).await;
    servers::send(world.redis.child(), Signal::CONT);
    traffic.more(50).await;
    servers::send(world.redis.child(), Signal::KILL);
    traffic.more(200).await;
    world.redis.restart().unwrap();
    let answered = traffic.stop().await;
    counted_exactly(&world, answered).await;
}

#[tokio::test]
async fn freezing_the_control_plane_fails_no_request() {
    let (world, _, traffic) = world_with_traffic().await;
    world.control_planes[0].role.signal(Signal::STOP);
    traffic.more(300).await;
    world.control_planes[0].role.signal(Signal::CONT);
    let answered = traffic.stop().await;
    counted_exactly(&world, answered).await;
}

#[tokio::test]
async fn a_gateway_serves_from_its_disk_when_everything_else_is_down() {
    let mut world = World::with().own_postgres().start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    world.gateway().saved().await;
    world.control_planes[0].role.kill();
    world.postgres.as_mut().unwrap().stop();
    world.redis.stop();
    world.gateways[0].role.kill();
    world.gateways[0].role.start_again();
    world.gateways[0].role.ready().await;
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    eventually("it serves", || async {
        let answer = world.client.get(&url).bearer_auth(&catalog.key).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    let stranger = snapshot::key::mint("hub", snapshot::key::Environment::Live).unwrap();
    assert_eq!(world.client.get(&url).bearer_auth(stranger.reveal()).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_key_revoked_while_a_gateway_was_down_is_refused_from_its_first_answer_on() {
    let mut world = World::start().await;
    let ann = world.publisher("ann").await;
    let catalog = ann.product("api").endpoint("GET", "/x", &world.upstream.url()).publish().await;
    let url = format!("{}{}/x", world.gateway().url, catalog.path);
    for round in 0..5 {
        let body = serde_json::json!({ "name": format!("k{round}"), "environment": "live" });
        let (id, key) = ann.key(&catalog.subscription, body).await;
        assert_eq!(world.client.get(&url).bearer_auth(&key).send().await.unwrap().status(), 200);
        world.gateway().saved().await;
        world.gateways[0].role.kill();
        let request = ann.rest.request(reqwest::Method::POST, &format!("/v1/keys/{id}/revoke"));
        let request = request.header("prefer", "wait=1").json(&serde_json::json!({}));
        assert_eq!(ann.rest.send(request).await.unwrap().status, 202);
        world.gateways[0].role.start_again();
        // Until it lets clients in, connections are refused.
        let first = eventually("it answers", || async { world.client.get(&url).bearer_auth(&key).send().await.ok() });
        assert_eq!(first.await.status(), 401);
        world.gateways[0].role.ready().await;
        assert_eq!(world.gateway().healthz().await["snapshot"]["source"], "feed");
        assert_eq!(world.client.get(&url).bearer_auth(&catalog.key).send().await.unwrap().status(), 200);
    }
}

/// A request to the first gateway for which its upstream takes so many milliseconds; in flight when this returns.
async fn request_in_flight(world: &World, ms: u32) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    let ann = world.publisher("ann").await;
    let slow = format!("{}/slow?ms={ms}", world.upstream.url());
    let catalog = ann.product("api").endpoint("GET", "/slow", &slow).publish().await;
    let url = format!("{}{}/slow", world.gateway().url, catalog.path);
    let request = tokio::spawn(world.client.get(&url).bearer_auth(&catalog.key).send());
    eventually("the request is in flight", || async {
        (world.gateway().metric("gateway_http_requests_in_flight").await >= 1.0).then_some(())
    })
    .await;
    request
}

#[tokio::test]
async fn a_gateway_that_stops_ends_as_soon_as_nothing_is_in_flight() {
    let mut world = World::start().await;
    let request = request_in_flight(&world, 1_500).await;
    let started = std::time::Instant::now();
    let status = world.gateways[0].role.stop().await;
    assert!(status.success(), "{status}");
    assert_eq!(request.await.unwrap().unwrap().status(), 200, "what was in flight is finished");
    assert!(started.elapsed() < STOPS_WITHIN, "it took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_a_gateway_at_once_whatever_the_first_was() {
    for first in [Signal::TERM, Signal::QUIT] {
        let mut world = World::start().await;
        let request = request_in_flight(&world, 20_000).await;
        let gateway = world.gateway();
        gateway.role.signal(first);
        eventually("it has heard the first", || async { gateway.role.log().contains("stopping").then_some(()) }).await;
        let second = std::time::Instant::now();
        let status = world.gateways[0].role.stop().await;
        assert_eq!(status.code(), Some(1), "after {first:?}");
        assert!(second.elapsed() < Duration::from_secs(5), "after {first:?} it took {:?}", second.elapsed());
        assert!(request.await.unwrap().is_err(), "what was in flight is cut");
    }
}

#[tokio::test]
async fn a_binary_upgrade_under_traffic_fails_no_request() {
    let (mut world, _, traffic) = world_with_traffic().await;
    let successor = world.gateways[0].role.successor();
    traffic.more(50).await;
    world.gateways[0].role.signal(Signal::QUIT);
    let status = world.gateways[0].role.ended().await;
    assert!(status.success(), "{status}");
    traffic.more(200).await;
    world.gateways[0].role = successor;
    let answered = traffic.stop().await;
    counted_exactly(&world, answered).await;
}
