//! One lane of a subscription on this node, and another one when that was given up: its slot, what the slot follows, and the
//! decisions that it allows. The hot path is one `Stamp::take`; everything else goes through the lane's lock. Refuses to talk to Redis.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use limits::answer::{project, retry_after_s};
use limits::ledger::{Ledger, Unknown};
use limits::slot::lease::Tick;
use limits::slot::stamp::{Stale, Stamp};
use limits::slot::{Denial, Slot, Take, Taken};
use limits::syncer::Place;

use super::answer::{LimitAnswers, LimitKind, LimitRefusal};
use super::arena::Seat;
use super::lane::{Lane, State};
use super::terms::{Month, Origin, Terms, mono_ns};
use super::{Checked, Pending};
use crate::clock::Now;
use crate::lock::lock;
use crate::metrics::labels::LimitOutcome;

/// Nothing was heard of the month yet.
const MONTH_UNKNOWN: i64 = i64::MIN;
/// When to ask again where Redis did not answer in time.
const RETRY_UNANSWERED_S: u64 = 1;

/// Two lines of memory that are neighbours hold all that a decision needs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Entry {
    slot: Slot,
    /// Of the terms that the slot follows, the key among them.
    stamp: Stamp,
    /// What Redis said is left of the month, beside the tokens that are here.
    month_left: AtomicI64,
    /// So little that there is nothing more before its end.
    month_is_used_up: AtomicBool,
    /// Requests that wait for Redis' word.
    waiting: AtomicU32,
    /// Changes only under the lane's lock.
    tenant: Mutex<Option<Box<Tenant>>>,
}

/// Whose the entry is.
#[derive(Debug)]
struct Tenant {
    key: u64,
    lane: Arc<Lane>,
    place: Place,
    adopted: Adopted,
}

/// What the slot follows.
#[derive(Clone, Copy, Debug)]
struct Adopted {
    origin: Origin,
    policy_bits: u64,
    policy_revision: u64,
    fleet: u32,
    month: Option<Month>,
}

impl Default for Entry {
    /// Nobody's.
    fn default() -> Entry {
        Entry {
            slot: Slot::new(),
            stamp: Stamp::default(),
            month_left: AtomicI64::new(MONTH_UNKNOWN),
            month_is_used_up: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            tenant: Mutex::new(None),
        }
    }
}

impl Entry {
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The key that it serves, and its place in the lane's syncer.
    pub(super) fn tenant(&self) -> Option<(u64, Place)> {
        lock(&self.tenant).as_ref().map(|tenant| (tenant.key, tenant.place))
    }

    /// Under the lane's lock.
    pub(super) fn close(&self) {
        self.stamp.clear();
        *lock(&self.tenant) = None;
    }

    /// Under the lane's lock.
    pub(super) fn learn_month(&self, state: &State) {
        self.learn(self.tenant().and_then(|(_, place)| state.syncer.ledger(place)));
    }

    fn learn(&self, ledger: Option<&Ledger>) {
        let left = ledger.and_then(Ledger::month_left);
        self.month_left.store(left.unwrap_or(MONTH_UNKNOWN), Ordering::Relaxed);
        self.month_is_used_up.store(ledger.is_some_and(Ledger::is_month_used_up), Ordering::Relaxed);
    }

    /// Decides one request on what is at hand, in nanoseconds and without a lock. None: `check_slowly` has to.
    pub(super) fn check(&self, terms: &Terms, now: Now) -> Option<Checked> {
        match self.stamp.take(&self.slot, terms.stamp(), mono_ns(now)) {
            Ok(Take::Unknown) => None,
            Ok(take) => {
                self.call_for(take);
                Some(self.told(take, terms, now))
            }
            Err(Stale { wake }) => {
                if wake {
                    self.call();
                }
                None
            }
        }
    }

