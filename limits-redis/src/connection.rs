//! A connection to Redis, whichever kind it is, and the library of functions there. Every wait is the caller's to choose. Refuses
//! to connect again by itself: whoever uses it knows what was under way.

use std::time::Duration;

use ::settings::Secret;
use limits::script::{self, Call};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _,
    RedisError, RetryMethod, TlsCertificates, TlsMode,
};
use tokio::time::timeout;

use crate::settings::{LimitsRedis, RedisKind};

/// What Redis says when it has lost the library, after a restart without persistence or on a new master.
const FUNCTION_NOT_FOUND: &str = "Function not found";
/// A slot that moved is followed once for each call; one that moves again meanwhile is an answer that is missing.
const CLUSTER_RETRIES: u32 = 1;

/// A node of a cluster that says nothing is passed over after this part of the time that a connection may take: each is waited for
/// up to six times, with what is asked of it.
const CLUSTER_NODE_PART: u32 = 8;

/// How long one waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection, with everything that comes before it.
    pub connect: Duration,
    /// For an answer.
    pub response: Duration,
}

/// Why there is no connection. Tells no more than the kind of a fault: Redis' own words may quote a URL, and with it a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    #[error("no connection within {0:?}")]
    TooLate(Duration),
    #[error("the file that redis_ca_file names cannot be read: {0}")]
    CaFile(std::io::Error),
    #[error("Redis: {:?}", .0.kind())]
    Redis(#[from] RedisError),
}

#[derive(Clone)]
pub enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// To the Redis, to the one that the sentinels take for the master now, or to a cluster as it is now.
    pub async fn open(redis: &LimitsRedis, patience: Patience) -> Result<Connection, OpenFault> {
        timeout(patience.connect, connect(redis, patience)).await.map_err(|_| OpenFault::TooLate(patience.connect))?
    }

    pub async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        match self {
            Connection::One(one) => command.query_async(one).await,
            Connection::Cluster(cluster) => command.query_async(cluster).await,
        }
    }

    /// `FCALL`s a function of the library. Loads the library where Redis has none, once.
    pub async fn call<T: FromRedisValue>(&mut self, function: &str, call: &Call) -> Result<T, RedisError> {
        let mut command = redis::cmd("FCALL");
        command.arg(function).arg(call.keys.len()).arg(&call.keys).arg(call.argument.as_slice());
        match self.query(&command).await {
            Err(error) if error.detail().is_some_and(|detail| detail.contains(FUNCTION_NOT_FOUND)) => {
                self.load_library().await?;
                self.query(&command).await
            }
            answer => answer,
        }
    }

    /// In a cluster it goes to every master; one that is away gets it with the first call that it answers.
    pub async fn load_library(&mut self) -> Result<(), RedisError> {
        let mut command = redis::cmd("FUNCTION");
        command.arg("LOAD").arg("REPLACE").arg(script::library());
        let loaded = self.query::<String>(&command).await;
        match self {
            Connection::Cluster(_) if loaded.as_ref().is_err_and(is_of_one_node) => Ok(()),
            _ => loaded.map(|_| ()),
        }
    }
}

/// Whether nothing more is to be had on the connection that said so. A demoted master refuses writes for as long as one stays
/// with it.
pub fn is_line_dead(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_unrecoverable_error() || error.code() == Some("READONLY")
}

/// A refusal is everybody's; what may be tried again is the trouble of the node that it came from.
fn is_of_one_node(error: &RedisError) -> bool {
    !matches!(error.retry_method(), RetryMethod::NoRetry)
}

async fn connect(redis: &LimitsRedis, patience: Patience) -> Result<Connection, OpenFault> {
    let trusted = trusted(redis).await?;
    let nodes: Vec<&str> = redis.urls.iter().map(Secret::expose).collect();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience.connect))
        .set_response_timeout(Some(patience.response));
    Ok(match &redis.kind {
        RedisKind::Single => {
            let first = nodes.first().copied().unwrap_or_default();
            let client = match trusted {
                Some(trusted) => Client::build_with_tls(first, trusted)?,
                None => Client::open(first)?,
            };
            Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?)
        }
        RedisKind::Sentinel { service } => {
            let mut client = sentinels(&nodes, service, redis.is_encrypted(), trusted)?;
            Connection::One(client.get_async_connection_with_config(&config).await?)
        }
        RedisKind::Cluster => {
            let builder = ClusterClient::builder(nodes)
                .connection_timeout(patience.connect / CLUSTER_NODE_PART)
                .response_timeout(patience.response.min(patience.connect / CLUSTER_NODE_PART))
                .retries(CLUSTER_RETRIES);
            let builder = match trusted {
                Some(trusted) => builder.certs(trusted),
                None => builder,
            };
            Connection::Cluster(builder.build()?.get_async_connection().await?)
        }
    })
}

/// Credentials of the first URL are those of the sentinels and of Redis itself; a database that it names is Redis' alone.
fn sentinels(
    nodes: &[&str],
    service: &str,
    is_encrypted: bool,
    trusted: Option<TlsCertificates>,
) -> Result<SentinelClient, RedisError> {
    let nodes: Vec<ConnectionInfo> =
        nodes.iter().map(|node| (*node).into_connection_info()).collect::<Result<_, RedisError>>()?;
    let addresses: Vec<ConnectionAddr> = nodes.iter().map(|node| node.addr().clone()).collect();
    let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?;
    if let Some(of) = nodes.first().map(ConnectionInfo::redis_settings) {
        builder = builder.set_client_to_redis_db(of.db());
        if let Some(name) = of.username() {
            builder = builder.set_client_to_redis_username(name).set_client_to_sentinel_username(name);
        }
        if let Some(password) = of.password() {
            builder = builder.set_client_to_redis_password(password).set_client_to_sentinel_password(password);
        }
    }
    if is_encrypted {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
    }
    if let Some(trusted) = trusted {
        builder =
            builder.set_client_to_redis_certificates(trusted.clone()).set_client_to_sentinel_certificates(trusted);
    }
    builder.build()
}

/// Read anew for each connection, so that a renewed file needs no restart.
async fn trusted(redis: &LimitsRedis) -> Result<Option<TlsCertificates>, OpenFault> {
    let Some(file) = redis.ca_file.as_ref() else { return Ok(None) };
    let root_cert = tokio::fs::read(file).await.map_err(OpenFault::CaFile)?;
    Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) }))
}
