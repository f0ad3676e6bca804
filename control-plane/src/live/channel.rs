//! One topic: what happened since the last delta, and who watches. A delta is written once for all; a watcher whose queue is
//! full misses it, is told how much he missed, and gets a snapshot when he has room again. Nobody waits for him.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::message::{self, Head};
use super::metrics::LiveMetrics;
use super::moment::{Row, Sums};
use super::recent::{Recent, Seconds, second_of};
use super::topic::{Kind, Watch};
use super::{Outgoing, QUEUE_MESSAGES_MAX};

/// Rows of one delta: the first; the others are counted as unlisted.
const DELTA_ROWS_MAX: usize = 200;
/// So much room a watcher needs before he gets a snapshot again, so that it is not missed at once.
const RESUME_ROOM: usize = QUEUE_MESSAGES_MAX / 2;

pub(super) struct Channel {
    watch: Watch,
    name: String,
    sequence: u64,
    pending: Pending,
    members: HashMap<u64, Member>,
    /// The snapshot at a sequence, for all who come before the next delta.
    snapshot: Option<(u64, Bytes)>,
}

#[derive(Default)]
struct Pending {
    rows: Vec<Arc<Row>>,
    /// Requests, listed or not.
    requests: u64,
    seconds: Seconds,
}

struct Member {
    watch: Watch,
    outbox: mpsc::Sender<Outgoing>,
    /// Deltas missed, and the requests in them; `None` while he misses nothing.
    missed: Option<(u64, u64)>,
}

impl Channel {
    pub(super) fn new(watch: Watch) -> Channel {
        Channel {
            watch,
            name: watch.topic.to_string(),
            sequence: 0,
            pending: Pending::default(),
            members: HashMap::new(),
            snapshot: None,
        }
    }

    pub(super) fn is_deserted(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn add_row(&mut self, row: &Arc<Row>) {
        if self.pending.rows.len() < DELTA_ROWS_MAX {
            self.pending.rows.push(Arc::clone(row));
        }
    }

    pub(super) fn add_sums(&mut self, at_ms: i64, sums: &Sums) {
        self.pending.requests = self.pending.requests.saturating_add(sums.requests);
        if self.watch.topic.kind == Kind::Counters {
            self.pending.seconds.entry(second_of(at_ms)).or_default().add(sums);
        }
    }

    /// Sends what is pending as one delta, and drops watchers that are gone.
    pub(super) fn flush(&mut self, metrics: &LiveMetrics) {
        self.members.retain(|_, member| !member.outbox.is_closed());
        if self.pending.requests == 0 && self.pending.rows.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        self.sequence += 1;
        let head = Head { watch: self.watch, name: &self.name, sequence: self.sequence };
        let delta = match self.watch.topic.kind {
            Kind::Requests => {
                let listed = u64::try_from(pending.rows.len()).unwrap_or(u64::MAX);
                let unlisted = pending.requests.saturating_sub(listed);
                message::requests_delta(head, pending.rows.iter().map(|row| &**row), unlisted)
            }
            Kind::Counters => message::counters_delta(head, &pending.seconds),
        };
        for member in self.members.values_mut() {
            if !member.take(&delta, pending.requests) {
                metrics.missed.inc();
            }
        }
    }

    /// Adds a watcher, or begins anew with one: he gets the snapshot first.
    pub(super) fn join(
        &mut self,
        watcher: u64,
        outbox: mpsc::Sender<Outgoing>,
        recent: &mut Recent,
        metrics: &LiveMetrics,
    ) {
        // What is pending is part of the snapshot, so it must not come again with the next delta.
        self.flush(metrics);
        let snapshot = self.snapshot(recent);
        let mut member = Member { watch: self.watch, outbox, missed: None };
        member.take(&snapshot, 0);
        self.members.insert(watcher, member);
    }

    pub(super) fn leave(&mut self, watcher: u64) {
        self.members.remove(&watcher);
    }

    /// Whoever missed something and has room again is told, and begins anew.
    pub(super) fn heal(&mut self, recent: &mut Recent) {
        let has_room = |member: &Member| member.missed.is_some() && member.outbox.capacity() >= RESUME_ROOM;
        if !self.members.values().any(has_room) {
            return;
        }
        let snapshot = self.snapshot(recent);
        for member in self.members.values_mut().filter(|member| has_room(member)) {
            if let Some((messages, requests)) = member.missed.take() {
                let notice = message::missed(&self.name, messages, requests);
                let _told = member.take(&notice, 0) && member.take(&snapshot, 0);
            }
        }
    }

    /// Call it with nothing pending.
    fn snapshot(&mut self, recent: &mut Recent) -> Bytes {
        if let Some((_, bytes)) = self.snapshot.as_ref().filter(|(sequence, _)| *sequence == self.sequence) {
            return bytes.clone();
        }
        let (scope, now) = (self.watch.topic.scope, Instant::now());
        let head = Head { watch: self.watch, name: &self.name, sequence: self.sequence };
        let bytes = match self.watch.topic.kind {
            Kind::Requests => {
                let rows = recent.rows_of(scope, now);
                message::requests_snapshot(head, rows.iter().map(|row| &**row))
            }
            Kind::Counters => message::counters_snapshot(head, &recent.seconds_of(scope, now)),
        };
        self.snapshot = Some((self.sequence, bytes.clone()));
        bytes
    }
}

impl Member {
    /// Whether it was taken; else it counts as missed, and so does whatever comes until he has begun anew.
    fn take(&mut self, message: &Bytes, requests: u64) -> bool {
        if let Some((missed, lost)) = &mut self.missed {
            *missed += 1;
            *lost = lost.saturating_add(requests);
            return false;
        }
        match self.outbox.try_send(Outgoing { watch: self.watch, bytes: message.clone() }) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed = Some((1, requests));
                false
            }
            // He is dropped at the next flush.
            Err(TrySendError::Closed(_)) => true,
        }
    }
}
