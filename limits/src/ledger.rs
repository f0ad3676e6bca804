//! The syncer's side of one slot: what to ask of Redis, what to do with the answer, what is owed and what goes back. One task
//! drives it; request threads see only the slot. Refuses to number or send messages: that is the link's.

mod ask;
mod month;
mod reply;

use self::month::Month;
pub use self::month::MonthTerms;
use crate::demand::Demand;
use crate::policy::{OnRedisDown, Policy};
use crate::share::Share;
use crate::slot::lease::Tick;
use crate::slot::{CALL_ALWAYS, Cell, Denial, Slot};
use crate::terms::{FORGET_AFTER_NS, FORGET_ALONE_AFTER_NS, MS_NS, Terms, US_NS};
use crate::wire::{Receipt, Refund};

/// When a client may ask again where nothing more is admitted: by a closed policy while Redis is down, or by a process that ends.
const CLOSED_RETRY_NS: u64 = 1_000 * MS_NS;

/// How the link to Redis stands, as far as a key is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Redis answers.
    Up,
    /// It does not, since then.
    Down { since_ns: u64 },
    /// It answers again, but other nodes may not have told yet what they spent meanwhile: report, ask for nothing.
    Settling { since_ns: u64 },
}

/// What becomes of a request that the slot could not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    Admitted,
    /// An answer is, or will at once be, under way: wait for it, at most `WAIT_MAX_NS`.
    Wait,
    Refused {
        retry_ns: u64,
        by: Denial,
    },
}

/// Totals for metrics and audits, in tokens since the ledger began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub leased: u64,
    pub refunded: u64,
    /// Void before they were spent, and too late to go back.
    pub expired: u64,
    pub owed: u64,
}

#[derive(Debug)]
pub struct Ledger {
    key: u64,
    policy: Policy,
    terms: Terms,
    month: Option<Month>,
    demand: Demand,
    /// Receipts of the tokens in each cell, the oldest ones where leases have joined.
    first: Option<Receipt>,
    second: Option<Receipt>,
    /// Tokens in the cells at the last visit.
    seen: u32,
    /// Debts in a message that has not been acknowledged.
    frozen: u32,
    owed_since_ns: Option<u64>,
    /// Requests are waiting for an answer.
    waiting: bool,
    /// A question is under way.
    asked: bool,
    /// No question before then: others want the same tokens.
    calm_until_ns: u64,
    granted_at_ns: u64,
    /// When to look whether a long denial still holds.
    recheck_ns: u64,
    level_is_high: bool,
    /// Redis has heard of this policy, as far as a change of it is concerned.
    is_told: bool,
    share: Option<Share>,
    /// The process ends.
    leaving: bool,
    /// Only a mutant puts something here.
    refund_again: Option<Refund>,
    tally: Tally,
}

