//! What is asked of Redis: since when it has been whole, which counts are missed, to put one back, and to hold one against
//! another. Decides nothing about usage, and keeps no state but its connection.

use std::time::Duration;

use futures::future::try_join_all;
use limits::script::{self, MEND, Mend, Mended, SEED};
use limits_redis::{Connection, LimitsRedis, OpenFault, Patience};
use redis::{Cmd, FromRedisValue, RedisError};

use crate::store::quota::UsedInPeriod;

/// How long a connection may take, and an answer.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), response: Duration::from_secs(5) };
/// After Redis has lost everything, what was admitted before has to be in Postgres first: batches of a second, sent again after
/// two.
const SETTLE_S: u64 = 3;

pub(crate) struct Desk {
    redis: LimitsRedis,
    connection: Option<Connection>,
}

impl Desk {
    pub(crate) fn new(redis: LimitsRedis) -> Desk {
        Desk { redis, connection: None }
    }

    /// Anew: a sentinel may know another master by now.
    pub(crate) async fn connect(&mut self) -> Result<(), OpenFault> {
        self.connection = Some(Connection::open(&self.redis, PATIENCE).await?);
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
        let names: Vec<Vec<u8>> = self.ask(redis::cmd("SPOP").arg(self.redis.unseeded_key()).arg(count)).await?;
        Ok(names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    pub(super) async fn put_back(&mut self, names: &[String]) -> Result<(), RedisError> {
        self.ask::<u64>(redis::cmd("SADD").arg(self.redis.unseeded_key()).arg(names)).await.map(|_| ())
    }

    /// Sets the counts that are absent; answers how many were.
    pub(crate) async fn seed(&mut self, used: &[UsedInPeriod]) -> Result<u64, RedisError> {
        let mut seeded = 0;
        for one in used {
            let (Ok(meter), Ok(period)) = (u64::try_from(one.subscription), u32::try_from(one.period)) else {
                continue;
            };
            let used = u64::try_from(one.used).unwrap_or(0);
            let call = script::seed(&self.redis.prefix, meter * 2, period, used);
            seeded += self.line()?.call::<u64>(SEED, &call).await?;
        }
        Ok(seeded)
    }

    /// Holds the counts of subscriptions' live requests against others, all in one go; in the same order, `None` where Redis has
    /// none of this period. The first goes ahead, so that a Redis that has lost the library gets it once.
    pub(crate) async fn mend(&mut self, asks: &[(u64, Mend)]) -> Result<Vec<Option<Mended>>, RedisError> {
        let Some((first, rest)) = asks.split_first() else { return Ok(Vec::new()) };
        let (line, prefix) = (self.line()?.clone(), &self.redis.prefix);
        let tell = |(subscription, mend): &(u64, Mend)| {
            let (mut line, call) = (line.clone(), script::mend(prefix, subscription * 2, *mend));
            async move {
                let answer: Vec<u8> = line.call(MEND, &call).await?;
                script::read_mended(&answer).map_err(|error| {
                    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "mend", error.to_string()))
                })
            }
        };
        let mut told = vec![tell(first).await?];
        told.extend(try_join_all(rest.iter().map(tell)).await?);
        Ok(told)
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        self.line()?.query(command).await
    }

    fn line(&mut self) -> Result<&mut Connection, RedisError> {
        self.connection.as_mut().ok_or_else(|| RedisError::from((redis::ErrorKind::Io, "not connected")))
    }
}
