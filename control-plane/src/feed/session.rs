//! One gateway's stream, from its hello to its end. What is sent follows from where the gateway stands and what the book
//! holds, so nothing is queued for a slow one; one that takes nothing at all is cut off.

use std::sync::Arc;
use std::time::Duration;

use snapshot::token::Token;
use snapshot::wire::{self, to_gateway::Message};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::Shared;
use super::acks::ack_row;
use super::hello::Hello;
use crate::publish::book::{Full, Next};
use crate::store::nodes::{RegisterError, mark_disconnected, register_node};

/// A stream that does not say hello is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Sign of life, and the newest revision, where nothing else is sent.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// A gateway that does not take one message in this time is cut off; it comes back and resumes.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// How long a gateway may be ahead of this control plane's builder before its revision counts as lost (a database restored
/// without a new epoch) and it gets what there is.
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
    let presence = shared.acks.enter(node);
    shared.metrics.sessions.inc();
    tracing::info!(%node, name = %hello.node.name, have = ?hello.have, "a gateway follows the feed");
    let status = tokio::select! {
        status = send_all(&shared, &outbound, hello.have) => status,
        status = take_acks(&shared, &mut inbound, node, boot_id) => status,
        () = shared.shutdown.cancelled() => Status::unavailable("this control plane stops"),
        () = outbound.closed() => Status::cancelled("the gateway went away"),
    };
    tracing::info!(%node, name = %hello.node.name, reason = %status.message(), "a gateway's feed ended");
    shared.metrics.sessions.dec();
    drop(presence);
    // Where nobody reads any more there is no room either, and nobody to tell.
    let _told = outbound.try_send(Err(status));
    if let Err(error) = mark_disconnected(&shared.store, node, boot_id).await {
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
    register_node(&shared.store, &hello.node).await.map_err(|error| match error {
        RegisterError::NameTaken { .. } => Status::already_exists(error.to_string()),
        RegisterError::Store(error) => {
            tracing::warn!(%error, "a gateway could not be registered");
            Status::unavailable("the gateway cannot be registered now")
        }
    })?;
    Ok(hello)
}

/// Ends only with a reason to end the stream.
async fn take_acks(shared: &Shared, inbound: &mut Streaming<wire::FromGateway>, node: Uuid, boot_id: Uuid) -> Status {
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
        if !ack.refusals.is_empty() {
            shared.metrics.partial_acks.inc();
            tracing::warn!(%node, refusals = ack.refusals.len(), "a gateway serves its revision only in part");
        }
        shared.acks.put(row);
    }
}

/// Ends only with a reason to end the stream.
async fn send_all(shared: &Shared, outbound: &Outbound, mut have: Option<Token>) -> Status {
    let mut newest = shared.book.subscribe();
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ahead_since = None;
    loop {
        newest.mark_unchanged();
        let sent = match shared.book.next(have) {
            Next::Nothing => Ok(have),
            Next::Delta(delta) => send_delta(shared, outbound, delta, have).await,
            Next::Full => send_full(shared, outbound).await,
            Next::Ahead if ahead_since.get_or_insert_with(Instant::now).elapsed() < AHEAD_WITHIN => Ok(have),
            Next::Ahead => {
                tracing::error!(?have, "a gateway holds a revision that the database has lost; it gets what there is");
                send_full(shared, outbound).await
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
            _ = heartbeat.tick() => {
                let token = shared.book.newest().map(wire::Token::from);
                if let Err(status) = send(shared, outbound, Message::Heartbeat(wire::Heartbeat { newest: token })).await {
                    return status;
                }
            }
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

async fn send_full(shared: &Shared, outbound: &Outbound) -> Result<Option<Token>, Status> {
    let stopping = |_| Status::unavailable("this control plane stops");
    let _turn = shared.full_sends.acquire().await.map_err(stopping)?;
    let book = Arc::clone(&shared.book);
    let made = tokio::task::spawn_blocking(move || book.full()).await;
    let Some(full) = made.map_err(|_| Status::internal("the snapshot could not be encoded"))? else { return Ok(None) };
    let Full { token, chunks, digests } = full.as_ref();
    let chunk_digests = digests.iter().map(|digest| digest.to_vec()).collect();
    send(shared, outbound, Message::Manifest(wire::Manifest { token: Some((*token).into()), chunk_digests })).await?;
    for (index, records) in (0_u32..).zip(chunks) {
        send(shared, outbound, Message::Chunk(wire::Chunk { index, records: records.clone() })).await?;
    }
    shared.metrics.full_sends.inc();
    Ok(Some(*token))
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
