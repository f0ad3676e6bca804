//! Chaos: every second something dies or forgets, under load; a client that counts complete answers must be counted exactly.
//! The difference allowed is what was in flight at a kill. APIHUB_CHAOS_SECONDS and APIHUB_CHAOS_SEED make it longer and
//! other; `kill -9` of gateway, Redis (which keeps nothing) and control plane, and FLUSHALL.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;

use crate::harness::{Catalog, World};

const SECONDS: u64 = 10;
const WORKERS: u64 = 6;
/// How long everything may take to be counted once the faults are over: a resend, a claim of what a killed consumer held.
const SETTLED_AFTER: Duration = Duration::from_secs(90);

/// Of each (key, status): answers that came complete.
type Totals = BTreeMap<(i64, i64), u64>;

/// What the clients saw.
#[derive(Default)]
struct Oracle {
    complete: Totals,
    /// By key: requests of which nobody knows how they ended.
    unsure: BTreeMap<i64, u64>,
}

impl Oracle {
    fn note(&mut self, key: i64, complete: Option<i64>, is_unsure: bool) {
        match complete {
            Some(status) => *self.complete.entry((key, status)).or_default() += 1,
            None if is_unsure => *self.unsure.entry(key).or_default() += 1,
            None => {}
        }
    }
}

/// Why the totals are not those of the oracle.
fn compare(oracle: &Oracle, counted: &Totals) -> Result<(), String> {
    let mut spare = oracle.unsure.clone();
    for (cell, complete) in &oracle.complete {
        let counted = counted.get(cell).copied().unwrap_or(0);
        if counted < *complete {
            return Err(format!("{cell:?}: {complete} were answered, {counted} are counted"));
        }
    }
    for (cell, counted) in counted {
        let complete = oracle.complete.get(cell).copied().unwrap_or(0);
        let spare = spare.entry(cell.0).or_default();
        if *counted > complete + *spare {
            return Err(format!("{cell:?}: {complete} were answered, {spare} may have been, {counted} are counted"));
        }
        *spare -= counted - complete;
    }
    Ok(())
}

struct Client {
    path: String,
    key: String,
    meter_id: i64,
    method: Method,
}

async fn clients(world: &World, catalogs: &[&Catalog]) -> Vec<Client> {
    let mut clients = Vec::new();
    for catalog in catalogs {
        let meter_id = world.count(&format!("SELECT meter_id FROM api_keys WHERE id = '{}'", catalog.key_id)).await;
        for method in [Method::GET, Method::HEAD] {
            clients.push(Client { path: catalog.path.clone(), key: catalog.key.clone(), meter_id, method });
        }
    }
    clients
}

/// Load on all gateways until `stop`.
fn start_load(world: &World, clients: Vec<Client>) -> (Arc<AtomicBool>, Arc<Mutex<Oracle>>, Vec<Worker>) {
    let (stop, oracle) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Oracle::default())));
    let clients = Arc::new(clients);
    let workers = (0..WORKERS).map(|worker| {
        let gateways: Vec<String> = world.gateways.iter().map(|gateway| gateway.url.clone()).collect();
        let gateway = gateways[usize::try_from(worker).unwrap() % gateways.len()].clone();
        let (stop, oracle, clients, http) = (stop.clone(), oracle.clone(), clients.clone(), world.client.clone());
        tokio::spawn(async move {
            let mut turn = usize::try_from(worker).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let client = &clients[turn % clients.len()];
                turn += 1;
                let url = format!("{gateway}{}/x", client.path);
                let sent = http.request(client.method.clone(), &url).header("x-api-key", &client.key).send().await;
                // Whoever could not even connect was not answered, and cannot be counted.
                let is_unsure = !matches!(&sent, Err(error) if error.is_connect());
                let complete = match sent {
                    Ok(answer) => {
                        let status = i64::from(answer.status().as_u16());
                        answer.bytes().await.ok().map(|_| status)
                    }
                    Err(_) => None,
                };
                oracle.lock().unwrap().note(client.meter_id, complete, is_unsure);
                let pause = if complete.is_some() { 1 } else { 50 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        })
    });
    let workers = workers.collect();
    (stop, oracle, workers)
}

type Worker = tokio::task::JoinHandle<()>;

async fn counted(world: &World) -> Totals {
    let sql = "SELECT key_meter_id, status, count(*) FROM usage_logs GROUP BY 1, 2";
    let number = |text: &Option<String>| text.as_deref().unwrap().parse::<i64>().unwrap();
    let cell = |row: &Vec<Option<String>>| {
        let status = number(&row[1]);
        ((number(&row[0]), status), u64::try_from(number(&row[2])).unwrap())
    };
    // No complete answer has this status: it is what the gateway writes down for a client that left.
    world.query(sql).await.iter().map(cell).filter(|((_, status), _)| *status != 499).collect()
}

