//! Limits of a fleet: every gateway holds leases from the same buckets in Redis. Finds or makes the slot of a request; what it
//! may admit is the core's matter, and the conversation with Redis the drivers'.

use std::sync::{Arc, OnceLock};

use limits::script::{self, GROUPS, group_of};
use tokio::sync::mpsc;

use super::answer::LimitAnswers;
use super::arena::Arena;
use super::entry::Entry;
use super::lane::{Lane, State};
use super::terms::{Terms, mono_ns};
use super::{Checked, LimitKind, LimitRefusal};
use crate::clock::Now;
use crate::metrics::labels::LimitOutcome;

/// How often a key is looked up anew when its slot was given up at that very moment.
const LOOK_UPS_MAX: usize = 3;
/// Bits of the numbers that Redis' doubles hold.
const NUMBER_BITS: u32 = 53;

#[derive(Debug)]
pub(super) struct Fleet {
    arena: Arena,
    /// One for all keys, or one for each hash-tag group.
    lanes: Box<[OnceLock<Arc<Lane>>]>,
    /// Lanes that have begun, each once: at most `GROUPS`.
    begun: mpsc::UnboundedSender<Arc<Lane>>,
    /// Names this process among those that run at the same time.
    node: u64,
    birth: u64,
}

impl Fleet {
    /// `grouped`: a Redis Cluster, where the keys of one conversation lie on one machine. The receiver gets each lane once.
    pub(super) fn new(grouped: bool) -> (Fleet, mpsc::UnboundedReceiver<Arc<Lane>>) {
        let lanes = if grouped { usize::from(GROUPS) } else { 1 };
        let (begun, lanes_begun) = mpsc::unbounded_channel();
        let lanes = (0..lanes).map(|_| OnceLock::new()).collect();
        let fleet = Fleet { arena: Arena::new(), lanes, begun, node: random_number(), birth: random_number() };
        if !grouped {
            // It introduces itself before the first request comes.
            fleet.lane(0);
        }
        (fleet, lanes_begun)
    }

    pub(super) fn check(&self, terms: &Terms, now: Now) -> Checked {
        self.check_at_hand(terms, now).unwrap_or_else(|| self.check_slowly(terms, now))
    }

    fn check_at_hand(&self, terms: &Terms, now: Now) -> Option<Checked> {
        self.arena.find(terms.key).and_then(|entry| entry.check(terms, now))
    }

    fn check_slowly(&self, terms: &Terms, now: Now) -> Checked {
        for _ in 0..LOOK_UPS_MAX {
            let Some(lane) = self.lane(terms.key) else { break };
            let checked = self.arena.seat(terms.key).and_then(|seat| seat.check_slowly(lane, terms, now));
            if let Some(checked) = checked {
                return checked;
            }
            self.open(lane, terms, now);
            // A new entry has not heard yet that it is wanted.
            if let Some(checked) = self.check_at_hand(terms, now) {
                return checked;
            }
        }
        // Given up three times within microseconds, though nothing is given up that was used within a minute.
        let answers = untouched(terms, Some(LimitOutcome::Unanswered), now);
        Checked::Refused(LimitRefusal { kind: LimitKind::Rate, retry_after_s: 1, answers })
    }

    /// Takes nothing and makes no slot.
    pub(super) fn peek(&self, terms: &Terms, now: Now) -> LimitAnswers {
        let found = || self.arena.find(terms.key);
        let known = found().map(|entry| (entry, entry.answers(terms, None, now)));
        // Those of another key, if the entry became its meanwhile.
        let is_still = |entry: &Entry| found().is_some_and(|again| std::ptr::eq(entry, again));
        let known = known.filter(|(entry, _)| is_still(entry)).map(|(_, answers)| answers);
        known.unwrap_or_else(|| untouched(terms, None, now))
    }

    /// Until Redis has admitted this process, or is known to be away. In a cluster a conversation begins with its first key.
    pub(super) async fn wait_introduced(&self) {
        let Some(lane) = self.lanes.first().filter(|_| self.lanes.len() == 1).and_then(OnceLock::get) else { return };
        loop {
            // Asked for before the look, so that no answer is missed in between.
            let answered = lane.answered();
            if lane.lock().syncer.is_introduced() {
                return;
            }
            answered.await;
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.arena.len()
    }

    /// After an answer, under the lane's lock: what is left of the month.
    pub(super) fn tell_month(&self, state: &State, key: u64) {
        if let Some(entry) = self.arena.find(key) {
            entry.learn_month(state);
        }
    }

    /// Under the lane's lock: gives up the next `entries_max` entries, where nothing of them matters any more.
    pub(super) fn sweep(&self, state: &mut State, entries_max: usize, now: Now) {
        for _ in 0..entries_max.min(state.seats.len()) {
            if state.swept >= state.seats.len() {
                state.swept = 0;
            }
            let Some(seat) = state.seats.get(state.swept) else { return };
            let tenant = seat.tenant().filter(|(_, place)| state.syncer.close(*place, mono_ns(now)));
            let Some((key, _)) = tenant else {
                state.swept += 1;
                continue;
            };
            seat.close();
            self.arena.give_back(key, seat);
            state.seats.swap_remove(state.swept);
        }
    }

    fn open(&self, lane: &Arc<Lane>, terms: &Terms, now: Now) {
        let mut state = lane.lock();
        // Another thread may have been faster.
        if self.arena.find(terms.key).is_none()
            && let Some(seat) = self.arena.take(terms.key)
        {
            seat.open(lane, &mut state, terms, now);
            self.arena.bind(terms.key, &seat);
            state.seats.push(seat);
        }
    }

    /// None never happens: a group is below `GROUPS`.
    fn lane(&self, key: u64) -> Option<&Arc<Lane>> {
        let (place, keys) = match self.lanes.len() {
            1 => (0, script::Lane::Whole),
            _ => (usize::from(group_of(key)), script::Lane::Group(group_of(key))),
        };
        let lane = self.lanes.get(place)?;
        Some(lane.get_or_init(|| {
            let lane = Arc::new(Lane::new(keys, self.node, self.birth));
            // Without a driver, which is so when the process ends, every key counts as not answered.
            let _nobody_drives = self.begun.send(Arc::clone(&lane));
            lane
        }))
    }
}

/// The figures of a key of which nothing was used.
fn untouched(terms: &Terms, outcome: Option<LimitOutcome>, now: Now) -> LimitAnswers {
    let included = terms.month.map_or(0, |month| i64::try_from(month.included).unwrap_or(i64::MAX));
    terms.answers((u64::from(terms.core_policy(0).burst()), 0), included, outcome, now)
}

/// Chance, so that a restarted process, or the old and the new one of an upgrade, are two nodes.
fn random_number() -> u64 {
    // Without randomness the time tells processes apart well enough.
    let bits = getrandom::u64().unwrap_or_else(|_| crate::clock::unix_ms().unsigned_abs());
    (bits >> (u64::BITS - NUMBER_BITS)).max(1)
}
