//! A gateway's limiter on every kind of Redis that there may be: watched by Sentinels, spread over a cluster, behind TLS; and what
//! happens to the limits when a master dies or a slot moves under load.

use std::path::PathBuf;
use std::time::Instant;

use limits::bound::Bound;
use limits::script::group_of;
use limits_redis::{Connection, LimitsRedis, Patience, RedisKind};
use servers::{Encryption, LoopbackRedis, LoopbackRole, Signal, send};
use tempfile::TempDir;
use tokio::time::sleep;

use super::nodes::{Node, PREFIX, eventually, limits_redis, peak, saturate};
use super::rig::{Cluster, MASTERS, SERVICE, Watched, role, tell};
use super::*;
use crate::metrics::labels::LimitOutcome;

/// A Sentinel notices after half a second, and promotes; then there is time to lease again.
const FAILOVER_LOAD: Duration = Duration::from_secs(6);
const BREAK_AT: Duration = Duration::from_secs(1);
/// What may be written and not yet replicated, generously.
const LOST_MAX: Duration = Duration::from_secs(1);
/// Between the first node that leases again and the last.
const BACK_APART_MAX: Duration = Duration::from_secs(2);

fn sentinel() -> RedisKind {
    RedisKind::Sentinel { service: SERVICE.to_owned() }
}

/// A key that only Redis decides.
fn strict(key: u64) -> Terms {
    terms(key, Policy { strict: true, ..bucket(600, 100) }).fleet(2)
}

