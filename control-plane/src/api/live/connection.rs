//! One live connection from its first message to its end: what the client says, what the hub sends, the heartbeat, and
//! whether the watcher still may watch. Refuses to send anything of a topic that he may not see any more, and to wait
//! without a bound.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::allow::{Allowed, Need, Standing, allow, recheck};
use super::phrases::{self, FromClient, TOPICS_MAX, Verb};
use crate::api::auth::Caller;
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::domain::fault::Flaw;
use crate::live::topic::Topic;
use crate::live::{HubGone, Outgoing, Seat, Watcher, notice_of_status};
use crate::store::StoreError;

/// Messages that a client may send at once, and then one for each interval.
const MESSAGES_BURST: u32 = 60;
const MESSAGES_INTERVAL: Duration = Duration::from_millis(200);
/// How long a farewell may take.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Why a connection is closed (RFC 6455; from 4000 on ours, with HTTP's numbers).
mod code {
    pub(super) const AWAY: u16 = 1001;
    pub(super) const TOO_MANY_MESSAGES: u16 = 1008;
    pub(super) const TRY_AGAIN: u16 = 1013;
    pub(super) const SIGNED_OUT: u16 = 4401;
    pub(super) const IDLE: u16 = 4408;
}

/// What is to be done next with the socket.
enum Step {
    Nothing,
    Send(Bytes),
    Ping,
    Close(u16, &'static str),
    /// The other side is gone.
    End,
}

/// Something asked of Postgres or the hub has come back.
enum Done {
    Allowed(Topic, Result<Allowed, ApiError>),
    Ordered(Result<(), HubGone>),
    Checked(Result<Standing, StoreError>),
}

enum Slot {
    Asking,
    Watched(Allowed),
}

struct Connection {
    state: AppState,
    caller: Caller,
    watcher: Watcher,
    topics: HashMap<Topic, Slot>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    is_checking: bool,
    checked_at: Instant,
    heard_at: Instant,
    /// When the client will have all of its messages again.
    full_at: Instant,
}

pub(super) async fn serve(mut socket: WebSocket, state: AppState, caller: Caller, seat: Seat) {
    let (live, pace) = (state.live.clone(), state.live.pace());
    let (watcher, mut inbox) = live.join();
    let mut status = live.status();
    let mut connection = Connection::new(state, caller, watcher);
    let mut heartbeat = interval(pace.heartbeat);
    let mut checks = interval(pace.recheck);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    status.mark_changed();
    let mut step = Step::Send(phrases::hello(pace));
    loop {
        let sending = match step {
            Step::Nothing => None,
            Step::Send(bytes) => Utf8Bytes::try_from(bytes).ok().map(Message::Text),
            Step::Ping => Some(Message::Ping(Bytes::new())),
            Step::Close(code, reason) => {
                let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
                let _told = timeout(FAREWELL_MAX, socket.send(Message::Close(Some(frame)))).await;
                break;
            }
            Step::End => break,
        };
        if let Some(message) = sending
            && !matches!(timeout(pace.send_wait_max, socket.send(message)).await, Ok(Ok(())))
        {
            break;
        }
        step = tokio::select! {
            () = live.shutdown().cancelled() => Step::Close(code::AWAY, "the control plane stops"),
            heard = socket.recv() => connection.hear(heard),
            Some(outgoing) = inbox.recv() => connection.pass_on(outgoing),
            Ok(()) = status.changed() => Step::Send(notice_of_status(*status.borrow_and_update())),
            Some(done) = connection.work.next(), if !connection.work.is_empty() => connection.finish(done),
            _ = heartbeat.tick() => connection.beat(),
            _ = checks.tick() => connection.check(),
        };
    }
    drop(seat);
}

impl Connection {
    fn new(state: AppState, caller: Caller, watcher: Watcher) -> Connection {
        let now = Instant::now();
        Connection {
            state,
            caller,
            watcher,
            topics: HashMap::new(),
            work: FuturesUnordered::new(),
            is_checking: false,
            checked_at: now,
            heard_at: now,
            full_at: now,
        }
    }

    fn hear(&mut self, heard: Option<Result<Message, axum::Error>>) -> Step {
        let Some(Ok(message)) = heard else { return Step::End };
        self.heard_at = Instant::now();
        if !self.spend_message() {
            return Step::Close(code::TOO_MANY_MESSAGES, "too many messages");
        }
        match message {
            Message::Text(text) => self.obey(&text),
            Message::Binary(_) => {
                let error = ApiError::new(Code::MalformedJson, "Messages are JSON as text.");
                Step::Send(phrases::error(None, &error))
            }
            Message::Ping(_) | Message::Pong(_) => Step::Nothing,
            Message::Close(_) => Step::End,
        }
    }

    /// The generic cell rate algorithm: each message moves the moment of fullness by one interval.
    fn spend_message(&mut self) -> bool {
        let next = self.full_at.max(self.heard_at) + MESSAGES_INTERVAL;
        let is_fine = next.saturating_duration_since(self.heard_at) <= MESSAGES_INTERVAL * MESSAGES_BURST;
        if is_fine {
            self.full_at = next;
        }
        is_fine
    }

