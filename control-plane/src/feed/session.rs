//! One gateway's stream, from its hello to its end. What is sent follows from where the gateway stands and what the book
//! holds, so nothing is queued for a slow one; one that takes nothing at all is cut off.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use snapshot::token::Token;
use snapshot::wire::{self, to_gateway::Message};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Status, Streaming};

use super::acks::ack_row;
use super::hello::Hello;
use super::{Shared, room};
use crate::publish::book::{Full, Next};
use crate::store::changes::replace_lost_epoch;
use crate::store::nodes::{RegisterError, register_node};

/// A stream that does not say hello is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Sign of life, and the newest revision, where nothing else is sent.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// A gateway that does not take one message in this time is cut off; it comes back and resumes.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// One full snapshot, and as much again for each so many bytes of it: a gateway that takes it slower must not keep a turn from
/// the others.
const FULL_SEND_WITHIN: Duration = Duration::from_secs(120);
const FULL_SEND_BYTES_WITHIN: usize = 256 * 1024 * 1024;
/// How long a gateway may be ahead of this control plane's builder before the database is asked who is right.
const AHEAD_WITHIN: Duration = Duration::from_secs(5);

type Outbound = Sender<Result<wire::ToGateway, Status>>;

pub(super) async fn run(
    shared: Arc<Shared>,
    mut inbound: Streaming<wire::FromGateway>,
    outbound: Outbound,
    address: Option<String>,
) {
    let hello = match greet(&shared, &mut inbound, address).await {
        Ok(hello) => hello,
        Err(status) => {
            let _gone = outbound.send(Err(status)).await;
            return;
        }
    };
    let (node, boot_id) = (hello.node.id, hello.node.boot_id);
    let presence = shared.acks.enter(node, boot_id);
    shared.metrics.sessions.inc();
    tracing::info!(%node, name = %hello.node.name, have = ?hello.have, "a gateway follows the feed");
    let status = tokio::select! {
        status = send_all(&shared, &outbound, &hello) => status,
        status = take_acks(&shared, &mut inbound, &hello) => status,
        () = shared.shutdown.cancelled() => Status::unavailable("this control plane stops"),
        () = outbound.closed() => Status::cancelled("the gateway went away"),
    };
    tracing::info!(%node, name = %hello.node.name, reason = %status.message(), "a gateway's feed ended");
    shared.metrics.sessions.dec();
    // Where nobody reads any more there is no room either, and nobody to tell.
    let _told = outbound.try_send(Err(status));
    if let Err(error) = shared.acks.leave(presence).await {
        tracing::debug!(%node, %error, "a node could not be marked as disconnected");
    }
}

async fn greet(
    shared: &Shared,
    inbound: &mut Streaming<wire::FromGateway>,
    address: Option<String>,
) -> Result<Hello, Status> {
    let first = timeout(HELLO_WITHIN, inbound.message());
    let first = first.await.map_err(|_| Status::deadline_exceeded("no hello came in time"))??;
    let hello = Hello::parse(first.ok_or_else(|| Status::invalid_argument("no hello came"))?, address)?;
    take_in(shared, &hello).await?;
    Ok(hello)
}

/// Registers the gateway and makes room for it, at its hello and with each new epoch: the database may have lost either.
async fn take_in(shared: &Shared, hello: &Hello) -> Result<(), Status> {
    register_node(&shared.store, &hello.node).await.map_err(|error| match error {
        RegisterError::NameTaken { .. } => Status::already_exists(error.to_string()),
        RegisterError::Store(error) => {
            tracing::warn!(%error, "a gateway could not be registered");
            Status::unavailable("the gateway cannot be registered now")
        }
    })?;
    room::make(&shared.store, &shared.revisions, &shared.book).await
}

/// Ends only with a reason to end the stream.
async fn take_acks(shared: &Shared, inbound: &mut Streaming<wire::FromGateway>, hello: &Hello) -> Status {
    let (node, boot_id) = (hello.node.id, hello.node.boot_id);
    let lag = shared.metrics.lags.enter(hello.have);
    let mut refused = Vec::new();
    loop {
        let message = match inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Status::ok("the gateway closed the stream"),
            Err(status) => return status,
        };
        let Some(wire::from_gateway::Message::Ack(ack)) = message.message else {
            return Status::invalid_argument("only acknowledgements may follow a hello");
        };
        let Some(row) = ack_row(node, boot_id, &ack) else {
            return Status::invalid_argument("ack.served is missing or not valid");
        };
        shared.metrics.acks.inc();
        if let Some(lagged) = ack.served.as_ref().and_then(|served| lag.note(Token::try_from(served).ok()?)) {
            shared.metrics.ack_seconds.observe(lagged.as_secs_f64());
        }
        shared.metrics.partial_acks.inc_by(u64::from(!ack.refusals.is_empty()));
        let refusals = ack.refusals.len();
        if is_news(&mut refused, ack.refusals) {
            match refusals {
                0 => tracing::info!(%node, "a gateway serves its revision in full again"),
                _ => tracing::warn!(%node, refusals, "a gateway serves its revision only in part"),
            }
        }
        shared.acks.put(row);
    }
}

/// Every acknowledgement repeats what is refused; that is told once, and again when it has changed.
pub(super) fn is_news(refused: &mut Vec<wire::Refusal>, now: Vec<wire::Refusal>) -> bool {
    let before = std::mem::replace(refused, now);
    before != *refused
}

