//! Tests of the choice of addresses: what is resolved, what is refused, and who is next.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use snapshot::pattern::Pattern;
use snapshot::target::Target;
use tokio::sync::watch;
use uuid::Uuid;

use super::table::Pool;
use super::{Lookup, NoAddress, Upstreams, keep_resolved};
use crate::clock::Now;
use crate::live::fixtures::{IntoRecord, endpoint, product, token};
use crate::live::{Live, Snapshot};
use crate::metrics::Metrics;
use crate::settings;

const NOW: Now = Now { mono_us: 1, unix_ms: 0 };
const TENANT: Uuid = Uuid::from_u128(7);

/// Answers by a table; what is not in it does not exist.
#[derive(Default)]
struct Names(Mutex<HashMap<&'static str, Vec<&'static str>>>);

impl Lookup for Names {
    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let names = self.0.lock().unwrap();
        let found = names.get(name).ok_or("no such name")?;
        Ok((found.iter().map(|ip| ip.parse().unwrap()).collect(), Duration::ZERO))
    }
}

pub(crate) fn upstreams(allow: &[&str]) -> Upstreams {
    let settings = settings::Upstream {
        allow: allow.iter().map(|range| range.parse().unwrap()).collect(),
        ca_file: None,
        connections_kept: 1,
        connections_per_product_max: std::num::NonZeroU32::MIN,
        idle_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(1),
    };
    Upstreams::new(settings, vec!["127.0.0.1:8080".parse().unwrap()], Arc::new(Metrics::new("test").unwrap()))
}

fn target(url: &str) -> Target {
    Target::parse(url, &Pattern::parse("/x").unwrap()).unwrap()
}

fn choose(upstreams: &Upstreams, url: &str, tried: &[SocketAddr]) -> Result<String, NoAddress> {
    upstreams.choose(TENANT, &target(url), tried, NOW).map(|address| address.to_string())
}

fn pool(upstreams: &Upstreams, name: &str, port: u16) -> Arc<Pool> {
    upstreams.table.set_names(&HashSet::from([(Box::from(name), port)]));
    upstreams.table.find(name, port).unwrap()
}

#[test]
fn an_address_needs_no_resolver_and_is_judged_at_once() {
    let upstreams = upstreams(&["127.0.0.1/32"]);
    assert_eq!(choose(&upstreams, "http://93.184.216.34/", &[]).as_deref(), Ok("93.184.216.34:80"));
    assert_eq!(choose(&upstreams, "http://127.0.0.1:9000/", &[]).as_deref(), Ok("127.0.0.1:9000"));
    for forbidden in [
        "http://127.0.0.1:8080/",
        "http://10.0.0.1/",
        "http://0x7f000002/",
        "http://[::1]/",
        "https://169.254.169.254/",
    ] {
        assert!(matches!(choose(&upstreams, forbidden, &[]), Err(NoAddress::Forbidden(_))), "{forbidden}");
    }
}

#[tokio::test]
async fn a_name_is_unknown_until_it_is_resolved_and_then_its_addresses_take_turns() {
    let (upstreams, names) = (upstreams(&[]), Names::default());
    assert_eq!(choose(&upstreams, "http://api.example/", &[]), Err(NoAddress::Unresolved));
    let pool = pool(&upstreams, "api.example", 80);
    assert_eq!(choose(&upstreams, "http://api.example/", &[]), Err(NoAddress::Unresolved));
    names.0.lock().unwrap().insert("api.example", vec!["1.1.1.2", "1.1.1.1", "1.1.1.1"]);
    upstreams.resolve(&pool, &names).await;
    let chosen: HashSet<_> = (0..2).map(|_| choose(&upstreams, "http://api.example/", &[]).unwrap()).collect();
    assert_eq!(chosen, HashSet::from(["1.1.1.1:80".to_owned(), "1.1.1.2:80".to_owned()]));
    let tried = ["1.1.1.1:80".parse().unwrap()];
    assert!((0..4).all(|_| choose(&upstreams, "http://api.example/", &tried).unwrap() == "1.1.1.2:80"));
    let all = ["1.1.1.1:80".parse().unwrap(), "1.1.1.2:80".parse().unwrap()];
    assert_eq!(choose(&upstreams, "http://api.example/", &all), Err(NoAddress::AllTried));
}

