//! Drives one node's keys of one hash-tag group: gathers what they have to say into one message, hands the answers out, and says
//! when it wants to be woken. Refuses to send: the caller moves the messages and brings the time.
//!
//! The driver's loop: `poll` → send the request; `hear` what comes; sleep until `wake_at_ns` or until a slot calls. After every
//! `hear` it decides its waiting requests anew.

mod desks;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

pub use self::desks::Place;
use self::desks::{Desk, Desks};
use crate::ledger::{Ledger, MonthTerms, Reach, Unknown};
use crate::link::{Heard, Link};
use crate::mutant::{self, Mutant};
use crate::overshoot::{Overshoot, Overshoots};
use crate::policy::Policy;
use crate::slot::Slot;
use crate::wire::{ASKS_MAX, Ask, Reply, Request};

/// Keys that one `poll` looks at, at most: the caller holds a lock meanwhile. The rest follows with the next one.
const VISITS_MAX: usize = 4_096;

/// `S`: how the caller keeps a slot.
#[derive(Debug)]
pub struct Syncer<S = Arc<Slot>> {
    link: Link,
    desks: Desks<S>,
    called: VecDeque<Place>,
    due: BinaryHeap<Reverse<(u64, Place)>>,
    /// The asks under way.
    flight: Vec<(Place, Ask)>,
    /// Keys whose debts stand in a set that is not acknowledged; they go with every message until it is.
    owing: Vec<Place>,
    /// The process ends: everything goes back, nothing is asked for.
    leaving: bool,
    overshoots: Overshoots,
}

impl<S: AsRef<Slot>> Syncer<S> {
    /// `node` names the process among those that run at the same time; `birth` tells it from those before it (any number
    /// that differs: a start time, or chance).
    pub fn new(node: u64, birth: u64) -> Self {
        Syncer {
            link: Link::new(node, birth),
            desks: Desks::new(),
            called: VecDeque::new(),
            due: BinaryHeap::new(),
            flight: Vec::new(),
            owing: Vec::new(),
            leaving: false,
            overshoots: Overshoots::default(),
        }
    }

    /// Takes a key on. Its slot is a new one, or that of a key that was given up; it may owe at once if Redis has admitted the process.
    pub fn open(&mut self, key: u64, slot: S, policy: Policy, fleet: u32) -> Place {
        slot.as_ref().renew();
        let mut ledger = Ledger::new(key, policy, fleet);
        if self.leaving {
            ledger.leave(slot.as_ref());
        } else if self.link.is_admitted() {
            ledger.admit(slot.as_ref());
        }
        self.desks.open(slot, ledger)
    }

    /// Forgets a key that has been quiet for so long that nothing of it matters: its slot admits nothing any more and knows
    /// nothing, its place and its slot may go to another key. False: it has to stay. Whoever still holds the slot looks the key up again.
    pub fn close(&mut self, place: Place, now_ns: u64) -> bool {
        let quiet = |desk: &Desk<S>| desk.ledger.is_quiet(now_ns) && !desk.slot.as_ref().has_news();
        self.desks.get(place).is_some_and(quiet) && self.give_up(place, now_ns)
    }

    /// `close`, however short the silence.
    pub(crate) fn give_up(&mut self, place: Place, now_ns: u64) -> bool {
        // While Redis is away a key that begins anew would begin its share of the outage anew.
        let up = self.link.reach() == Reach::Up;
        let may = |desk: &Desk<S>| up && desk.ledger.is_idle(desk.slot.as_ref(), now_ns) && desk.slot.as_ref().seal();
        let closed = self.desks.get(place).is_some_and(may) || mutant::is(Mutant::GivenUpInDebt);
        if closed {
            self.desks.close(place);
        }
        closed
    }

    pub fn change(&mut self, place: Place, policy: Policy, fleet: u32, now_ns: u64) {
        if let Some(desk) = self.desks.get_mut(place) {
            desk.ledger.change(desk.slot.as_ref(), policy, fleet, now_ns);
        }
        self.call(place);
    }

    pub fn set_month(&mut self, place: Place, terms: Option<MonthTerms>) {
        if let Some(desk) = self.desks.get_mut(place) {
            desk.ledger.set_month(desk.slot.as_ref(), terms);
        }
    }

