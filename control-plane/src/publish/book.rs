//! The newest snapshot of this process, and what changed lately: what the feed hands out. Holds records by entity and, of the
//! recent past, only which entity changed at which revision; so a delta is always made of current records, and a reader that
//! falls behind skips what was overwritten meanwhile. Does no I/O.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use snapshot::record::EntityRef;
use snapshot::token::Token;
use snapshot::wire;
use tokio::sync::watch;

pub use super::pages::{Changed, Pages, PagesInOrder};

/// Changed entities that are remembered, at about 32 bytes each: at 1,000 changes a second, 100 seconds. Whoever is further
/// behind gets everything.
pub const HISTORY_CHANGES_MAX: usize = 100_000;
/// Largest delta, encoded, in bytes; a larger one is sent as a full snapshot, in chunks.
const DELTA_BYTES_MAX: usize = wire::FEED_MESSAGE_BYTES_MAX - 32 * 1024;
/// Wanted size of a chunk, in bytes: what one send holds. One larger record has a chunk of its own.
const CHUNK_BYTES_WANTED: usize = 256 * 1024;
/// A reader that is further behind asks for more than a moment of work.
const NEAR_REVISIONS_MAX: u64 = 1_000;
/// Steps whose time is remembered; of a reader that is further behind it is not known for how long.
const STEPS_TIMED_MAX: usize = 4_096;

/// Shared between the builder, which writes, and the feed's sessions, which read.
pub struct Book {
    state: Mutex<State>,
    newest: watch::Sender<Option<Token>>,
    /// When it was last known to be what the database says.
    looked_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Shared with readers for as long as they send; a change meanwhile copies the table of pages, once.
    pages: Arc<Pages>,
    /// In order of revisions.
    history: VecDeque<(u64, EntityRef)>,
    /// The oldest revision from which a delta can be made.
    floor: u64,
    /// When each of the last steps was taken, by the revision that it led to.
    steps: VecDeque<(u64, Instant)>,
}

/// A full snapshot that is being sent: shares its pages with the book, so it holds only what has changed since.
pub struct Full {
    pub token: Token,
    pages: Arc<Pages>,
}

impl Full {
    /// Encoded `Records`, in the one order of entities.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> {
        self.pages.chunks(CHUNK_BYTES_WANTED)
    }

    /// What the chunks come to, about.
    pub fn bytes(&self) -> usize {
        self.pages.resident_bytes()
    }
}

/// What a reader needs next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// It has everything there is.
    Nothing,
    Delta(wire::Delta),
    /// Too far behind, or of another epoch.
    Full,
    /// It has a newer revision than this process: another control plane was faster.
    Ahead,
}

impl Default for Book {
    fn default() -> Self {
        Book { state: Mutex::default(), newest: watch::Sender::new(None), looked_at: Mutex::default() }
    }
}