    fn obey(&mut self, text: &str) -> Step {
        let said = match serde_json::from_str::<FromClient>(text) {
            Ok(said) => said,
            Err(error) => {
                let error = ApiError::new(Code::MalformedJson, format!("The message cannot be read: {error}."));
                return Step::Send(phrases::error(None, &error));
            }
        };
        let topic = match Topic::parse(&said.topic) {
            Ok(topic) => topic,
            Err(flaw) => return Step::Send(phrases::error(Some(&said.topic), &ApiError::field("/topic", flaw))),
        };
        match (said.verb, self.topics.get(&topic)) {
            (Verb::Subscribe, None) => return self.begin(topic),
            (Verb::Resnapshot, None) => {
                let flaw = Flaw::new("is not watched on this connection").mend("subscribe to it");
                return Step::Send(phrases::error(Some(&said.topic), &ApiError::field("/topic", flaw)));
            }
            (Verb::Subscribe | Verb::Resnapshot, Some(Slot::Watched(allowed))) => self.order_watch(*allowed),
            (Verb::Subscribe | Verb::Resnapshot, Some(Slot::Asking)) => {}
            (Verb::Unsubscribe, _) => self.leave(topic),
        }
        Step::Nothing
    }

    fn begin(&mut self, topic: Topic) -> Step {
        if self.topics.len() >= TOPICS_MAX {
            let detail = format!("A connection watches {TOPICS_MAX} topics at most. Leave one first.");
            let error = ApiError::new(Code::TooManyRequests, detail);
            return Step::Send(phrases::error(Some(&topic.to_string()), &error));
        }
        self.topics.insert(topic, Slot::Asking);
        let (state, caller) = (self.state.clone(), self.caller.clone());
        self.work.push(Box::pin(async move { Done::Allowed(topic, allow(&state, &caller, topic).await) }));
        Step::Nothing
    }

    fn order_watch(&mut self, allowed: Allowed) {
        let watcher = self.watcher.clone();
        self.work.push(Box::pin(async move { Done::Ordered(watcher.watch(allowed.watch).await) }));
    }

    fn leave(&mut self, topic: Topic) {
        if let Some(Slot::Watched(allowed)) = self.topics.remove(&topic) {
            let watcher = self.watcher.clone();
            self.work.push(Box::pin(async move { Done::Ordered(watcher.leave(allowed.watch).await) }));
        }
    }

    fn finish(&mut self, done: Done) -> Step {
        match done {
            // Left before the answer came.
            Done::Allowed(topic, _) if !matches!(self.topics.get(&topic), Some(Slot::Asking)) => Step::Nothing,
            Done::Allowed(topic, Ok(allowed)) => {
                self.topics.insert(topic, Slot::Watched(allowed));
                self.order_watch(allowed);
                Step::Nothing
            }
            Done::Allowed(topic, Err(error)) => {
                self.topics.remove(&topic);
                Step::Send(phrases::error(Some(&topic.to_string()), &error))
            }
            Done::Ordered(Ok(())) => Step::Nothing,
            Done::Ordered(Err(HubGone)) => Step::Close(code::TRY_AGAIN, "live usage is behind: connect anew"),
            Done::Checked(checked) => self.take_check(checked),
        }
    }

    /// What waited in the queue of a topic that was left or taken away meanwhile is not sent.
    fn pass_on(&self, outgoing: Outgoing) -> Step {
        match self.topics.get(&outgoing.watch.topic) {
            Some(Slot::Watched(allowed)) if allowed.watch == outgoing.watch => Step::Send(outgoing.bytes),
            _ => Step::Nothing,
        }
    }

    fn beat(&self) -> Step {
        match self.heard_at.elapsed() > self.state.live.pace().idle_max {
            true => Step::Close(code::IDLE, "nothing was heard"),
            false => Step::Ping,
        }
    }

    fn check(&mut self) -> Step {
        if self.checked_at.elapsed() > self.state.live.pace().unchecked_max {
            return Step::Close(code::TRY_AGAIN, "your rights cannot be checked now");
        }
        if !self.is_checking {
            self.is_checking = true;
            let organizations = self.watched().filter_map(|allowed| match allowed.need {
                Need::Member(organization) => Some(organization),
                Need::Operator => None,
            });
            let checking = recheck(self.state.clone(), self.caller.clone(), organizations.collect());
            self.work.push(Box::pin(async move { Done::Checked(checking.await) }));
        }
        Step::Nothing
    }

    fn watched(&self) -> impl Iterator<Item = &Allowed> {
        self.topics.values().filter_map(|slot| match slot {
            Slot::Watched(allowed) => Some(allowed),
            Slot::Asking => None,
        })
    }

    fn take_check(&mut self, checked: Result<Standing, StoreError>) -> Step {
        self.is_checking = false;
        let Ok(standing) = checked else { return Step::Nothing };
        self.checked_at = Instant::now();
        if !standing.is_signed_in() {
            return Step::Close(code::SIGNED_OUT, "the session or token has ended");
        }
        let lost: Vec<Topic> =
            self.watched().filter(|allowed| !standing.meets(allowed.need)).map(|allowed| allowed.watch.topic).collect();
        let Some(topic) = lost.first().copied() else { return Step::Nothing };
        self.leave(topic);
        // The others at the next turn, which comes at once.
        if lost.len() > 1 {
            self.work.push(Box::pin(async move { Done::Checked(Ok(standing)) }));
        }
        Step::Send(phrases::closed(&topic.to_string()))
    }
}