    pub fn ledger(&self, place: Place) -> Option<&Ledger> {
        self.desks.get(place).map(|desk| &desk.ledger)
    }

    pub fn reach(&self) -> Reach {
        self.link.reach()
    }

    pub fn is_admitted(&self) -> bool {
        self.link.is_admitted()
    }

    /// A request that no slot can decide is worth its wait, or is decided alone.
    pub fn is_introduced(&self) -> bool {
        self.link.is_admitted() || matches!(self.link.reach(), Reach::Down { .. })
    }

    /// The process ends: from here on every message gives back what is held and tells what is owed, and no request is admitted
    /// but on what is held until then. To be followed by `poll` and `hear` until `is_at_rest`, or until nobody may wait any longer.
    pub fn leave(&mut self) {
        self.leaving = true;
        for place in self.desks.places() {
            if let Some(desk) = self.desks.get_mut(place) {
                desk.ledger.leave(desk.slot.as_ref());
            }
            self.call(place);
        }
    }

    /// Nothing is left to be said.
    pub fn is_at_rest(&self) -> bool {
        self.called.is_empty() && self.flight.is_empty() && self.owing.is_empty()
    }

    /// What was seen since it was taken last.
    pub fn take_overshoots(&mut self) -> Overshoots {
        std::mem::take(&mut self.overshoots)
    }

    /// A slot called (`wake`).
    pub fn call(&mut self, place: Place) {
        if let Some(desk) = self.desks.get_mut(place)
            && !desk.called
        {
            desk.called = true;
            self.called.push_back(place);
        }
    }

    /// Decides a request that the slot could not.
    pub fn decide_unknown(&mut self, place: Place, now_ns: u64) -> Unknown {
        self.link_tick(now_ns);
        let reach = self.link.reach();
        let Some(desk) = self.desks.get_mut(place) else { return Unknown::Wait };
        let decided = desk.ledger.decide_unknown(reach, now_ns);
        // A question to ask, or a debt to tell. A refusal has nothing to say.
        if reach == Reach::Up && !matches!(decided, Unknown::Refused { .. }) {
            self.call(place);
        }
        decided
    }

    /// Nobody waits for this key any more.
    pub fn stop_waiting(&mut self, place: Place) {
        if let Some(desk) = self.desks.get_mut(place) {
            desk.ledger.stop_waiting();
        }
    }

    /// The next message, if there is something to say and the link is free.
    pub fn poll(&mut self, now_ns: u64) -> Option<Request> {
        self.link_tick(now_ns);
        if self.link.free_at_ns().is_none_or(|at| now_ns < at) {
            return None;
        }
        if !self.link.is_admitted() || matches!(self.link.reach(), Reach::Down { .. }) {
            return Some(self.link.begin(Vec::new(), false, now_ns));
        }
        self.call_due(now_ns);
        self.gather(now_ns);
        if self.flight.is_empty() {
            return None;
        }
        let asks = self.flight.iter().map(|(_, ask)| *ask).collect();
        Some(self.link.begin(asks, !self.owing.is_empty(), now_ns))
    }

    /// Hands an answer out. False: it answers nothing that is under way.
    pub fn hear(&mut self, reply: &Reply, now_ns: u64) -> bool {
        let was_down = matches!(self.link.reach(), Reach::Down { .. });
        match self.link.hear(reply, now_ns) {
            Heard::Nothing => return false,
            Heard::Rejected => self.lose_flight(),
            Heard::Admitted => {
                if !self.leaving {
                    self.desks.iter().for_each(|desk| desk.ledger.admit(desk.slot.as_ref()));
                }
            }
            Heard::Done { sent_ns } => self.hand_out(reply, sent_ns, now_ns),
        }
        if was_down {
            // Everybody reports what was spent meanwhile.
            self.desks.places().into_iter().for_each(|place| self.call(place));
        }
        true
    }

    /// When `poll` has to be called though nothing was heard and no slot called; None: never.
    pub fn wake_at_ns(&self) -> Option<u64> {
        let (timer, free) = (self.link.timer_ns(), self.link.free_at_ns());
        let silent = !self.link.is_admitted() || !self.called.is_empty() || !self.owing.is_empty();
        let due = self.due.peek().map(|Reverse((at, _))| *at);
        let say = if silent { free } else { free.and_then(|free| due.map(|due| due.max(free))) };
        [timer, say].into_iter().flatten().min()
    }

