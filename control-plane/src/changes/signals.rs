//! What wakes whom inside one process. A signal says "look" and carries nothing, so that a lost or doubled one is harmless;
//! whoever waits also polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};

use crate::store::changes::Channel;

#[derive(Clone, Default)]
pub struct Signals {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    changes: Notify,
    numbered: watch::Sender<u64>,
    acks: watch::Sender<u64>,
    leads: AtomicBool,
}

/// While it lives, this process numbers changes.
pub(super) struct Lead(Signals);

impl Signals {
    pub fn raise(&self, channel: Channel) {
        match channel {
            Channel::Changes => self.inner.changes.notify_one(),
            Channel::Numbered => self.inner.numbered.send_modify(|count| *count = count.wrapping_add(1)),
            Channel::Acks => self.inner.acks.send_modify(|count| *count = count.wrapping_add(1)),
        }
    }

    /// After a gap in listening, anything may have happened.
    pub(super) fn raise_all(&self) {
        [Channel::Changes, Channel::Numbered, Channel::Acks].into_iter().for_each(|channel| self.raise(channel));
    }

    pub(super) async fn changes(&self) {
        self.inner.changes.notified().await;
    }

    /// Changes whenever there may be newly numbered changes.
    pub fn numbered(&self) -> watch::Receiver<u64> {
        self.inner.numbered.subscribe()
    }

    /// Changes whenever a node may serve another revision.
    pub(super) fn acks(&self) -> watch::Receiver<u64> {
        self.inner.acks.subscribe()
    }

    pub(super) fn leads(&self) -> bool {
        self.inner.leads.load(Ordering::Relaxed)
    }

    pub(super) fn lead(&self) -> Lead {
        self.inner.leads.store(true, Ordering::Relaxed);
        Lead(self.clone())
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.inner.leads.store(false, Ordering::Relaxed);
    }
}