impl Book {
    /// Changes whenever there is a newer snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Option<Token>> {
        self.newest.subscribe()
    }

    /// Says that the book is as new as the database.
    pub fn note_look(&self) {
        *lock(&self.looked_at) = Some(Instant::now());
    }

    /// How long ago the book was as new as the database; `None` before the first build.
    pub fn age(&self) -> Option<Duration> {
        lock(&self.looked_at).map(|at| at.elapsed())
    }

    pub fn newest(&self) -> Option<Token> {
        *self.newest.borrow()
    }

    /// Records, and the bytes that they take here.
    pub fn size(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.pages.count(), state.pages.resident_bytes())
    }

    /// Takes a whole snapshot. `history` says what changed before it, from revision `floor` on, in order; a past that is too
    /// long to be held is none.
    pub fn replace(&self, token: Token, pages: Pages, history: Vec<(u64, EntityRef)>, floor: u64) {
        let (history, floor) =
            if history.len() > HISTORY_CHANGES_MAX { (Vec::new(), token.revision) } else { (history, floor) };
        let former = {
            let steps = VecDeque::from([(token.revision, Instant::now())]);
            let state = State { token: Some(token), pages: Arc::new(pages), history: history.into(), floor, steps };
            std::mem::replace(&mut *lock(&self.state), state)
        };
        self.newest.send_replace(Some(token));
        drop(former);
    }

    /// Moves to `token`, of the same epoch. What is equal to what is there is no change.
    pub fn advance(&self, token: Token, changed: &Changed) {
        let mut state = lock(&self.state);
        let different = Arc::make_mut(&mut state.pages).apply(changed);
        state.history.extend(different.into_iter().map(|entity| (token.revision, entity)));
        state.token = Some(token);
        state.steps.push_back((token.revision, Instant::now()));
        state.trim();
        drop(state);
        self.newest.send_replace(Some(token));
    }

    pub fn record(&self, entity: &EntityRef) -> Option<wire::Record> {
        lock(&self.state).pages.get(entity)
    }

    /// Everything, as it is now.
    #[cfg(test)]
    pub(crate) fn records(&self) -> (Option<Token>, std::collections::BTreeMap<EntityRef, wire::Record>) {
        let state = lock(&self.state);
        (state.token, state.pages.to_map())
    }

    /// For how long a reader that stood at `have` has lacked something, if that is known and not nothing.
    pub fn lag(&self, have: Token) -> Option<Duration> {
        let state = lock(&self.state);
        let newest = state.token.filter(|newest| newest.epoch == have.epoch && newest.revision > have.revision)?;
        let next = state.steps.partition_point(|(revision, _)| *revision <= have.revision);
        // Before the first step that is remembered there may have been another.
        let known = next > 0 || have.revision + 1 >= newest.revision;
        state.steps.get(next).filter(|_| known).map(|(_, at)| at.elapsed())
    }

    /// Whether what brings a reader from `have` to the newest is found in a moment.
    pub fn is_near(&self, have: Option<Token>) -> bool {
        let distance = self.newest().zip(have).map(|(newest, have)| newest.revision.saturating_sub(have.revision));
        distance.is_none_or(|distance| distance <= NEAR_REVISIONS_MAX)
    }

    /// What brings a reader from `have` to the newest snapshot. Takes time in proportion to the changes between.
    pub fn next(&self, have: Option<Token>) -> Next {
        let (have, newest, entities, pages) = {
            let state = lock(&self.state);
            let (Some(have), Some(newest)) = (have, state.token) else {
                return if state.token.is_some() { Next::Full } else { Next::Nothing };
            };
            if have.epoch != newest.epoch {
                return Next::Full;
            }
            match have.revision.cmp(&newest.revision) {
                std::cmp::Ordering::Equal => return Next::Nothing,
                std::cmp::Ordering::Greater => return Next::Ahead,
                std::cmp::Ordering::Less if have.revision < state.floor => return Next::Full,
                std::cmp::Ordering::Less => {}
            }
            (have, newest, state.changed_since(have.revision), Arc::clone(&state.pages))
        };
        delta(&pages, &entities, have.revision, newest)
    }

    /// The newest snapshot as a whole.
    pub fn full(&self) -> Option<Full> {
        let state = lock(&self.state);
        Some(Full { token: state.token?, pages: Arc::clone(&state.pages) })
    }
}

impl State {
    fn trim(&mut self) {
        while self.steps.len() > STEPS_TIMED_MAX {
            self.steps.pop_front();
        }
        while self.history.len() > HISTORY_CHANGES_MAX {
            if let Some((revision, _)) = self.history.pop_front() {
                self.floor = self.floor.max(revision);
            }
        }
    }

    fn changed_since(&self, revision: u64) -> BTreeSet<EntityRef> {
        let start = self.history.partition_point(|(changed, _)| *changed <= revision);
        self.history.range(start..).map(|(_, entity)| *entity).collect()
    }
}

fn delta(pages: &Pages, entities: &BTreeSet<EntityRef>, from: u64, newest: Token) -> Next {
    let mut bytes = 0;
    let mut changes = Vec::with_capacity(entities.len());
    for entity in entities {
        let change = match pages.get(entity) {
            Some(record) => wire::change::Change::Put(record),
            None => wire::change::Change::Remove((*entity).into()),
        };
        let change = wire::Change { change: Some(change) };
        bytes += change.encoded_len() + 8;
        if bytes > DELTA_BYTES_MAX {
            return Next::Full;
        }
        changes.push(change);
    }
    Next::Delta(wire::Delta { epoch: newest.epoch.as_bytes().to_vec(), from, to: newest.revision, changes })
}

/// A writer that panicked left whole values behind: each change of the state is a whole one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