async fn leases_again(node: &Node, terms: &Terms) {
    eventually("a lease of Redis is spent", || async {
        let answer = node.ask(terms).await;
        node.decided(LimitOutcome::Leased, &answer).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_under_load_is_followed_by_the_one_that_sentinel_promotes() {
    let mut redis = Watched::start(None);
    let settings = limits_redis(&[redis.sentinel.url()], sentinel());
    let nodes = [Node::start_on(settings.clone()).await, Node::start_on(settings).await];
    let terms = terms(14, bucket(6_000, 100)).fleet(2);
    let (master, replica) = (&mut redis.master, &redis.replica);
    let (admitted, ()) = tokio::join!(saturate(&nodes, &terms, FAILOVER_LOAD), async {
        sleep(BREAK_AT).await;
        master.kill();
        eventually("the replica is promoted", || async {
            role(replica).filter(|info| info.contains("role:master")).map(drop)
        })
        .await;
    });
    let bound = Bound::of(&terms.core_policy(1), 2);
    let alone = bound.all_alone() + bound.goes_alone() + bound.stays_alone(1, BACK_APART_MAX);
    let most = bound.base() + bound.failover(LOST_MAX) + alone;
    let peak = peak(&admitted, 6_000) as f64;
    assert!(peak <= most, "{peak} above r·t, {most} are promised");
    for node in &nodes {
        node.is_up().await;
        leases_again(node, &terms).await;
        eventually("the promoted master decides", || async { node.ask(&strict(16)).await.ok() }).await;
    }
    println!("{} admitted, peak {peak} of {most}", admitted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_followed_when_a_slot_moves_under_load_and_what_was_used_moves_along() {
    let mut cluster = Cluster::start();
    let settings = limits_redis(&cluster.urls(), RedisKind::Cluster);
    let nodes = [Node::start_on(settings.clone()).await, Node::start_on(settings).await];
    // Of as many groups, which lie on all three masters.
    for key in (1_000..1_048).step_by(2) {
        eventually("its master decides", || async { nodes[0].ask(&strict(key)).await.ok() }).await;
    }
    // In the conversation that the slot's move interrupts; the other one's bucket is deep in debt by then.
    let neighbour = (16..).find(|key| group_of(*key) == group_of(14)).unwrap();
    let neighbour = terms(neighbour, bucket(6_000, 100)).fleet(2);
    let (terms, began) = (terms(14, bucket(60, 60)).fleet(2), Instant::now());
    let before = saturate(&nodes, &terms, Duration::from_secs(1)).await.len();
    assert!(before >= 55, "{before} of sixty");
    let name = format!("{PREFIX}:{{b{}}}:any", group_of(terms.key));
    let (during, (from, to)) = tokio::join!(saturate(&nodes, &terms, Duration::from_secs(2)), async {
        sleep(Duration::from_millis(300)).await;
        cluster.move_slot_of(&name)
    });
    let bound = Bound::of(&terms.core_policy(1), 2);
    let most = bound.base() + bound.rate(began.elapsed());
    let admitted = before + during.len();
    assert!(admitted as f64 <= most, "{admitted}, and {most} are promised: a state that is lost is worth sixty");
    for node in &nodes {
        node.is_up().await;
        leases_again(node, &neighbour).await;
    }
    let slot = cluster.slot_of(&name);
    let keys = |cluster: &mut Cluster, nth: usize| -> u64 {
        tell(&mut cluster.members[nth].connection, &format!("CLUSTER COUNTKEYSINSLOT {slot}"))
    };
    assert_eq!(keys(&mut cluster, from), 0);
    assert!(keys(&mut cluster, to) >= 3, "two links and a state");
}

/// Asks until three answers in a row are missing.
async fn misses_answers(node: &Node, terms: &Terms) {
    eventually("the node notices that a shard is away", || async {
        let _unanswered = node.ask(terms).await;
        (node.metrics.limits.lanes_down.get() == 1).then_some(())
    })
    .await;
}

/// Asks for keys of a shard that is away and of the others, for so long; the latter keep their connection and are leased.
async fn others_go_on(nodes: &[Node], away: &Terms, others: &[Terms], time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for node in nodes {
            let _unanswered = node.ask(away).await;
            for other in others {
                let _leased_unless_the_machine_is_busy = node.ask(other).await;
            }
            assert_eq!(node.metrics.limits.redis_connected.get(), 1, "no other conversation is taken along");
        }
        sleep(Duration::from_millis(5)).await;
    }
    for node in nodes {
        for other in others {
            leases_again(node, other).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shard_of_a_cluster_fails_alone_whether_its_master_hangs_or_dies() {
    let mut cluster = Cluster::start();
    cluster.serve_in_part();
    let settings = limits_redis(&cluster.urls(), RedisKind::Cluster);
    let on = |nth: usize, cluster: &mut Cluster| {
        let name = |key| format!("{PREFIX}:{{b{}}}:any", group_of(key));
        let key = (1_000..).step_by(2).find(|key| cluster.master_of(&name(*key)) == nth).unwrap();
        let policy = Policy { strict: true, on_redis_down: OnRedisDown::Closed, ..bucket(6_000_000, 100_000) };
        terms(key, policy).fleet(3)
    };
    let [away, one, other] = [0, 1, 2].map(|nth| on(nth, &mut cluster));
    let others = [one, other];
    let mut nodes = vec![Node::start_on(settings.clone()).await];
    for terms in [&away, &one, &other] {
        leases_again(&nodes[0], terms).await;
    }

    // It still takes connections, and answers nothing.
    send(cluster.members[0].server.child(), Signal::STOP);
    misses_answers(&nodes[0], &away).await;
    others_go_on(&nodes, &away, &others, Duration::from_millis(1_500)).await;
    leases_again(&nodes[0], &away).await;

    // Now nobody is left who could take its place.
    cluster.members[MASTERS].server.kill();
    nodes.push(Node::start_on(settings).await);
    for node in &nodes {
        misses_answers(node, &away).await;
    }
    others_go_on(&nodes, &away, &others, Duration::from_secs(2)).await;
}

/// A certificate for the loopback that signs for itself.
struct Certificate {
    directory: TempDir,
}

impl Certificate {
    fn make() -> Certificate {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = Certificate { directory };
        std::fs::write(certificate.file("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(certificate.file("key.pem"), made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn trusted_in(&self, settings: LimitsRedis) -> LimitsRedis {
        LimitsRedis { ca_file: Some(self.file("ca.pem")), ..settings }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rediss_is_spoken_to_whom_the_operator_trusts_and_to_nobody_else() {
    let (certificate, directory) = (Certificate::make(), tempfile::tempdir().unwrap());
    let (ca, key) = (certificate.file("ca.pem"), certificate.file("key.pem"));
    let encryption = Encryption { certificate: &ca, key: &key };
    let server = LoopbackRedis::start_encrypted(directory.path(), LoopbackRole::Alone, encryption).unwrap();
    let settings = limits_redis(&[server.tls_url()], RedisKind::Single);
    let node = Node::start_on(certificate.trusted_in(settings.clone())).await;
    eventually("Redis decides", || async { node.ask(&strict(14)).await.ok() }).await;
    let patience = Patience { connect: Duration::from_secs(5), response: Duration::from_secs(5) };
    let fault = Connection::open(&settings, patience).await.err().unwrap();
    assert!(!fault.to_string().contains("127.0.0.1"), "{fault}");
    let other = Certificate::make().trusted_in(settings.clone());
    assert!(Connection::open(&other, patience).await.is_err(), "another authority's word is none");
    let missing = LimitsRedis { ca_file: Some(PathBuf::from("/nonexistent/ca.pem")), ..settings };
    let fault = Connection::open(&missing, patience).await.err().unwrap();
    assert!(fault.to_string().contains("redis_ca_file"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_their_master_are_reached_through_tls_alike() {
    let certificate = Certificate::make();
    let (ca, key) = (certificate.file("ca.pem"), certificate.file("key.pem"));
    let redis = Watched::start(Some(Encryption { certificate: &ca, key: &key }));
    let settings = certificate.trusted_in(limits_redis(&[redis.sentinel.tls_url()], sentinel()));
    let node = Node::start_on(settings).await;
    eventually("the master decides", || async { node.ask(&strict(14)).await.ok() }).await;
    let clients: String = tell(&mut super::rig::connect(&redis.master.url()), "INFO commandstats");
    assert!(clients.contains("cmdstat_fcall:"), "{clients}");
}
