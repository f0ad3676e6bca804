//! A Redis, its replica and a Sentinel that watches the first through a proxy, so that a test can part it from the others while
//! its clients still reach it: what they write then is lost when the replica takes over.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use servers::{Signal, die_with_parent, send};

use super::fault_proxy::{FaultProxy, Flow, Target};
use super::ports;
use super::wait::eventually;

const MASTER_NAME: &str = "limits";

pub struct RedisWithSentinel {
    pub master: SocketAddr,
    pub replica: SocketAddr,
    sentinel: SocketAddr,
    /// What replica and Sentinel take for the master.
    inner: FaultProxy,
    /// Master, replica, Sentinel.
    children: Vec<Child>,
}

impl RedisWithSentinel {
    pub async fn start(dir: &Path) -> RedisWithSentinel {
        let (master, replica, sentinel) = (ports::free(), ports::free(), ports::free());
        let inner = FaultProxy::start(Target::Tcp(master)).await;
        let seen = inner.address;
        let settings = format!(
            "port {}\nsentinel monitor {MASTER_NAME} {} {} 1\nsentinel down-after-milliseconds {MASTER_NAME} 500\n\
             sentinel failover-timeout {MASTER_NAME} 10000\n",
            sentinel.port(),
            seen.ip(),
            seen.port()
        );
        let mut children = vec![spawn(dir, "master", &["--port", &master.port().to_string()])];
        eventually("the master answers", || ping(master)).await;
        let of = ["--port", &replica.port().to_string(), "--replicaof", "127.0.0.1", &seen.port().to_string()];
        children.push(spawn(dir, "replica", &of));
        eventually("the replica follows", || async {
            info(replica, "replication").await.filter(|text| text.contains("master_link_status:up")).map(drop)
        })
        .await;
        let place = dir.join("sentinel");
        std::fs::create_dir_all(&place).unwrap();
        let file = place.join("sentinel.conf");
        std::fs::write(&file, settings).unwrap();
        children.push(spawn(dir, "sentinel", &[file.to_str().unwrap(), "--sentinel"]));
        let known = format!("port={}", replica.port());
        eventually("the Sentinel knows the replica", || async {
            let replicas = ask(sentinel, &["SENTINEL", "REPLICAS", MASTER_NAME]).await?;
            let text = format!("{replicas:?}");
            (text.contains(&replica.port().to_string()) || text.contains(&known)).then_some(())
        })
        .await;
        RedisWithSentinel { master, replica, sentinel, inner, children }
    }

    /// Parts the master from replica and Sentinel; its clients still reach it.
    pub fn part(&self) {
        self.inner.set(Flow::Silent);
    }

    /// Waits until the replica is master by the Sentinel's word, and ends the former one.
    pub async fn wait_for_failover(&mut self) {
        let port = self.replica.port().to_string();
        eventually("the Sentinel makes the replica master", || async {
            let address = ask(self.sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME]).await?;
            let is_master = info(self.replica, "replication").await?.contains("role:master");
            (is_master && format!("{address:?}").contains(&port)).then_some(())
        })
        .await;
        send(&self.children[0], Signal::KILL);
        let _ = self.children[0].wait();
    }
}

impl Drop for RedisWithSentinel {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(dir: &Path, name: &str, arguments: &[&str]) -> Child {
    let place = dir.join(name);
    std::fs::create_dir_all(&place).unwrap();
    let log = std::fs::File::create(place.join("log")).unwrap();
    let mut command = Command::new("redis-server");
    command.args(arguments);
    if name != "sentinel" {
        command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
    }
    command.arg("--dir").arg(&place).args(["--bind", "127.0.0.1", "--daemonize", "no"]);
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    die_with_parent(&mut command, Signal::KILL);
    command.spawn().unwrap()
}

async fn ping(address: SocketAddr) -> Option<()> {
    ask(address, &["PING"]).await.map(drop)
}

async fn info(address: SocketAddr, section: &str) -> Option<String> {
    match ask(address, &["INFO", section]).await? {
        redis::Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        redis::Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

/// The answer to one command over a connection of its own; `None` where nobody answers.
pub async fn ask(address: SocketAddr, words: &[&str]) -> Option<redis::Value> {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query_async(&mut connection).await.ok()
}
