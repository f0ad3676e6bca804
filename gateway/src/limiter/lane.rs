//! One conversation with Redis, as request threads and its driver share it: the core's syncer behind a lock, the slots that have
//! called, and the two ways to wake the driver. Refuses to send anything, and to wake the driver for a slot that can wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use limits::script;
use limits::syncer::{Place, Syncer};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::arena::Seat;
use crate::lock::lock;

#[derive(Debug)]
pub(super) struct Lane {
    /// Which keys share this conversation.
    pub(super) keys: script::Lane,
    state: Mutex<State>,
    /// Each slot stands here once at most between two looks at it.
    calls: Mutex<Vec<Place>>,
    /// The driver sleeps, and a call has to wake it.
    asleep: AtomicBool,
    /// A request waits, and the driver has not looked since.
    hurried: AtomicBool,
    call: Notify,
    hurry: Notify,
    answered: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) syncer: Syncer<Seat>,
    /// Empty: takes turns with the lane's list of calls, so that neither allocates.
    called: Vec<Place>,
    /// Of the lane's keys, in no order.
    pub(super) seats: Vec<Seat>,
    /// The next one that may be idle.
    pub(super) swept: usize,
}

impl Lane {
    pub(super) fn new(keys: script::Lane, node: u64, birth: u64) -> Lane {
        Lane {
            keys,
            state: Mutex::new(State {
                syncer: Syncer::new(node, birth),
                called: Vec::new(),
                seats: Vec::new(),
                swept: 0,
            }),
            calls: Mutex::default(),
            asleep: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            call: Notify::new(),
            hurry: Notify::new(),
            answered: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A slot wants to be looked at. Costs a push; the driver is woken only from a long sleep.
    pub(super) fn call(&self, place: Place) {
        lock(&self.calls).push(place);
        if self.asleep.load(Ordering::Acquire) && self.asleep.swap(false, Ordering::AcqRel) {
            self.call.notify_one();
        }
    }

    /// A request waits for an answer.
    pub(super) fn hurry(&self) {
        if !self.hurried.swap(true, Ordering::AcqRel) {
            self.hurry.notify_one();
        }
    }

    /// Resolves at the next answer after this call, polled or not.
    pub(super) fn answered(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// Everybody who waits decides anew.
    pub(super) fn tell_answered(&self) {
        self.answered.notify_waiters();
    }

    /// Hands the calls to the syncer. From here on a request that waits says so again.
    pub(super) fn take_calls(&self, state: &mut State) {
        self.asleep.store(false, Ordering::Release);
        self.hurried.store(false, Ordering::Release);
        std::mem::swap(&mut *lock(&self.calls), &mut state.called);
        for place in state.called.drain(..) {
            state.syncer.call(place);
        }
    }

    /// Resolves when a request waits.
    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Resolves when a slot calls or a request waits.
    pub(super) async fn called(&self) {
        self.asleep.store(true, Ordering::Release);
        // Whoever pushes after this look sees that the driver sleeps: both happen under the same lock.
        if lock(&self.calls).is_empty() {
            tokio::select! {
                () = self.call.notified() => {}
                () = self.hurry.notified() => {}
            }
        }
    }
}
