//! The load, and with it the oracle: keys of every kind on all gateways, each answer read to its end and noted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::json;

use super::oracle::{Kind, Oracle};
use crate::harness::{Catalog, World};

const WORKERS: usize = 6;
const PAUSE: Duration = Duration::from_millis(1);
/// After a request that nobody answered.
const PAUSE_AFTER_NONE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Client {
    path: String,
    key: String,
    meter_id: i64,
    method: Method,
    is_test_key: bool,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    oracle: Arc<Mutex<Oracle>>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// On all gateways, until `stop`.
    pub fn start(world: &World, clients: &[Client]) -> Load {
        let (stop, oracle) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Oracle::default())));
        let workers = (0..WORKERS).map(|worker| {
            let nth = worker % world.gateways.len();
            let gateway = (nth, world.gateways[nth].url.clone());
            let (stop, oracle, clients) = (stop.clone(), oracle.clone(), clients.to_vec());
            let http = world.client.clone();
            tokio::spawn(async move {
                let mut turn = worker;
                while !stop.load(Ordering::Relaxed) {
                    let client = &clients[turn % clients.len()];
                    turn += 1;
                    let was_answered = ask(&http, &gateway, client, &oracle).await;
                    tokio::time::sleep(if was_answered { PAUSE } else { PAUSE_AFTER_NONE }).await;
                }
            })
        });
        let workers = workers.collect();
        Load { stop, oracle, workers }
    }

    /// When every request under way has ended.
    pub async fn stop(self) -> Oracle {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        Arc::into_inner(self.oracle).unwrap().into_inner().unwrap()
    }
}

/// Whether there was an answer.
async fn ask(
    http: &reqwest::Client,
    (nth, gateway): &(usize, String),
    client: &Client,
    oracle: &Mutex<Oracle>,
) -> bool {
    let url = format!("{gateway}{}", client.path);
    let sent = http.request(client.method.clone(), &url).header("x-api-key", &client.key).send().await;
    // Whoever could not even connect was not answered, and cannot be counted.
    let was_sent = !matches!(&sent, Err(error) if error.is_connect());
    let (mut kind, mut is_complete) = (None, false);
    if let Ok(answer) = sent {
        kind = kind_of(&answer, client.is_test_key);
        is_complete = answer.bytes().await.is_ok();
    }
    let mut oracle = oracle.lock().unwrap();
    if !is_complete {
        *oracle.unsure.entry(client.meter_id).or_default() += u64::from(was_sent);
    } else if let Some(kind) = kind {
        *oracle.complete.entry((client.meter_id, kind)).or_default() += 1;
        *oracle.by_gateway.entry(*nth).or_default() += 1;
    }
    is_complete
}

/// None: from a gateway that has no configuration yet, which counts for nothing. No fault may cause an answer that is not here.
fn kind_of(answer: &Response, is_test_key: bool) -> Option<Kind> {
    let ours = answer.headers().get("x-gateway-error").map(|code| code.to_str().unwrap().to_owned());
    match (answer.status().as_u16(), ours.as_deref()) {
        (200, None) if is_test_key => Some(Kind::Free),
        (200, None) => Some(Kind::Billed),
        (503, None) => Some(Kind::Free),
        (429, Some("rate_limited")) => Some(Kind::Limited),
        (502..=504, Some(code)) if code.starts_with("upstream_") || code == "no_healthy_upstream" => Some(Kind::Failed),
        (503, Some("not_ready")) => None,
        (status, ours) => panic!("{} was answered {status} {ours:?}", answer.url()),
    }
}

/// Three live keys and a test key: of a wide plan, of one that is soon used up, and to upstreams that fail.
pub async fn clients(world: &World) -> Vec<Client> {
    let ann = world.publisher("ann").await;
    let plan = |rate: u64, burst: u64| json!({ "rate_limit": rate, "policy": { "burst_limit": burst } });
    let (url, closed) = (world.upstream.url(), format!("http://127.0.0.1:{}/x", world.upstream.closed_port));
    let (target, broken) = (format!("{url}/x"), format!("{url}/status/503"));
    let product = |slug| ann.product(slug).endpoint("GET", "/x", &target).endpoint("HEAD", "/x", &target);
    let failing = product("api").endpoint("GET", "/broken", &broken).endpoint("GET", "/closed", &closed);
    let wide = failing.plan(plan(6_000_000, 1_000_000)).publish().await;
    let tight = product("tight").plan(plan(600, 10)).publish().await;
    let key = |catalog: &Catalog, environment: &'static str| {
        let (ann, catalog) = (ann.clone(), catalog.clone());
        async move {
            let (id, key) =
                ann.key(&catalog.subscription, json!({ "name": "another", "environment": environment })).await;
            Catalog { key_id: id, key, ..catalog }
        }
    };
    let (second, test) = (key(&wide, "live").await, key(&wide, "test").await);
    // A gateway that is killed knows them when it starts again.
    for gateway in &world.gateways {
        gateway.saved().await;
    }
    let mut clients = Vec::new();
    for (catalog, path, methods) in [
        (&wide, "x", vec![Method::GET, Method::HEAD]),
        (&second, "x", vec![Method::GET, Method::HEAD]),
        (&tight, "x", vec![Method::GET]),
        (&test, "x", vec![Method::GET]),
        (&second, "broken", vec![Method::GET]),
        (&second, "closed", vec![Method::GET]),
    ] {
        let meter_id = world.count(&format!("SELECT meter_id FROM api_keys WHERE id = '{}'", catalog.key_id)).await;
        let (path, key, is_test_key) =
            (format!("{}/{path}", catalog.path), catalog.key.clone(), catalog.key_id == test.key_id);
        for method in methods {
            let (path, key) = (path.clone(), key.clone());
            clients.push(Client { path, key, meter_id, method, is_test_key });
        }
    }
    clients
}
