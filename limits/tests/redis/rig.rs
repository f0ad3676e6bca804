//! Deployments of Redis on the loopback, for tests of this crate and of the gateway: a cluster of six, and a master that a Sentinel
//! watches. Every server is a child of the test, in a folder that goes with it.

use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue};
use servers::{Encryption, LoopbackRedis, LoopbackRole};

/// By which a Sentinel knows the master.
pub(crate) const SERVICE: &str = "limits";
pub(crate) const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

pub(crate) struct Member {
    pub(crate) server: LoopbackRedis,
    pub(crate) connection: Connection,
    id: String,
}

/// Three masters and a replica of each.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
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

    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.server.url()).collect()
    }

    /// What lies on the other masters is served while one is away.
    pub(crate) fn serve_in_part(&mut self) {
        for member in &mut self.members {
            tell::<()>(&mut member.connection, "CONFIG SET cluster-require-full-coverage no");
        }
    }

    pub(crate) fn slot_of(&mut self, key: &str) -> u16 {
        tell(&mut self.members[0].connection, &format!("CLUSTER KEYSLOT {key}"))
    }

    /// On which master a key lies, as long as nothing has moved.
    pub(crate) fn master_of(&mut self, key: &str) -> usize {
        usize::from(self.slot_of(key)) * MASTERS / SLOTS
    }

    /// Moves the slot of a key to another master; from where, and where to.
    pub(crate) fn move_slot_of(&mut self, key: &str) -> (usize, usize) {
        let (slot, from) = (self.slot_of(key), self.master_of(key));
        let to = (from + 1) % MASTERS;
        self.reshard(slot, from, to);
        (from, to)
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

/// A master, its replica, and the Sentinel that will promote it.
pub(crate) struct Watched {
    pub(crate) master: LoopbackRedis,
    pub(crate) replica: LoopbackRedis,
    pub(crate) sentinel: LoopbackRedis,
    _dir: tempfile::TempDir,
}

impl Watched {
    /// Once the replica follows and the Sentinel knows both. With an encryption they talk to each other by it alone.
    pub(crate) fn start(encryption: Option<Encryption<'_>>) -> Watched {
        let dir = tempfile::Builder::new().prefix("limits-sentinel").tempdir_in("/tmp").unwrap();
        let start = |name: &str, role| {
            let place = dir.path().join(name);
            match encryption {
                Some(encryption) => LoopbackRedis::start_encrypted(&place, role, encryption).unwrap(),
                None => LoopbackRedis::start(&place, role).unwrap(),
            }
        };
        let port = |server: &LoopbackRedis| if encryption.is_some() { server.tls_port() } else { server.port() };
        let master = start("master", LoopbackRole::Alone);
        let replica = start("replica", LoopbackRole::Replica { of: port(&master) });
        eventually("the replica follows", || {
            tell::<String>(&mut connect(&replica.url()), "INFO replication").contains("master_link_status:up")
        });
        let watch = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 5000",
            port(&master)
        );
        let sentinel = start("sentinel", LoopbackRole::Sentinel { lines: &watch });
        let mut asked = connect(&sentinel.url());
        eventually("Sentinel knows the replica", || {
            let known: Vec<Vec<String>> = tell(&mut asked, &format!("SENTINEL REPLICAS {SERVICE}"));
            known.iter().flatten().any(|word| *word == port(&replica).to_string())
        });
        Watched { master, replica, sentinel, _dir: dir }
    }
}

/// What a server says of its replication.
pub(crate) fn role(server: &LoopbackRedis) -> Option<String> {
    let mut connection = redis::Client::open(server.url()).ok()?.get_connection().ok()?;
    redis::cmd("INFO").arg("replication").query(&mut connection).ok()
}

pub(crate) fn connect(url: &str) -> Connection {
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

/// One command, its words parted by spaces.
pub(crate) fn tell<T: FromRedisValue>(connection: &mut Connection, words: &str) -> T {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query(connection).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Looks again until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
