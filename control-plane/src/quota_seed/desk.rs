//! What is asked of Redis: since when it has been whole, which counts are missed, and to put one back. Decides nothing about
//! usage, and keeps no state but its connection.

use std::time::Duration;

use limits::script::{self, Call, SEED};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo as _, RedisError};
use settings::Secret;

use crate::settings::{LimitsRedis, RedisKind};
use crate::store::quota::UsedInPeriod;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// After Redis has lost everything, what was admitted before has to be in Postgres first: batches of a second, sent again after
/// two.
const SETTLE_S: u64 = 3;
/// What Redis says when it has lost the library.
const FUNCTION_NOT_FOUND: &str = "Function not found";

pub(super) struct Desk {
    redis: LimitsRedis,
    connection: Option<Connection>,
}

enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Desk {
    pub(super) fn new(redis: LimitsRedis) -> Desk {
        Desk { redis, connection: None }
    }

    /// Anew: a sentinel may know another master by now.
    pub(super) async fn connect(&mut self) -> Result<(), RedisError> {
        let nodes: Vec<&str> = self.redis.urls.iter().map(Secret::expose).collect();
        let first = nodes.first().copied().unwrap_or_default();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.connection = Some(match &self.redis.kind {
            RedisKind::Single => {
                Connection::One(Client::open(first)?.get_multiplexed_async_connection_with_config(&config).await?)
            }
            RedisKind::Sentinel { service } => {
                // Credentials in the URLs are those of Redis itself as well.
                let redis = first.into_connection_info()?.redis_settings().clone();
                let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(redis);
                let mut client = SentinelClient::build(nodes, service, Some(node), SentinelServerType::Master)?;
                Connection::One(client.get_async_connection_with_config(&config).await?)
            }
            RedisKind::Cluster => {
                let client = ClusterClient::builder(nodes)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(RESPONSE_TIMEOUT)
                    .build()?;
                Connection::Cluster(client.get_async_connection().await?)
            }
        });
        Ok(())
    }

    /// Whether Redis lost nothing lately. Every control plane reads the same moment, whoever wrote it.
    pub(super) async fn is_settled(&mut self) -> Result<bool, RedisError> {
        let whole_since = format!("{}:whole_since", self.redis.prefix);
        let (now_s, _): (u64, u64) = self.ask(&redis::cmd("TIME")).await?;
        let since_s: Option<u64> = self.ask(redis::cmd("GET").arg(&whole_since)).await?;
        match since_s {
            Some(since_s) => Ok(now_s >= since_s.saturating_add(SETTLE_S) || now_s < since_s),
            None => {
                let () = self.ask(redis::cmd("SET").arg(&whole_since).arg(now_s).arg("NX")).await?;
                Ok(false)
            }
        }
    }

    /// Takes at most `count` names of missed counts off the set.
    pub(super) async fn take(&mut self, count: usize) -> Result<Vec<String>, RedisError> {
        let names: Vec<Vec<u8>> = self.ask(redis::cmd("SPOP").arg(self.unseeded()).arg(count)).await?;
        Ok(names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    pub(super) async fn put_back(&mut self, names: &[String]) -> Result<(), RedisError> {
        self.ask::<u64>(redis::cmd("SADD").arg(self.unseeded()).arg(names)).await.map(|_| ())
    }

    /// Sets the counts that are absent; answers how many were.
    pub(super) async fn seed(&mut self, used: &[UsedInPeriod]) -> Result<u64, RedisError> {
        let mut seeded = 0;
        for one in used {
            let (Ok(meter), Ok(period)) = (u64::try_from(one.subscription), u32::try_from(one.period)) else {
                continue;
            };
            let used = u64::try_from(one.used).unwrap_or(0);
            seeded += self.call(&script::seed(&self.redis.prefix, meter * 2, period, used)).await?;
        }
        Ok(seeded)
    }

    async fn call(&mut self, call: &Call) -> Result<u64, RedisError> {
        let mut command = redis::cmd("FCALL");
        command.arg(SEED).arg(call.keys.len()).arg(&call.keys).arg(call.argument.as_slice());
        match self.ask(&command).await {
            Err(error) if error.detail().is_some_and(|detail| detail.contains(FUNCTION_NOT_FOUND)) => {
                let mut load = redis::cmd("FUNCTION");
                let _name: String = self.ask(load.arg("LOAD").arg("REPLACE").arg(script::library())).await?;
                self.ask(&command).await
            }
            answer => answer,
        }
    }

    fn unseeded(&self) -> String {
        format!("{}:unseeded", self.redis.prefix)
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        match self.connection.as_mut() {
            Some(Connection::One(one)) => command.query_async(one).await,
            Some(Connection::Cluster(cluster)) => command.query_async(cluster).await,
            None => Err(RedisError::from((redis::ErrorKind::Io, "not connected"))),
        }
    }
}