/// Ends only with a reason to end the stream.
async fn send_all(shared: &Shared, outbound: &Outbound, hello: &Hello) -> Status {
    let mut have = hello.have;
    let mut newest = shared.book.subscribe();
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ahead_since = None;
    loop {
        newest.mark_unchanged();
        let next = match next_for(shared, have).await {
            Ok(next) => next,
            Err(status) => return status,
        };
        let sent = match next {
            Next::Nothing => Ok(have),
            Next::Delta(delta) => send_delta(shared, outbound, delta, have).await,
            Next::Full => match reintroduce(shared, hello, have).await {
                Ok(()) => send_full(shared, outbound).await,
                Err(status) => Err(status),
            },
            Next::Ahead if ahead_since.get_or_insert_with(Instant::now).elapsed() < AHEAD_WITHIN => Ok(have),
            Next::Ahead => {
                ahead_since = None;
                settle_lead(shared, have).await.map(|()| have)
            }
        };
        match sent {
            Ok(now) if now != have => {
                have = now;
                ahead_since = None;
                continue;
            }
            Ok(_) => {}
            Err(status) => return status,
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return Status::unavailable("this control plane stops") },
            _ = heartbeat.tick() => if let Err(status) = send_heartbeat(shared, outbound).await { return status },
        }
    }
}

/// Where the gateway followed an epoch that is over.
async fn reintroduce(shared: &Shared, hello: &Hello, have: Option<Token>) -> Result<(), Status> {
    let newest = shared.book.newest();
    let is_over = have.zip(newest).is_some_and(|(have, newest)| have.epoch != newest.epoch);
    if is_over { take_in(shared, hello).await } else { Ok(()) }
}

/// The gateway holds a newer revision than this process, still. Either the database has it, and this process is slow: another
/// control plane may serve the gateway. Or the database has lost it in a way that its server does not know of (a disk set back to
/// an earlier moment): then revisions are given out a second time, which only a new epoch makes safe. Never is an older snapshot of
/// the same epoch sent: it would revive revoked keys.
async fn settle_lead(shared: &Shared, have: Option<Token>) -> Result<(), Status> {
    let behind = || Status::unavailable("this control plane is behind the gateway");
    let have = have.ok_or_else(behind)?;
    match replace_lost_epoch(&shared.store, have.epoch, have.revision).await {
        Ok(true) => {
            tracing::error!(
                ?have,
                "the database has lost a revision that a gateway holds; a new epoch of the feed begins"
            );
            Ok(())
        }
        Ok(false) => Err(behind()),
        Err(error) => {
            tracing::warn!(%error, "cannot ask which revision the database holds");
            Err(behind())
        }
    }
}

/// Without a token while there is no snapshot yet.
async fn send_heartbeat(shared: &Shared, outbound: &Outbound) -> Result<(), Status> {
    let newest = shared.book.newest().map(wire::Token::from);
    send(shared, outbound, Message::Heartbeat(wire::Heartbeat { newest })).await
}

/// Waits for `work`; the gateway hears meanwhile that this control plane lives.
async fn beside_heartbeats<T>(
    shared: &Shared,
    outbound: &Outbound,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => send_heartbeat(shared, outbound).await?,
        }
    }
}

async fn send_delta(
    shared: &Shared,
    outbound: &Outbound,
    delta: wire::Delta,
    have: Option<Token>,
) -> Result<Option<Token>, Status> {
    let now = have.map(|have| Token { revision: delta.to, ..have });
    send(shared, outbound, Message::Delta(delta)).await?;
    shared.metrics.deltas.inc();
    Ok(now)
}

/// A long way back takes its time to look up: the other tasks of this thread shall not wait for it.
async fn next_for(shared: &Shared, have: Option<Token>) -> Result<Next, Status> {
    if shared.book.is_near(have) {
        return Ok(shared.book.next(have));
    }
    let book = Arc::clone(&shared.book);
    let looked = tokio::task::spawn_blocking(move || book.next(have)).await;
    looked.map_err(|_| Status::internal("the changes could not be looked up"))
}

async fn send_full(shared: &Shared, outbound: &Outbound) -> Result<Option<Token>, Status> {
    let turn = async { shared.full_sends.acquire().await.map_err(|_| Status::unavailable("this control plane stops")) };
    let _turn = beside_heartbeats(shared, outbound, turn).await?;
    let Some(full) = shared.book.full() else { return Ok(None) };
    let allowances = u32::try_from(full.bytes() / FULL_SEND_BYTES_WITHIN + 1).unwrap_or(u32::MAX);
    match timeout(FULL_SEND_WITHIN.saturating_mul(allowances), send_chunks(shared, outbound, &full)).await {
        Ok(sent) => sent?,
        Err(_) => {
            shared.metrics.stalled.inc();
            return Err(Status::deadline_exceeded("the gateway takes the snapshot too slowly"));
        }
    }
    shared.metrics.full_sends.inc();
    Ok(Some(full.token))
}

/// Each chunk is made when the gateway has room for it.
async fn send_chunks(shared: &Shared, outbound: &Outbound, full: &Full) -> Result<(), Status> {
    send(shared, outbound, Message::Manifest(wire::Manifest { token: Some(full.token.into()) })).await?;
    let (mut seal, mut chunks) = (Sha256::new(), 0);
    for records in full.chunks() {
        let digest = Sha256::digest(&records);
        seal.update(digest);
        let chunk = wire::Chunk { index: chunks, records, digest: digest.to_vec() };
        send(shared, outbound, Message::Chunk(chunk)).await?;
        chunks += 1;
    }
    send(shared, outbound, Message::Seal(wire::Seal { chunks, digest: seal.finalize().to_vec() })).await
}

async fn send(shared: &Shared, outbound: &Outbound, message: Message) -> Result<(), Status> {
    let message = wire::ToGateway { message: Some(message) };
    match timeout(SEND_WITHIN, outbound.send(Ok(message))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("the gateway went away")),
        Err(_) => {
            shared.metrics.stalled.inc();
            Err(Status::deadline_exceeded("the gateway takes nothing"))
        }
    }
}
