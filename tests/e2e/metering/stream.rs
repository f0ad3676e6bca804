//! Those who meddle with the usage stream from outside: one who gives every entry twice, and one who plays the consumer that
//! acknowledges before it commits.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadReply};
use snapshot::wire::UsageBatch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::harness::USAGE_STREAM as STREAM;

const BLOCK_MS: u64 = 100;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Sees each entry as it is added, beside the consumers' group, and adds it once more.
pub struct Duplicator {
    is_on: Arc<AtomicBool>,
    copies: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Duplicator {
    pub fn start(redis_url: String) -> Duplicator {
        let (is_on, copies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let stop = CancellationToken::new();
        let (on, made) = (is_on.clone(), copies.clone());
        let duplicating = async move {
            loop {
                let _redis_was_killed = duplicate(&redis_url, &on, &made).await;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(duplicating));
        Duplicator { is_on, copies, _stop: stop.drop_guard() }
    }

    pub fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    pub fn copies(&self) -> u64 {
        self.copies.load(Ordering::Relaxed)
    }
}

async fn duplicate(redis_url: &str, is_on: &AtomicBool, made: &AtomicU64) -> Result<(), RedisError> {
    let mut redis = redis::Client::open(redis_url)?.get_multiplexed_async_connection().await?;
    let (mut last, mut own) = ("$".to_owned(), HashSet::new());
    loop {
        for entry in read(&mut redis, &last).await? {
            last.clone_from(&entry.id);
            if !own.remove(&entry.id) && is_on.load(Ordering::Relaxed) {
                let fields: Vec<(&String, &redis::Value)> = entry.map.iter().collect();
                own.insert(add(&mut redis, &fields).await?);
                made.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn read(redis: &mut MultiplexedConnection, from: &str) -> Result<Vec<StreamId>, RedisError> {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(100).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(STREAM).arg(from);
    let reply: Option<StreamReadReply> = command.query_async(redis).await?;
    Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
}

async fn add(redis: &mut MultiplexedConnection, fields: &[(&String, &redis::Value)]) -> Result<String, RedisError> {
    let mut command = redis::cmd("XADD");
    command.arg(STREAM).arg("*");
    for (name, value) in fields {
        let redis::Value::BulkString(value) = value else { continue };
        command.arg(name.as_str()).arg(value.as_slice());
    }
    command.query_async(redis).await
}

/// Between the gateways' Redis and the consumers': takes an entry off the stream, acknowledges it to its gateway, and only
/// then hands it on. Every `dies_at`th time it dies in between, as a process does that is killed.
pub struct EarlyAcknowledger {
    deaths: Arc<AtomicU64>,
    held: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl EarlyAcknowledger {
    pub fn start(gateways: String, consumers: String, dies_at: u64) -> EarlyAcknowledger {
        let (deaths, held, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let (died, holds) = (deaths.clone(), held.clone());
        let relaying = async move {
            loop {
                match pass_on(&gateways, &consumers, dies_at, &holds).await {
                    Ok(()) => {
                        died.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_redis_was_slow) => tokio::time::sleep(RETRY_AFTER).await,
                }
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(relaying));
        EarlyAcknowledger { deaths, held, _stop: stop.drop_guard() }
    }

    pub fn deaths(&self) -> u64 {
        self.deaths.load(Ordering::Relaxed)
    }

    /// Events that it acknowledged and did not hand on: all that can be lost by it.
    pub fn lost(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// Returns when it has died.
async fn pass_on(gateways: &str, consumers: &str, dies_at: u64, held: &AtomicU64) -> Result<(), RedisError> {
    let mut from = redis::Client::open(gateways)?.get_multiplexed_async_connection().await?;
    let mut to = redis::Client::open(consumers)?.get_multiplexed_async_connection().await?;
    let (mut last, mut taken) = ("0".to_owned(), 0);
    loop {
        for entry in read(&mut from, &last).await? {
            last.clone_from(&entry.id);
            let payload: Vec<u8> = entry.get("b").unwrap();
            let batch = UsageBatch::decode(payload.as_slice()).unwrap();
            let id = |bytes: &[u8]| Uuid::from_slice(bytes).unwrap();
            let events = batch.events.len() as u64 + batch.rows.iter().map(|row| row.count).sum::<u64>();
            held.fetch_add(events, Ordering::Relaxed);
            let key = format!("usage:ack:{}:{}", id(&batch.node_id), id(&batch.epoch));
            let () = redis::cmd("SET").arg(key).arg(batch.sequence).query_async(&mut from).await?;
            let _there: u64 = redis::cmd("XDEL").arg(STREAM).arg(&entry.id).query_async(&mut from).await?;
            taken += u64::from(!batch.events.is_empty());
            if taken == dies_at {
                return Ok(());
            }
            let fields: Vec<(&String, &redis::Value)> = entry.map.iter().collect();
            add(&mut to, &fields).await?;
            held.fetch_sub(events, Ordering::Relaxed);
        }
    }
}
