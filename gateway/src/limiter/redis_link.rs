//! The way to Redis, whichever kind it is: keeps one connection, puts the library of functions there, carries calls. A call never
//! waits for a connection to be made, and whoever calls brings the time-out. Refuses to know what a call says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::settings::Secret;
use limits::script::{self, Call};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo as _, RedisError};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::clock::Backoff;
use crate::metrics::Metrics;
use crate::settings::{LimitsRedis, RedisKind};

/// How long a connection may take, with everything that comes before the first call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond every caller's own patience: it only keeps a call from staying for ever.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Waits between failed attempts to connect.
const RECONNECT_WAIT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// What Redis says when it has lost the library, after a restart without persistence or on a new master.
const FUNCTION_NOT_FOUND: &str = "Function not found";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkFault {
    #[error("there is no connection")]
    NotConnected,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

pub(super) struct RedisLink {
    settings: LimitsRedis,
    line: Mutex<Option<Line>>,
    /// The line was given up.
    given_up: Notify,
    metrics: Arc<Metrics>,
}

/// A connection under a number, so that only whoever used it can give it up.
#[derive(Clone)]
struct Line {
    number: u64,
    connection: Connection,
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisLink {
    pub(super) fn new(settings: LimitsRedis, metrics: Arc<Metrics>) -> RedisLink {
        RedisLink { settings, line: Mutex::default(), given_up: Notify::new(), metrics }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.settings.prefix
    }

    /// Connects, and again whenever the connection is given up, until told to stop.
    pub(super) async fn keep_connected(&self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.connect_for_ever() => {}
        }
    }

    /// `FCALL`s a function of the library. Loads the library where Redis has none, once.
    pub(super) async fn call(&self, function: &str, call: &Call) -> Result<Vec<u8>, LinkFault> {
        let mut command = redis::cmd("FCALL");
        command.arg(function).arg(call.keys.len()).arg(&call.keys).arg(call.argument.as_slice());
        match self.query(&command).await {
            Err(LinkFault::Redis(error)) if is_function_missing(&error) => {
                self.query::<String>(&load_library()).await?;
                self.query(&command).await
            }
            answer => answer,
        }
    }

    /// Asks the control plane to put lost counts back: it reads this set.
    pub(super) async fn tell_unseeded(&self, members: &[String]) -> Result<(), LinkFault> {
        let mut command = redis::cmd("SADD");
        command.arg(format!("{}:unseeded", self.settings.prefix)).arg(members);
        self.query::<u64>(&command).await.map(|_| ())
    }

    /// The connection answers nothing any more, whatever it says of itself.
    pub(super) fn give_up(&self) {
        let number = self.lock().as_ref().map(|line| line.number);
        if let Some(number) = number {
            self.give_up_line(number);
        }
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkFault> {
        let Some(mut line) = self.lock().clone() else { return Err(LinkFault::NotConnected) };
        let answer = line.connection.query(command).await;
        if let Err(error) = &answer
            && must_reconnect(error)
        {
            self.give_up_line(line.number);
        }
        Ok(answer?)
    }

    fn give_up_line(&self, number: u64) {
        let mut line = self.lock();
        if line.as_ref().is_some_and(|line| line.number == number) {
            *line = None;
            self.given_up.notify_one();
        }
    }

    async fn connect_for_ever(&self) {
        let mut backoff = Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX);
        let (mut number, mut is_told) = (0, false);
        loop {
            match timeout(CONNECT_TIMEOUT, self.connect()).await {
                Ok(Ok(connection)) => {
                    number += 1;
                    *self.lock() = Some(Line { number, connection });
                    self.metrics.limits.redis_connected.set(1);
                    info!("limits are counted in Redis");
                    (is_told, backoff) = (false, Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX));
                    self.given_up.notified().await;
                    self.metrics.limits.redis_connected.set(0);
                }
                failed => {
                    // Once for each outage. The error's own words may quote the URL, and with it a password.
                    if !std::mem::replace(&mut is_told, true) {
                        let kind = failed.ok().and_then(Result::err).map(|error| error.kind());
                        warn!(?kind, "Redis takes no limits; policies decide what a gateway allows by itself");
                    }
                }
            }
            sleep(backoff.next_wait()).await;
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        let nodes: Vec<&str> = self.settings.urls.iter().map(Secret::expose).collect();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let first = nodes.first().copied().unwrap_or_default();
        let mut connection = match &self.settings.kind {
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
                    .retries(1)
                    .build()?;
                Connection::Cluster(client.get_async_connection().await?)
            }
        };
        connection.query::<String>(&load_library()).await?;
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In a cluster the client sends it to every master.
fn load_library() -> Cmd {
    let mut command = redis::cmd("FUNCTION");
    command.arg("LOAD").arg("REPLACE").arg(script::library());
    command
}

fn is_function_missing(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains(FUNCTION_NOT_FOUND))
}

/// A demoted master refuses writes for as long as one stays with it.
fn must_reconnect(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_unrecoverable_error() || error.code() == Some("READONLY")
}

impl Connection {
    async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        match self {
            Connection::One(one) => command.query_async(one).await,
            Connection::Cluster(cluster) => command.query_async(cluster).await,
        }
    }
}
