//! The sealed batches that Redis has not confirmed, oldest first, bounded. A batch leaves only when it is confirmed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::batch::Sealed;

#[derive(Debug)]
pub(super) struct Unsent {
    state: Mutex<State>,
    max: usize,
    /// Something was put in, or nothing more will be.
    arrived: Notify,
    /// Something was taken out.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Sealed>,
    closed: bool,
}

impl Unsent {
    pub(super) fn new(max: usize) -> Unsent {
        Unsent { state: Mutex::default(), max, arrived: Notify::new(), room: Notify::new() }
    }

    /// Waits until one more batch fits. One task asks, so what it was told stays true.
    pub(super) async fn room(&self) {
        while self.lock().batches.len() >= self.max {
            self.room.notified().await;
        }
    }

    /// Err: there is no room.
    pub(super) fn push(&self, batch: Sealed) -> Result<(), Sealed> {
        let mut state = self.lock();
        if state.batches.len() >= self.max {
            return Err(batch);
        }
        state.batches.push_back(batch);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// The oldest batch, which stays. None: there is none and none will come.
    pub(super) async fn oldest(&self) -> Option<Sealed> {
        loop {
            {
                let state = self.lock();
                if let Some(batch) = state.batches.front() {
                    return Some(batch.clone());
                }
                if state.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Redis has the batch of this number.
    pub(super) fn confirm(&self, sequence: u64) {
        let mut state = self.lock();
        if state.batches.front().is_some_and(|batch| batch.sequence == sequence) {
            state.batches.pop_front();
        }
        drop(state);
        self.room.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        self.lock().batches.len()
    }

    /// Events in all batches that are left.
    pub(super) fn events(&self) -> u64 {
        self.lock().batches.iter().map(|batch| batch.events).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