#[tokio::test]
async fn one_forbidden_answer_refuses_the_whole_name() {
    let (upstreams, names) = (upstreams(&[]), Names::default());
    let pool = pool(&upstreams, "rebind.example", 80);
    names.0.lock().unwrap().insert("rebind.example", vec!["1.1.1.1", "127.0.0.1"]);
    upstreams.resolve(&pool, &names).await;
    assert!(matches!(choose(&upstreams, "http://rebind.example/", &[]), Err(NoAddress::Forbidden(_))));
    names.0.lock().unwrap().insert("rebind.example", vec!["1.1.1.1"]);
    upstreams.resolve(&pool, &names).await;
    assert!(choose(&upstreams, "http://rebind.example/", &[]).is_ok(), "a mended name is served again");
}

#[tokio::test]
async fn what_was_known_stays_when_the_name_cannot_be_resolved_again() {
    let (upstreams, names) = (upstreams(&[]), Names::default());
    let pool = pool(&upstreams, "api.example", 443);
    names.0.lock().unwrap().insert("api.example", vec!["1.1.1.1"]);
    upstreams.resolve(&pool, &names).await;
    names.0.lock().unwrap().clear();
    upstreams.resolve(&pool, &names).await;
    assert_eq!(choose(&upstreams, "https://api.example/", &[]).as_deref(), Ok("1.1.1.1:443"));
    let kept = self::pool(&upstreams, "api.example", 443);
    assert!(Arc::ptr_eq(&pool, &kept), "a swap that changes nothing keeps the pool");
}

#[tokio::test]
async fn an_ejected_address_is_passed_over_and_a_neighbour_may_still_use_it() {
    let (upstreams, names) = (upstreams(&[]), Names::default());
    let pool = pool(&upstreams, "api.example", 80);
    names.0.lock().unwrap().insert("api.example", vec!["1.1.1.1", "1.1.1.2"]);
    upstreams.resolve(&pool, &names).await;
    let broken: SocketAddr = "1.1.1.1:80".parse().unwrap();
    for _ in 0..5 {
        upstreams.failed(TENANT, broken, NOW);
    }
    assert!((0..4).all(|_| choose(&upstreams, "http://api.example/", &[]).unwrap() == "1.1.1.2:80"));
    let neighbour = Uuid::from_u128(8);
    let theirs = (0..2).map(|_| upstreams.choose(neighbour, &target("http://api.example/"), &[], NOW).unwrap());
    assert!(theirs.collect::<Vec<_>>().contains(&broken));
    for _ in 0..5 {
        upstreams.failed(TENANT, "1.1.1.2:80".parse().unwrap(), NOW);
    }
    assert_eq!(choose(&upstreams, "http://api.example/", &[]), Err(NoAddress::AllEjected));
    upstreams.succeeded(TENANT, broken);
    assert_eq!(choose(&upstreams, "http://api.example/", &[]).as_deref(), Ok("1.1.1.1:80"));
}

/// Answers after a while, and for names that begin with "black" never.
struct Slow;

impl Lookup for Slow {
    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        if name.starts_with("black") {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok((vec![IpAddr::from([1, 1, 1, 1])], Duration::ZERO))
    }
}

#[tokio::test]
async fn the_start_waits_for_every_name_of_what_is_served_but_not_beyond_its_bound() {
    let (patience, bound) = (Duration::from_secs(20), Duration::from_millis(300));
    for (name, is_answered) in [("slow.example", true), ("black.example", false)] {
        let mut served = product(1);
        served.endpoints = vec![endpoint("GET", "/x", &format!("http://{name}/"))];
        let live = Live::new(Snapshot::build(token(1), [served.record()]).0);
        let upstreams = Arc::new(upstreams(&[]));
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(keep_resolved(upstreams.clone(), live.clone(), Arc::new(Slow), stopped));
        let began = Instant::now();
        upstreams.wait_resolved(&live.load(), if is_answered { patience } else { bound }).await;
        let took = began.elapsed();
        assert!(took < patience && (is_answered || took >= bound), "{name}: {took:?}");
        assert_eq!(choose(&upstreams, &format!("http://{name}/"), &[]).is_ok(), is_answered, "{name}");
    }
}