    /// How the limits stand.
    pub(super) fn answers(&self, terms: &Terms, outcome: Option<LimitOutcome>, now: Now) -> LimitAnswers {
        let now_ns = mono_ns(now);
        let answer = project(&terms.core_policy(0), self.slot(), now_ns);
        let month_left = terms.month.map_or(0, |month| self.month_left(month, now_ns));
        terms.answers((answer.remaining, answer.grows_s), month_left, outcome, now)
    }

    /// The refusal of a request for which no answer came in time.
    pub(super) fn unanswered(&self, terms: &Terms, now: Now) -> LimitRefusal {
        let answers = self.answers(terms, Some(LimitOutcome::Unanswered), now);
        LimitRefusal { kind: LimitKind::Rate, retry_after_s: RETRY_UNANSWERED_S, answers }
    }

    fn call_for(&self, take: Take) {
        if matches!(take, Take::Admitted { wake: true, .. }) {
            self.call();
        }
    }

    /// For whoever has the slot now: a call that got lost would have been its last one.
    #[cold]
    fn call(&self) {
        if let Some(tenant) = &*lock(&self.tenant) {
            tenant.lane.call(tenant.place);
        }
    }

    fn told(&self, take: Take, terms: &Terms, now: Now) -> Checked {
        match take {
            Take::Admitted { taken, .. } => {
                let outcome = match taken {
                    Taken::Lease => LimitOutcome::Leased,
                    Taken::Overdraft => LimitOutcome::Overdraft,
                };
                Checked::Admitted(self.answers(terms, Some(outcome), now))
            }
            Take::Denied { until_ns, by } => self.refused(terms, until_ns.saturating_sub(mono_ns(now)), by, now),
            Take::Unknown => Checked::Refused(self.unanswered(terms, now)),
        }
    }

    fn refused(&self, terms: &Terms, retry_ns: u64, by: Denial, now: Now) -> Checked {
        let (kind, outcome) = match by {
            Denial::Rate => (LimitKind::Rate, LimitOutcome::OverRate),
            Denial::Quota => (LimitKind::Quota, LimitOutcome::OverQuota),
        };
        let mut answers = self.answers(terms, Some(outcome), now);
        let mut retry_after_s = retry_after_s(retry_ns);
        match (kind, &mut answers.quota) {
            (LimitKind::Rate, _) => (answers.rate.remaining, answers.rate.reset_s) = (0, retry_after_s),
            (LimitKind::Quota, Some(quota)) => {
                quota.remaining = 0;
                // A lost count may be back in a moment.
                if self.month_is_used_up.load(Ordering::Relaxed) {
                    retry_after_s = quota.reset_s.max(1);
                }
            }
            (LimitKind::Quota, None) => {}
        }
        Checked::Refused(LimitRefusal { kind, retry_after_s, answers })
    }

    fn month_left(&self, month: Month, now_ns: u64) -> i64 {
        let here = i64::from(self.slot().held(Tick::of(now_ns))) - i64::from(self.slot().owed());
        let left = match self.month_left.load(Ordering::Relaxed) {
            MONTH_UNKNOWN => i64::try_from(month.included).unwrap_or(i64::MAX),
            left => left,
        };
        left.saturating_add(here)
    }
}

impl Seat {
    /// Under the lane's lock: begins to serve a key.
    pub(super) fn open(&self, lane: &Arc<Lane>, state: &mut State, terms: &Terms, now: Now) {
        let policy_revision = terms.origin.revision;
        // Held throughout: a call that comes meanwhile waits for whom it is for.
        let mut tenant = lock(&self.tenant);
        self.month_left.store(MONTH_UNKNOWN, Ordering::Relaxed);
        self.month_is_used_up.store(false, Ordering::Relaxed);
        // Before the slot gets anything that could be taken.
        self.stamp.set(terms.stamp());
        let place = state.syncer.open(terms.key, self.clone(), terms.core_policy(policy_revision), terms.fleet);
        state.syncer.set_month(place, terms.core_month(now));
        let adopted = Adopted {
            origin: terms.origin,
            policy_bits: terms.policy_bits(),
            policy_revision,
            fleet: terms.fleet,
            month: terms.month,
        };
        *tenant = Some(Box::new(Tenant { key: terms.key, lane: Arc::clone(lane), place, adopted }));
    }

