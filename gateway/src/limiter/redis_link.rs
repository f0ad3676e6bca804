//! The way to Redis, whichever kind it is: keeps one connection, puts the library of functions there, carries calls. A call never
//! waits for a connection to be made, and whoever calls brings the time-out. Refuses to know what a call says.
//!
//! In a cluster each shard fails alone: whoever misses its answers puts the connection in doubt, and it is replaced only by one that
//! has reached that shard.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use limits::script::{self, Call, Lane};
use limits_redis::{Connection, LimitsRedis, OpenFault, Patience, is_line_dead};
use redis::RedisError;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::clock::Backoff;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::metrics::status::PartState;

/// For a connection; and for an answer, which is beyond every caller's own patience: it only keeps a call from staying for ever.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), response: Duration::from_secs(2) };
/// Waits between failed attempts to connect.
const RECONNECT_WAIT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// Between attempts to reach a silent part of a cluster by another connection.
const RENEW_WAIT: Duration = Duration::from_secs(1);

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
    state: Mutex<State>,
    /// The line was given up or put in doubt.
    doubted: Notify,
    /// A connection was made, or could not be.
    is_tried: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    line: Option<Line>,
    /// A group of keys for which a cluster's line gets no answers.
    silent: Option<u16>,
    /// Of the last line.
    number: u64,
}

/// A connection under a number, so that only whoever used it can give it up.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) number: u64,
    connection: Connection,
}

impl RedisLink {
    pub(super) fn new(settings: LimitsRedis, metrics: Arc<Metrics>) -> RedisLink {
        RedisLink {
            settings,
            state: Mutex::default(),
            doubted: Notify::new(),
            is_tried: watch::Sender::new(false),
            metrics,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.settings.prefix
    }

    /// What a call goes over.
    pub(super) fn line(&self) -> Result<Line, LinkFault> {
        self.lock().line.clone().ok_or(LinkFault::NotConnected)
    }

    /// `FCALL`s a function of the library.
    pub(super) async fn call(&self, line: &mut Line, function: &str, call: &Call) -> Result<Vec<u8>, LinkFault> {
        self.judged(line.number, line.connection.call(function, call).await)
    }

    /// Asks the control plane to put lost counts back: it reads this set.
    pub(super) async fn tell_unseeded(&self, members: &[String]) -> Result<(), LinkFault> {
        let mut line = self.line()?;
        let mut command = redis::cmd("SADD");
        command.arg(self.settings.unseeded_key()).arg(members);
        self.judged(line.number, line.connection.query::<u64>(&command).await).map(|_| ())
    }

    /// The line with this number answers nothing any more of what these keys ask, whatever it says of itself.
    pub(super) fn doubt(&self, number: u64, keys: Lane) {
        let mut state = self.lock();
        if state.line.as_ref().is_none_or(|line| line.number != number) {
            return;
        }
        match keys {
            Lane::Whole => state.line = None,
            Lane::Group(group) => state.silent = Some(group),
        }
        self.doubted.notify_one();
    }

    /// An error of one node of a cluster says nothing about the others, and the cluster's own client mends it.
    fn judged<T>(&self, number: u64, answer: Result<T, RedisError>) -> Result<T, LinkFault> {
        if !self.settings.is_grouped() && answer.as_ref().is_err_and(is_line_dead) {
            self.doubt(number, Lane::Whole);
        }
        Ok(answer?)
    }

    /// Connects, and again whenever the connection is given up or in doubt. For ever: whoever runs it ends it.
    pub(super) async fn keep_connected(&self) {
        let mut backoff = Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX);
        let mut is_told = false;
        loop {
            match self.renew().await {
                Ok(()) => {
                    if self.is_connected(true) {
                        info!("limits are counted in Redis");
                    }
                    (is_told, backoff) = (false, Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX));
                    if self.until_doubted().await {
                        sleep(RENEW_WAIT).await;
                        continue;
                    }
                    self.is_connected(false);
                }
                Err(fault) => {
                    self.is_connected(false);
                    // Once for each outage.
                    if !std::mem::replace(&mut is_told, true) {
                        warn!(%fault, "Redis takes no limits; policies decide what a gateway allows by itself");
                    }
                }
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Until the first attempt to connect has ended: what is said before is said to nobody, and missed for a whole time-out.
    pub(super) async fn wait_tried(&self, wait_max: Duration) {
        let mut is_tried = self.is_tried.subscribe();
        let _late = timeout(wait_max, is_tried.wait_for(|tried| *tried)).await;
    }

    /// Whether there still is a line, of which a part is silent.
    async fn until_doubted(&self) -> bool {
        loop {
            let (has_line, is_silent) = {
                let state = self.lock();
                (state.line.is_some(), state.silent.is_some())
            };
            if !has_line || is_silent {
                return has_line;
            }
            self.doubted.notified().await;
        }
    }

    /// Another line in place of the present one; but where that one is silent for some keys only, no other that is so as well.
    async fn renew(&self) -> Result<(), OpenFault> {
        // Where a part of it may still answer, whoever has a line keeps it until there is another one.
        let mut connection = self.connect().await?;
        let silent = self.lock().silent.take();
        if let Some(group) = silent
            && !self.reaches(&mut connection, group).await
        {
            return Ok(());
        }
        let mut state = self.lock();
        state.number += 1;
        state.silent = None;
        state.line = Some(Line { number: state.number, connection });
        Ok(())
    }

    /// Whether somebody answers for a group of keys.
    async fn reaches(&self, connection: &mut Connection, group: u16) -> bool {
        let mut command = redis::cmd("GET");
        command.arg(script::probe_key(self.prefix(), group));
        let asked = connection.query::<Option<Vec<u8>>>(&command);
        matches!(timeout(PATIENCE.response, asked).await, Ok(Ok(_)))
    }

    /// Whether that is news.
    fn is_connected(&self, is_connected: bool) -> bool {
        self.is_tried.send_replace(true);
        let before = self.metrics.limits.redis_connected.get();
        self.metrics.limits.redis_connected.set(i64::from(is_connected));
        self.metrics.status.set_limits_redis(if is_connected { PartState::Up } else { PartState::Down });
        before != i64::from(is_connected)
    }

    async fn connect(&self) -> Result<Connection, OpenFault> {
        let mut connection = Connection::open(&self.settings, PATIENCE).await?;
        connection.load_library().await?;
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