impl Ledger {
    pub fn new(key: u64, policy: Policy, fleet: u32) -> Ledger {
        Ledger {
            key,
            policy,
            terms: Terms::of(&policy, fleet),
            month: None,
            demand: Demand::default(),
            first: None,
            second: None,
            seen: 0,
            frozen: 0,
            owed_since_ns: None,
            waiting: false,
            asked: false,
            calm_until_ns: 0,
            granted_at_ns: 0,
            recheck_ns: 0,
            level_is_high: true,
            is_told: true,
            share: None,
            leaving: false,
            refund_again: None,
            tally: Tally::default(),
        }
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Tokens owed in a message that has not been acknowledged.
    pub fn frozen(&self) -> u32 {
        self.frozen
    }

    /// A question is under way.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Redis has admitted the process: a key that it has not asked about may be owed on.
    pub(crate) fn admit(&self, slot: &Slot) {
        if slot.contact().is_none() && self.frozen == 0 {
            slot.set_overdraft(self.terms.overdraft);
        }
    }

    /// Nothing more is owed or asked for; what is held goes back with the next visits.
    pub(crate) fn leave(&mut self, slot: &Slot) {
        self.leaving = true;
        self.waiting = false;
        slot.lower_overdraft(0);
    }

    /// Follows a newer policy or another size of the fleet. The overdraft is only lowered here; the next answer raises it.
    /// Tokens in hand stay good until their deadline.
    pub(crate) fn change(&mut self, slot: &Slot, policy: Policy, fleet: u32, now_ns: u64) {
        if policy.revision() < self.policy.revision() {
            return;
        }
        let before = std::mem::replace(&mut self.policy, policy);
        self.terms = Terms::of(&policy, fleet);
        if let Some(share) = self.share.as_mut() {
            share.follow(&policy, &self.terms, now_ns);
        }
        if before != policy {
            // The bucket keeps its filled fraction, and with it what may be owed of it. A denial says nothing about the new
            // terms. Ask at once.
            let left = if slot.denial().0 > 0 { 0 } else { slot.overdraft_left() };
            let kept = u64::from(left) * u64::from(policy.burst()) / u64::from(before.burst());
            slot.lower_overdraft(slot.owed().saturating_add(u32::try_from(kept).unwrap_or(u32::MAX)));
            slot.deny_until(0, Denial::Rate);
            self.calm_until_ns = 0;
            self.is_told = false;
            slot.set_low_credit(CALL_ALWAYS);
        }
        slot.lower_overdraft(self.terms.overdraft.saturating_sub(self.frozen));
    }

    /// The subscription's monthly quota, or that it has none. What it refused before is judged anew.
    pub(crate) fn set_month(&mut self, slot: &Slot, terms: Option<MonthTerms>) {
        slot.set_low_credit(CALL_ALWAYS);
        self.month = terms.map(|terms| Month::follow(self.month.take(), terms));
        if slot.denial().1 == Denial::Quota {
            slot.deny_until(0, Denial::Rate);
        }
    }

    /// What is left of the month as far as this node knows: Redis' last word, or its own part where the count is lost.
    pub fn month_left(&self) -> Option<i64> {
        self.month.as_ref().and_then(Month::known_left)
    }

    /// The month is used up, by Redis' count. A count that is lost, or was never heard, is not.
    pub fn is_month_used_up(&self) -> bool {
        self.month.as_ref().is_some_and(Month::is_used_up)
    }

    /// So far from its limits that a debt may be told late.
    fn is_patient(&self) -> bool {
        self.level_is_high && self.month.is_none()
    }

    /// Decides a request that the slot could not.
    pub(crate) fn decide_unknown(&mut self, reach: Reach, now_ns: u64) -> Unknown {
        if let Some(retry_ns) = self.month.as_ref().and_then(|month| month.refuses(now_ns)) {
            return Unknown::Refused { retry_ns, by: Denial::Quota };
        }
        match reach {
            Reach::Up if now_ns < self.calm_until_ns => {
                Unknown::Refused { retry_ns: self.calm_until_ns - now_ns, by: Denial::Rate }
            }
            Reach::Up if self.leaving => Unknown::Refused { retry_ns: CLOSED_RETRY_NS, by: Denial::Rate },
            Reach::Up => {
                self.waiting = true;
                // The first answer after an outage is under way. Until it is there the share goes on, so that nobody is refused
                // because it is slow.
                let goes_on = self.share.as_ref().is_some_and(|share| share.goes_on(now_ns));
                if goes_on && self.decide_alone(now_ns) == Unknown::Admitted {
                    Unknown::Admitted
                } else {
                    Unknown::Wait
                }
            }
            Reach::Down { since_ns } | Reach::Settling { since_ns } => {
                let share = self.share.get_or_insert_with(|| Share::new(&self.policy, &self.terms, since_ns));
                share.is_for(since_ns, now_ns);
                self.decide_alone(now_ns)
            }
        }
    }

    /// Nobody waits any more.
    pub(crate) fn stop_waiting(&mut self) {
        self.waiting = false;
    }

    /// Holds nothing, owes nothing, and knows nothing that matters: the slot may be given to another key.
    pub fn is_idle(&self, slot: &Slot, now_ns: u64) -> bool {
        let empty = Cell::BOTH.into_iter().all(|cell| slot.lease(cell).tokens == 0);
        let owes = self.frozen > 0 || slot.owed() > 0 || self.share.as_ref().is_some_and(Share::is_owing);
        empty && !owes && !self.asked && now_ns >= slot.denial().0 && !self.waiting
    }

    /// Without demand for so long that a key that begins anew could do no more than this one.
    pub(crate) fn is_quiet(&self, now_ns: u64) -> bool {
        let is_alone = self.month.as_ref().is_some_and(Month::is_alone);
        self.demand.quiet_ns(now_ns) >= if is_alone { FORGET_ALONE_AFTER_NS } else { FORGET_AFTER_NS }
    }

    fn decide_alone(&mut self, now_ns: u64) -> Unknown {
        if let Some(retry_ns) = self.month.as_ref().and_then(|month| month.refuses_alone(self.terms.fleet, now_ns)) {
            return Unknown::Refused { retry_ns, by: Denial::Quota };
        }
        let Some(share) = self.share.as_mut() else { return Unknown::Wait };
        let admitted = match self.policy.when_down() {
            OnRedisDown::FairShare => share.take(now_ns),
            OnRedisDown::Open => {
                share.take_anyway(now_ns);
                true
            }
            OnRedisDown::Closed => false,
        };
        if admitted {
            if let Some(month) = self.month.as_mut() {
                month.spend_alone(1);
            }
            return Unknown::Admitted;
        }
        let closed = self.policy.when_down() == OnRedisDown::Closed;
        let retry_ns = if closed { CLOSED_RETRY_NS } else { share.wait_us().saturating_mul(US_NS) };
        Unknown::Refused { retry_ns, by: Denial::Rate }
    }

    fn receipt(&mut self, cell: Cell) -> &mut Option<Receipt> {
        match cell {
            Cell::First => &mut self.first,
            Cell::Second => &mut self.second,
        }
    }

    fn held_anyhow(slot: &Slot) -> u32 {
        Cell::BOTH.into_iter().map(|cell| slot.lease(cell).tokens).fold(0, u32::saturating_add)
    }

    fn held(slot: &Slot, now_ns: u64) -> u32 {
        slot.held(Tick::of(now_ns))
    }
}
