//! A Redis, its replica and a Sentinel that watches the first through a proxy, so that a test can part it from the others while
//! its clients still reach it: what they write then is lost when the replica takes over.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use servers::{LoopbackRedis, LoopbackRole};

use crate::harness::fault_proxy::{FaultProxy, Flow, Target};
use crate::harness::{ask_redis, eventually};

const MASTER_NAME: &str = "limits";

pub struct RedisWithSentinel {
    pub master: LoopbackRedis,
    pub replica: LoopbackRedis,
    sentinel: LoopbackRedis,
    /// What replica and Sentinel take for the master.
    inner: FaultProxy,
}

impl RedisWithSentinel {
    pub async fn start(dir: &Path) -> RedisWithSentinel {
        let start = |name: &str, role| LoopbackRedis::start(&dir.join(name), role).unwrap();
        let master = start("master", LoopbackRole::Alone);
        let inner = FaultProxy::start(Target::Tcp(address(&master))).await;
        let seen = inner.address.port();
        let replica = start("replica", LoopbackRole::Replica { of: seen });
        eventually("the replica follows", || async {
            replication(&replica).await.filter(|text| text.contains("master_link_status:up")).map(drop)
        })
        .await;
        let lines = format!(
            "sentinel monitor {MASTER_NAME} 127.0.0.1 {seen} 1\nsentinel down-after-milliseconds {MASTER_NAME} 500\n\
             sentinel failover-timeout {MASTER_NAME} 10000"
        );
        let sentinel = start("sentinel", LoopbackRole::Sentinel { lines: &lines });
        let port = replica.port().to_string();
        eventually("the Sentinel knows the replica", || async {
            let known: Vec<Vec<String>> =
                ask_redis(&sentinel.url(), &["SENTINEL", "REPLICAS", MASTER_NAME]).await.ok()?;
            known.iter().flatten().any(|word| *word == port).then_some(())
        })
        .await;
        RedisWithSentinel { master, replica, sentinel, inner }
    }

    /// Parts the master from replica and Sentinel; its clients still reach it.
    pub fn part(&self) {
        self.inner.set(Flow::Silent);
    }

    /// Waits until the replica is master by the Sentinel's word, and ends the former one.
    pub async fn wait_for_failover(&mut self) {
        let port = self.replica.port().to_string();
        eventually("the Sentinel makes the replica master", || async {
            let named = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
            let (_, named): (String, String) = ask_redis(&self.sentinel.url(), &named).await.ok()?;
            let is_master = replication(&self.replica).await?.contains("role:master");
            (is_master && named == port).then_some(())
        })
        .await;
        self.master.kill();
    }
}

pub fn address(redis: &LoopbackRedis) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, redis.port()).into()
}

async fn replication(redis: &LoopbackRedis) -> Option<String> {
    ask_redis(&redis.url(), &["INFO", "replication"]).await.ok()
}
