//! The way to Redis, whichever kind it is: keeps one connection, puts the library of functions there, carries calls. A call never
//! waits for a connection to be made, and whoever calls brings the time-out. Refuses to know what a call says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use limits::script::Call;
use limits_redis::{Connection, LimitsRedis, OpenFault, Patience, is_line_dead};
use redis::RedisError;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::clock::Backoff;
use crate::metrics::Metrics;
use crate::metrics::status::PartState;

/// For a connection; and for an answer, which is beyond every caller's own patience: it only keeps a call from staying for ever.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), response: Duration::from_secs(2) };
/// Waits between failed attempts to connect.
const RECONNECT_WAIT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);

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
    /// A connection was made, or could not be.
    is_tried: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

/// A connection under a number, so that only whoever used it can give it up.
#[derive(Clone)]
struct Line {
    number: u64,
    connection: Connection,
}

impl RedisLink {
    pub(super) fn new(settings: LimitsRedis, metrics: Arc<Metrics>) -> RedisLink {
        RedisLink {
            settings,
            line: Mutex::default(),
            given_up: Notify::new(),
            is_tried: watch::Sender::new(false),
            metrics,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.settings.prefix
    }

    /// `FCALL`s a function of the library.
    pub(super) async fn call(&self, function: &str, call: &Call) -> Result<Vec<u8>, LinkFault> {
        let mut line = self.line()?;
        self.judged(line.number, line.connection.call(function, call).await)
    }

    /// Asks the control plane to put lost counts back: it reads this set.
    pub(super) async fn tell_unseeded(&self, members: &[String]) -> Result<(), LinkFault> {
        let mut line = self.line()?;
        let mut command = redis::cmd("SADD");
        command.arg(self.settings.unseeded_key()).arg(members);
        self.judged(line.number, line.connection.query::<u64>(&command).await).map(|_| ())
    }

    /// The connection answers nothing any more, whatever it says of itself.
    pub(super) fn give_up(&self) {
        let number = self.lock().as_ref().map(|line| line.number);
        if let Some(number) = number {
            self.give_up_line(number);
        }
    }

    fn line(&self) -> Result<Line, LinkFault> {
        self.lock().clone().ok_or(LinkFault::NotConnected)
    }

    fn judged<T>(&self, number: u64, answer: Result<T, RedisError>) -> Result<T, LinkFault> {
        if answer.as_ref().is_err_and(is_line_dead) {
            self.give_up_line(number);
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

    /// Connects, and again whenever the connection is given up. For ever: whoever runs it ends it.
    pub(super) async fn keep_connected(&self) {
        let mut backoff = Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX);
        let (mut number, mut is_told) = (0, false);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    number += 1;
                    *self.lock() = Some(Line { number, connection });
                    self.is_connected(true);
                    info!("limits are counted in Redis");
                    (is_told, backoff) = (false, Backoff::new(RECONNECT_WAIT_FIRST, RECONNECT_WAIT_MAX));
                    self.given_up.notified().await;
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

    fn is_connected(&self, is_connected: bool) {
        self.is_tried.send_replace(true);
        self.metrics.limits.redis_connected.set(i64::from(is_connected));
        self.metrics.status.set_limits_redis(if is_connected { PartState::Up } else { PartState::Down });
    }

    async fn connect(&self) -> Result<Connection, OpenFault> {
        let mut connection = Connection::open(&self.settings, PATIENCE).await?;
        connection.load_library().await?;
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
