//! What is due, and who has it: a sorted set in Redis from each job's name to the moment it is due, and a hash of fences. Taking
//! a job moves its moment to the end of a lease; ending it, to the next run. Redis may lose all of it: then every job is due.
//! Without Redis, or while it is away, runs are taken in Postgres instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};
use tokio::sync::Mutex;

use super::Job;
use super::run::RUN_MAX;
use crate::store::{Store, StoreError, jobs};

/// A run that is not renewed for so long is somebody else's.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// For connecting, and for an answer.
const REDIS_WAIT_MAX: Duration = Duration::from_secs(2);

/// Both keys in one slot of a cluster.
const DUE: &str = "{apihub:jobs}:due";
const FENCES: &str = "{apihub:jobs}:fences";

/// Takes the first of these jobs that is due. A fence is a time in milliseconds and still grows when Redis has lost the last.
const TAKE: &str = "
    local t = redis.call('TIME')
    local now = t[1] * 1000 + math.floor(t[2] / 1000)
    for i = 2, #ARGV do
        local due = redis.call('ZSCORE', KEYS[1], ARGV[i])
        if not due or tonumber(due) <= now then
            local fence = math.max(tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0') + 1, now)
            redis.call('HSET', KEYS[2], ARGV[i], string.format('%.0f', fence))
            redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[1]), ARGV[i])
            return {ARGV[i], string.format('%.0f', fence)}
        end
    end
    return false";
/// Moves a job's moment, for who holds it. Answers 0 to anybody else.
const POSTPONE: &str = "
    if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
    local t = redis.call('TIME')
    redis.call('ZADD', KEYS[1], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3]), ARGV[1])
    return 1";
/// Postgres knows a newer fence than Redis: the next one must be newer still, and the job is due.
const RAISE: &str = "
    if tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0') < tonumber(ARGV[2]) then
        redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
    end
    redis.call('ZADD', KEYS[1], 0, ARGV[1])
    return 1";

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("Redis failed: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A run that is this control plane's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) fence: i64,
    /// Otherwise taken, and begun, in Postgres.
    pub(super) in_redis: bool,
}

pub struct Queue {
    redis: Option<RedisQueue>,
}

struct RedisQueue {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    is_up: AtomicBool,
    take: Script,
    postpone: Script,
    raise: Script,
}

impl Queue {
    /// Errors: the URL cannot be read. Does not connect.
    pub fn new(redis_url: Option<&str>) -> Result<Queue, QueueError> {
        let redis = redis_url.map(|url| -> Result<RedisQueue, RedisError> {
            Ok(RedisQueue {
                client: Client::open(url)?,
                connection: Mutex::new(None),
                is_up: AtomicBool::new(true),
                take: Script::new(TAKE),
                postpone: Script::new(POSTPONE),
                raise: Script::new(RAISE),
            })
        });
        Ok(Queue { redis: redis.transpose()? })
    }

    pub(super) fn is_redis_up(&self) -> bool {
        self.redis.as_ref().is_some_and(|redis| redis.is_up.load(Ordering::Relaxed))
    }

    pub(super) async fn take(
        &self,
        store: &Store,
        jobs: &[Arc<Job>],
        holder: &str,
    ) -> Result<Option<(Arc<Job>, Taken)>, QueueError> {
        let Some(redis) = &self.redis else { return take_in_postgres(store, jobs, holder).await };
        match redis.take(jobs).await {
            Ok(taken) => {
                redis.is_up.store(true, Ordering::Relaxed);
                Ok(taken)
            }
            Err(error) => {
                if redis.is_up.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%error, "jobs are taken in Postgres while Redis is away");
                }
                take_in_postgres(store, jobs, holder).await
            }
        }
    }

    /// Keeps or ends the lease: due again in `after`. Answers whether it was still held.
    pub(super) async fn postpone(&self, job: &Job, taken: Taken, after: Duration) -> Result<bool, QueueError> {
        let Some(redis) = self.redis.as_ref().filter(|_| taken.in_redis) else { return Ok(true) };
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let held: i64 =
            redis.ask(redis.postpone.key(DUE).key(FENCES).arg(job.name).arg(taken.fence).arg(after_ms)).await?;
        Ok(held == 1)
    }

    pub(super) async fn raise(&self, job: &Job, fence: i64) -> Result<(), QueueError> {
        let Some(redis) = &self.redis else { return Ok(()) };
        let _: i64 = redis.ask(redis.raise.key(DUE).key(FENCES).arg(job.name).arg(fence)).await?;
        Ok(())
    }
}

impl RedisQueue {
    async fn take(&self, jobs: &[Arc<Job>]) -> Result<Option<(Arc<Job>, Taken)>, RedisError> {
        let mut call = self.take.key(DUE);
        call.key(FENCES).arg(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX));
        for job in jobs {
            call.arg(job.name);
        }
        let answer: Option<(String, i64)> = self.ask(&mut call).await?;
        Ok(answer.and_then(|(name, fence)| {
            let job = jobs.iter().find(|job| job.name == name)?;
            Some((Arc::clone(job), Taken { fence, in_redis: true }))
        }))
    }

    /// A connection that failed is made anew by the next question.
    async fn ask<T: redis::FromRedisValue>(&self, call: &mut redis::ScriptInvocation<'_>) -> Result<T, RedisError> {
        let mut held = self.connection.lock().await;
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(REDIS_WAIT_MAX))
                    .set_response_timeout(Some(REDIS_WAIT_MAX));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        let answer = call.invoke_async(&mut connection).await?;
        *held = Some(connection);
        Ok(answer)
    }
}

async fn take_in_postgres(
    store: &Store,
    all: &[Arc<Job>],
    holder: &str,
) -> Result<Option<(Arc<Job>, Taken)>, QueueError> {
    for job in all {
        let times = [job.interval, job.retry_interval(), RUN_MAX];
        if let Some(fence) = jobs::take_job(store, job.name, holder, times).await? {
            return Ok(Some((Arc::clone(job), Taken { fence, in_redis: false })));
        }
    }
    Ok(None)
}
