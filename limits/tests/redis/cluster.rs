//! Three masters and three replicas on the loopback: every group is served, and a slot that moves is followed with its state.

use limits::policy::Algorithm;
use limits::script::{EXCHANGE, GROUPS, LIBRARY, Lane, group_of};
use limits::terms::UNITS;
use limits::wire::{Ask, Verdict};
use redis::cluster::ClusterClient;
use redis::{Connection, RedisError};
use servers::{LoopbackRedis, LoopbackRole};

use crate::node::{Node, ask, connect, eventually, fcall, load, tell};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

struct Member {
    server: LoopbackRedis,
    connection: Connection,
    id: String,
}

struct Cluster {
    members: Vec<Member>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let dir = tempfile::Builder::new().prefix("limits-cluster").tempdir_in("/tmp").unwrap();
        let members = (0..2 * MASTERS).map(|nth| {
            let role = LoopbackRole::Member { node_timeout_ms: 2_000 };
            let server = LoopbackRedis::start(&dir.path().join(nth.to_string()), role).unwrap();
            let mut connection = connect(&server.url());
            let id = tell(&mut connection, "CLUSTER MYID");
            Member { server, connection, id }
        });
        let mut cluster = Cluster { members: members.collect(), _dir: dir };
        cluster.form();
        cluster
    }

    fn form(&mut self) {
        let (port, bus) = (self.members[0].server.port(), self.members[0].server.bus_port());
        for (nth, member) in self.members.iter_mut().enumerate() {
            tell::<()>(&mut member.connection, &format!("CLUSTER SET-CONFIG-EPOCH {}", nth + 1));
            if nth < MASTERS {
                let (first, last) = (nth * SLOTS / MASTERS, (nth + 1) * SLOTS / MASTERS - 1);
                tell::<()>(&mut member.connection, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            }
            if nth > 0 {
                tell::<()>(&mut member.connection, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
            }
        }
        self.everybody("knows all", "CLUSTER INFO", "cluster_known_nodes:6\r\n");
        let masters: Vec<String> = self.members.iter().take(MASTERS).map(|member| member.id.clone()).collect();
        for (member, master) in self.members.iter_mut().skip(MASTERS).zip(masters) {
            eventually("the replica knows its master", || {
                let replicate = redis::cmd("CLUSTER").arg("REPLICATE").arg(&master).query::<()>(&mut member.connection);
                replicate.is_ok()
            });
            eventually("the replica follows", || {
                tell::<String>(&mut member.connection, "INFO replication").contains("master_link_status:up")
            });
        }
        self.everybody("is ready", "CLUSTER INFO", "cluster_state:ok\r\n");
    }

    fn everybody(&mut self, what: &str, words: &str, said: &str) {
        for member in &mut self.members {
            eventually(what, || tell::<String>(&mut member.connection, words).contains(said));
        }
    }

    /// Moves one slot and what lies in it, as an operator's resharding does.
    fn reshard(&mut self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.members[from].id.clone(), self.members[to].id.clone());
        let port = self.members[to].server.port();
        tell::<()>(&mut self.members[to].connection, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
        let giver = &mut self.members[from].connection;
        tell::<()>(giver, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}"));
        let keys: Vec<String> = tell(giver, &format!("CLUSTER GETKEYSINSLOT {slot} 100"));
        assert!(keys.len() >= 2, "a link and a state: {keys:?}");
        tell::<()>(giver, &format!("MIGRATE 127.0.0.1 {port} {} 0 5000 KEYS {}", "", keys.join(" ")));
        for nth in [to, from] {
            tell::<()>(&mut self.members[nth].connection, &format!("CLUSTER SETSLOT {slot} NODE {target}"));
        }
    }
}

/// A limit key of every group.
fn keys_of_groups() -> Vec<u64> {
    let mut keys = vec![None; usize::from(GROUPS)];
    for key in (0..).step_by(2) {
        keys[usize::from(group_of(key))].get_or_insert(key);
        if key % 256 == 0 && keys.iter().all(Option::is_some) {
            break;
        }
    }
    keys.into_iter().flatten().collect()
}

fn terms(key: u64) -> Ask {
    let kinds = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow];
    let algorithm = kinds[usize::from(group_of(key)) % kinds.len()];
    let burst = if algorithm == Algorithm::TokenBucket { 100 } else { 600 };
    Ask { algorithm, burst, debt: 10, want: 5, ..ask(key) }
}

#[test]
fn a_cluster_serves_every_group_and_a_slot_that_moves_takes_its_state_along() {
    let mut cluster = Cluster::start();
    let urls: Vec<String> = cluster.members.iter().map(|member| member.server.url()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(ClusterClient::new(urls).unwrap().get_async_connection()).unwrap();
    // To every master; replicas get it from theirs.
    runtime.block_on(load().query_async::<()>(&mut client)).unwrap();

    let mut last = None;
    for key in keys_of_groups() {
        let mut node = Node::new(Lane::Group(group_of(key)));
        let mut say = |asks: Vec<Ask>| {
            let call = node.next(asks);
            let bytes: Vec<u8> = runtime.block_on(fcall(EXCHANGE, &call).query_async(&mut client)).unwrap();
            node.hear(&bytes)
        };
        assert_eq!(say(Vec::new()).verdict, Verdict::Admitted { epoch: 1 });
        let reply = say(vec![terms(key)]);
        assert_eq!((reply.verdict, reply.grants[0].tokens), (Verdict::Done, 5), "{key}");
        last = Some((key, node));
    }
    for member in &mut cluster.members {
        let functions: String = format!("{:?}", tell::<redis::Value>(&mut member.connection, "FUNCTION LIST"));
        assert!(functions.contains(LIBRARY), "masters and replicas have the library");
    }
    for member in cluster.members.iter_mut().take(MASTERS) {
        let calls: String = tell(&mut member.connection, "INFO commandstats");
        assert!(calls.contains("cmdstat_fcall:"), "every master has its part");
    }

    let (key, mut node) = last.unwrap();
    let slot: u16 =
        tell(&mut cluster.members[0].connection, &format!("CLUSTER KEYSLOT {}", node.next(Vec::new()).keys[0]));
    let from = usize::from(slot) * MASTERS / SLOTS;
    cluster.reshard(slot, from, (from + 1) % MASTERS);
    let call = node.next(vec![Ask { debt: 7, ..terms(key) }]);
    let moved: Result<Vec<u8>, RedisError> = fcall(EXCHANGE, &call).query(&mut cluster.members[from].connection);
    assert_eq!(moved.unwrap_err().code(), Some("MOVED"));
    let bytes: Vec<u8> = runtime.block_on(fcall(EXCHANGE, &call).query_async(&mut client)).unwrap();
    let reply = node.hear(&bytes);
    let grant = reply.grants[0];
    let full = i64::from(terms(key).burst);
    assert_eq!((reply.verdict, grant.tokens), (Verdict::Done, 5));
    assert!(grant.level < (full - 10 - 5 - 7) * UNITS, "what was debited before the move counts: {}", grant.level);
}