    /// Decides a request that `check` could not, or that has waited, under the lane's lock. None: the entry is not the key's any
    /// more; look the key up again.
    pub(super) fn check_slowly(&self, lane: &Arc<Lane>, terms: &Terms, now: Now) -> Option<Checked> {
        let mut state = lane.lock();
        let place = self.place_of(terms.key)?;
        if !self.stamp.is(terms.stamp()) {
            self.follow(&mut state, terms, now);
        }
        // An answer may have come while the lock was awaited.
        let take = self.slot().take_again(mono_ns(now));
        if take != Take::Unknown {
            self.call_for(take);
            return Some(self.told(take, terms, now));
        }
        Some(match state.syncer.decide_unknown(place, mono_ns(now)) {
            Unknown::Admitted => Checked::Admitted(self.answers(terms, Some(LimitOutcome::Share), now)),
            Unknown::Refused { retry_ns, by } => self.refused(terms, retry_ns, by, now),
            Unknown::Wait => {
                drop(state);
                lane.hurry();
                let pending = Pending { seat: self.clone(), lane: Arc::clone(lane), terms: *terms };
                Checked::Unknown(Box::new(pending), self.answers(terms, None, now))
            }
        })
    }

    pub(super) fn begin_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// The last one that leaves says so: nothing needs to be asked for its sake.
    pub(super) fn end_waiting(&self, lane: &Lane, key: u64) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut state = lane.lock();
            if let Some(place) = self.place_of(key)
                && self.waiting.load(Ordering::Acquire) == 0
            {
                state.syncer.stop_waiting(place);
            }
        }
    }

    fn place_of(&self, key: u64) -> Option<Place> {
        self.tenant().filter(|(tenant, _)| *tenant == key).map(|(_, place)| place)
    }

    /// Brings the slot under newer terms. A request that was pinned to an older snapshot of the same epoch changes nothing and is
    /// decided by the newer terms.
    fn follow(&self, state: &mut State, terms: &Terms, now: Now) {
        let mut tenant = lock(&self.tenant);
        let Some(tenant) = tenant.as_mut().filter(|tenant| tenant.adopted.is_before(terms)) else { return };
        let Tenant { lane, place, adopted, .. } = &mut **tenant;
        if adopted.policy_bits != terms.policy_bits() {
            // A new epoch goes on far beyond the old one's revisions, but which of two is later is not known here: a request may still be
            // pinned to the old one, and another database counts from the start. Redis follows the highest, so this one has to be it.
            adopted.policy_revision = terms.origin.revision.max(adopted.policy_revision.saturating_add(1));
        }
        if adopted.policy_bits != terms.policy_bits() || adopted.fleet != terms.fleet {
            let policy = terms.core_policy(adopted.policy_revision);
            state.syncer.change(*place, policy, terms.fleet, mono_ns(now));
        }
        if adopted.month != terms.month {
            state.syncer.set_month(*place, terms.core_month(now));
            self.learn(state.syncer.ledger(*place));
        }
        let (origin, policy_bits, fleet, month) = (terms.origin, terms.policy_bits(), terms.fleet, terms.month);
        *adopted = Adopted { origin, policy_bits, fleet, month, ..*adopted };
        self.stamp.set(terms.stamp());
        lane.hurry();
    }
}

impl Adopted {
    fn is_before(&self, terms: &Terms) -> bool {
        let period = |month: Option<Month>| month.map_or(0, |month| month.period);
        let (mine, theirs) = (self.origin, terms.origin);
        mine.epoch != theirs.epoch
            || mine.revision < theirs.revision
            || (mine.revision == theirs.revision && period(self.month) < period(terms.month))
    }
}
