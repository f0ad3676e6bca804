//! How many changes a second come through: written, numbered, built, sent to several gateways and acknowledged.

use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::changes::ChangeId;

const GATEWAYS: usize = 4;
const WRITERS: u32 = 32;

/// When each gateway served which revision, in the order of time.
type Served = Arc<Mutex<Vec<(u64, Instant)>>>;

/// Waits for the number of each change as a handler does; answers (revision, when it was committed), and the longest wait.
async fn write(
    rows: Rows,
    revisions: Revisions,
    keys: Vec<Uuid>,
    pace: Duration,
    until: Instant,
) -> Vec<(u64, Instant, Duration)> {
    let mut ticks = tokio::time::interval(pace);
    let mut written = Vec::new();
    for key in keys.iter().cycle() {
        ticks.tick().await;
        if Instant::now() >= until {
            break;
        }
        let sql = "WITH moved AS (UPDATE api_keys SET expires_at = now() + interval '1 day' WHERE id = $1)
            INSERT INTO config_changes (entity, entity_id) VALUES ('key', $1) RETURNING id";
        let id = rows.client.query_one(sql, &[key]).await.unwrap().get(0);
        let committed = Instant::now();
        let revision = revisions.numbered(ChangeId(id)).await.unwrap();
        written.push((revision, committed, committed.elapsed()));
    }
    written
}

async fn follow(mut gateway: Gateway, served: Served, up_to: tokio::sync::watch::Receiver<u64>) {
    while gateway.token.is_none_or(|token| *up_to.borrow() == 0 || token.revision < *up_to.borrow()) {
        let Ok(taken) = tokio::time::timeout(Duration::from_millis(100), gateway.take()).await else { continue };
        taken.unwrap();
        gateway.ack().await;
        served.lock().unwrap().push((gateway.token.unwrap().revision, Instant::now()));
    }
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(50), at(99), at(100));
}

/// `cargo test --release -p apihub-control-plane a_thousand_changes_a_second -- --ignored --nocapture`
///
/// `APIHUB_CHANGES_PER_S` (1000) and `APIHUB_CHANGES_S` (20) say otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute: the rate of changes and their lag"]
async fn a_thousand_changes_a_second_reach_every_gateway() {
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (rate, seconds) = (number("APIHUB_CHANGES_PER_S", 1_000), number("APIHUB_CHANGES_S", 20));
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let shop = plane.rows.product(acme, "shop").await;
    let plan = plane.rows.plan(shop, "basic").await;
    let bought = plane.rows.subscription(shop, plan, acme).await;
    let mut keys = Vec::new();
    for _ in 0..WRITERS * 10 {
        keys.push(plane.rows.key(bought).await);
    }
    let first = plane.newest().await;
    let (done, up_to) = tokio::sync::watch::channel(0);
    let mut following = Vec::new();
    for index in 0..GATEWAYS {
        let mut gateway = plane.gateway(&format!("gateway-{index}")).await;
        gateway.take_up_to(first).await;
        gateway.ack().await;
        let served = Served::default();
        following.push((served.clone(), tokio::spawn(follow(gateway, served, up_to.clone()))));
    }
    let (started, until) = (Instant::now(), Instant::now() + Duration::from_secs(seconds.into()));
    let pace = Duration::from_secs(1) * WRITERS / rate;
    let mut writing = Vec::new();
    for keys in keys.chunks(10) {
        let rows = Rows::of(plane.rows.url.clone(), plane.rows.store.clone()).await;
        writing.push(tokio::spawn(write(rows, plane.revisions.clone(), keys.to_vec(), pace, until)));
    }
    let mut written = Vec::new();
    for writer in writing {
        written.extend(writer.await.unwrap());
    }
    let took = started.elapsed();
    done.send_replace(written.iter().map(|(revision, ..)| *revision).max().unwrap());
    let mut lags = vec![Duration::ZERO; written.len()];
    for (served, task) in following {
        task.await.unwrap();
        let served = served.lock().unwrap();
        for ((revision, committed, _), lag) in written.iter().zip(&mut lags) {
            let (_, at) = served[served.partition_point(|(newest, _)| newest < revision)];
            *lag = (*lag).max(at.saturating_duration_since(*committed));
        }
    }
    println!(
        "{} changes in {:.1} s: {:.0} a second to {GATEWAYS} gateways, in {} deltas",
        written.len(),
        took.as_secs_f64(),
        written.len() as f64 / took.as_secs_f64(),
        plane.metrics.deltas.get()
    );
    tell("committed -> numbered", written.iter().map(|(.., waited)| *waited).collect());
    tell("committed -> served by all", lags);
    let wanted = f64::from(rate * seconds) * 0.95;
    assert!(written.len() as f64 >= wanted, "only {} of {wanted}", written.len());
}