/// Waits until the totals agree and stay so; else says what differs.
async fn settle(world: &World, oracle: &Oracle) -> Result<(), String> {
    let deadline = Instant::now() + SETTLED_AFTER;
    let mut agreed_since = None;
    loop {
        let difference = compare(oracle, &counted(world).await);
        match difference {
            Ok(()) => {
                // Long enough for anything that is sent again to be counted twice.
                if agreed_since.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(6) {
                    return Ok(());
                }
            }
            Err(difference) => {
                agreed_since = None;
                if Instant::now() > deadline {
                    return Err(difference);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A small generator of its own, so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One fault. Everything runs again afterwards, though not everything is ready.
async fn strike(world: &mut World, fault: u64) -> &'static str {
    match fault {
        0 => {
            world.gateways[0].role.kill();
            world.gateways[0].role.start_again();
            "kill -9 of gateway 0"
        }
        1 => {
            world.gateways[1].role.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.gateways[1].role.start_again();
            "kill -9 of gateway 1"
        }
        2 => {
            // It keeps nothing: what was in the stream is gone.
            world.redis.restart().unwrap();
            "kill -9 of Redis"
        }
        3 => {
            world.control_planes[0].role.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.control_planes[0].role.start_again();
            "kill -9 of the control plane"
        }
        _ => {
            world.flush_redis();
            "FLUSHALL"
        }
    }
}

/// Two gateways, a Redis that keeps nothing, and three keys: two of a wide plan, one of a plan that is soon used up (429).
async fn chaotic_world() -> (World, Vec<Client>) {
    let world = World::with().gateways(2).forgetful_redis().start().await;
    let ann = world.publisher("ann").await;
    let plan = |rate: u64, burst: u64| serde_json::json!({ "rate_limit": rate, "policy": { "burst_limit": burst } });
    let target = format!("{}/x", world.upstream.url());
    let product = |slug| ann.product(slug).endpoint("GET", "/x", &target).endpoint("HEAD", "/x", &target);
    let wide = product("api").plan(plan(6_000_000, 1_000_000)).publish().await;
    let tight = product("tight").plan(plan(600, 10)).publish().await;
    let second = ann.key(&wide.subscription, serde_json::json!({ "name": "second", "environment": "live" })).await;
    let second = Catalog { key_id: second.0, key: second.1, ..wide.clone() };
    let all = clients(&world, &[&wide, &second, &tight]).await;
    (world, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_complete_answer_is_counted_once_whatever_dies() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seconds, seed) = (number("APIHUB_CHAOS_SECONDS", SECONDS), number("APIHUB_CHAOS_SEED", 1));
    let (mut world, clients) = chaotic_world().await;
    let (stop, oracle, workers) = start_load(&world, clients);
    let (began, mut dice, mut faults) = (Instant::now(), Dice(seed * 2 + 1), Vec::new());
    (0..9).for_each(|_| drop(dice.roll(2)));
    while began.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        // Each kind once, then any.
        let fault = if faults.len() < 5 { faults.len() as u64 } else { dice.roll(5) };
        faults.push(strike(&mut world, fault).await);
    }
    for gateway in &world.gateways {
        gateway.role.ready().await;
    }
    world.control_planes[0].role.ready().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let oracle = Arc::into_inner(oracle).unwrap().into_inner().unwrap();
    let complete: u64 = oracle.complete.values().sum();
    let unsure: u64 = oracle.unsure.values().sum();
    let settling = Instant::now();
    let settled = settle(&world, &oracle).await;
    let total: u64 = counted(&world).await.values().sum();
    println!(
        "{} faults, {complete} complete answers, {unsure} cut off, {total} counted, settled in {:?}",
        faults.len(),
        settling.elapsed()
    );
    settled.unwrap_or_else(|difference| panic!("{difference}; faults: {faults:?}"));
    assert!(complete > 500 && faults.len() >= 5, "{complete} answers, {} faults", faults.len());

    // The oracle is no rubber stamp: one answer less or more than there were would have failed.
    let mut less = counted(&world).await;
    less.values_mut().for_each(|count| *count -= (*count).min(unsure + 1));
    assert!(compare(&oracle, &less).is_err());
    let mut more = counted(&world).await;
    more.values_mut().for_each(|count| *count += unsure + 1);
    assert!(compare(&oracle, &more).is_err());
}

/// The negative control: usage as others keep it, in memory until it is sent. With the rings gone when the process is, the same
/// oracle must find a loss; if it does not, the test above proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_rings_a_killed_gateway_loses_usage_and_the_oracle_sees_it() {
    let (mut world, clients) = chaotic_world().await;
    let (stop, oracle, workers) = start_load(&world, clients);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        world.gateways[0].role.kill();
        remove_rings(&world.gateways[0].data_dir);
        world.gateways[0].role.start_again();
        world.gateways[0].role.ready().await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let oracle = Arc::into_inner(oracle).unwrap().into_inner().unwrap();
    let all = settled_totals(&world).await;
    let difference = compare(&oracle, &all);
    assert!(difference.is_err_and(|told| told.contains("were answered")), "the loss was not seen");
}

/// The totals when they have not moved for longer than any batch is on its way.
async fn settled_totals(world: &World) -> Totals {
    let mut last = (counted(world).await, Instant::now());
    while last.1.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = counted(world).await;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

fn remove_rings(data_dir: &Path) {
    for epoch in std::fs::read_dir(data_dir.join("usage")).unwrap().flatten() {
        for file in std::fs::read_dir(epoch.path()).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "ring") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
}