    fn link_tick(&mut self, now_ns: u64) {
        if self.link.tick(now_ns) {
            self.lose_flight();
        }
    }

    fn call_due(&mut self, now_ns: u64) {
        while let Some(Reverse((at, place))) = self.due.peek().copied()
            && at <= now_ns
        {
            self.due.pop();
            let is_due = self.desks.get(place).is_some_and(|desk| desk.due_ns == Some(at));
            if is_due {
                if let Some(desk) = self.desks.get_mut(place) {
                    desk.due_ns = None;
                }
                self.call(place);
            }
        }
    }

    /// First the keys whose debts are not acknowledged, then those that called, as many as one message holds.
    fn gather(&mut self, now_ns: u64) {
        let may_freeze = self.owing.is_empty();
        for place in self.owing.clone() {
            self.visit(place, false, now_ns);
        }
        let (mut later, mut visits) = (Vec::new(), 0);
        while self.flight.len() < ASKS_MAX
            && visits < VISITS_MAX
            && let Some(place) = self.called.pop_front()
        {
            visits += 1;
            if let Some(desk) = self.desks.get_mut(place) {
                desk.called = false;
            }
            if self.desks.get(place).is_some_and(|desk| desk.ledger.is_asked()) {
                // It is in this very message.
                continue;
            }
            self.visit(place, may_freeze, now_ns);
            let waits = |desk: &Desk<S>| !may_freeze && desk.slot.as_ref().owed() > 0;
            if self.desks.get(place).is_some_and(waits) {
                later.push(place);
            }
        }
        later.into_iter().for_each(|place| self.call(place));
    }

    fn visit(&mut self, place: Place, may_freeze: bool, now_ns: u64) {
        let reach = self.link.reach();
        let Some(desk) = self.desks.get_mut(place) else { return };
        let visit = desk.ledger.visit(desk.slot.as_ref(), reach, may_freeze, now_ns);
        if let Some(at) = visit.again_ns {
            schedule(desk, &mut self.due, place, at);
        }
        if let Some(ask) = visit.ask {
            if ask.debt > 0 && may_freeze {
                self.owing.push(place);
            }
            self.flight.push((place, ask));
        }
    }

    fn hand_out(&mut self, reply: &Reply, sent_ns: u64, now_ns: u64) {
        let settling = self.link.reach() != Reach::Up;
        let jitter = self.link.jitter();
        self.owing.clear();
        let flight = std::mem::take(&mut self.flight);
        for ((place, ask), grant) in flight.iter().zip(&reply.grants) {
            let Some(desk) = self.desks.get_mut(*place) else { continue };
            let asked = (ask, grant);
            self.overshoots.add(ask.algorithm, Overshoot::of(ask, grant, desk.ledger.terms()));
            desk.ledger.answered(desk.slot.as_ref(), asked, reply.now_us, sent_ns, now_ns, (settling, jitter));
            if let Some(at) = desk.ledger.again_ns(desk.slot.as_ref(), now_ns) {
                schedule(desk, &mut self.due, *place, at);
            }
            if self.leaving {
                // The other generation, or what this very answer brought.
                self.call(*place);
            }
        }
    }

    fn lose_flight(&mut self) {
        for (place, ask) in std::mem::take(&mut self.flight) {
            if let Some(desk) = self.desks.get_mut(place) {
                desk.ledger.lost(ask.refund);
            }
            self.call(place);
        }
        let owed = !self.owing.is_empty();
        let desks = &self.desks;
        self.owing.retain(|place| desks.get(*place).is_some_and(|desk| desk.ledger.frozen() > 0));
        if owed && self.owing.is_empty() {
            self.link.skip_debts();
        }
    }
}

/// Only ever sooner: an entry that a sooner one replaced is passed over when its time comes.
fn schedule<S>(desk: &mut Desk<S>, due: &mut BinaryHeap<Reverse<(u64, Place)>>, place: Place, at_ns: u64) {
    if desk.due_ns.is_none_or(|due_ns| at_ns < due_ns) {
        desk.due_ns = Some(at_ns);
        due.push(Reverse((at_ns, place)));
    }
}
