//! A visit: what was spent, what goes back, what is owed, and what to ask for. Refuses to ask when there is nothing to say.

use super::{Ledger, Reach};
use crate::mutant::{self, Mutant};
use crate::share::Share;
use crate::slot::lease::Tick;
use crate::slot::{Cell, Slot};
use crate::terms::{LAZY_MONTH_REPORT_NS, LAZY_REPORT_NS, LAZY_ROUND_NS};
use crate::wire::{Ask, Refund};

/// What a visit came to.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) ask: Option<Ask>,
    /// When to come again though nobody calls.
    pub(crate) again_ns: Option<u64>,
}

impl Ledger {
    /// `may_freeze`: no debts of this link are unacknowledged, so that a new set may begin.
    pub(crate) fn visit(&mut self, slot: &Slot, reach: Reach, may_freeze: bool, now_ns: u64) -> Visit {
        self.count(slot, now_ns);
        if matches!(reach, Reach::Down { .. }) {
            return Visit { ask: None, again_ns: None };
        }
        let up = reach == Reach::Up;
        if self.asked {
            // The answer is under way.
            return Visit { ask: None, again_ns: None };
        }
        let want = if up { self.want(slot, now_ns) } else { 0 };
        if may_freeze && self.frozen == 0 && (want > 0 || !up || self.report_is_due(slot, now_ns)) {
            self.freeze(slot, now_ns);
        }
        let refund = if up { self.refund(slot, want, now_ns) } else { None };
        let again_ns = self.again_ns(slot, now_ns);
        let probe = up
            && !self.leaving
            && self.month.as_ref().is_some_and(|month| month.probe_at_ns().is_some_and(|at| now_ns >= at));
        if want == 0 && self.frozen == 0 && refund.is_none() && !probe {
            return Visit { ask: None, again_ns };
        }
        self.asked = true;
        if want > 0 {
            self.demand.forget_recent(now_ns);
        }
        Visit { ask: Some(self.ask(want, refund)), again_ns }
    }

    fn ask(&self, want: u32, refund: Option<Refund>) -> Ask {
        Ask {
            key: self.key,
            revision: self.policy.revision(),
            algorithm: self.policy.algorithm(),
            per_minute: self.policy.per_minute(),
            burst: self.policy.burst(),
            debt: self.frozen,
            want,
            refund,
            quota: self.month.as_ref().map(|month| month.ask()),
        }
    }

    /// Learns the demand from what is gone from the cells and what no lease could serve.
    fn count(&mut self, slot: &Slot, now_ns: u64) {
        let held = Self::held_anyhow(slot);
        let wanted = self.seen.saturating_sub(held).saturating_add(slot.look());
        self.seen = held;
        self.demand.count(wanted, now_ns, &self.terms);
        if slot.owed() > 0 && self.owed_since_ns.is_none() {
            self.owed_since_ns = Some(now_ns);
        }
    }

    fn want(&self, slot: &Slot, now_ns: u64) -> u32 {
        if self.leaving {
            return 0;
        }
        let denied = now_ns < slot.denial().0;
        let idle = self.demand.is_idle(now_ns, &self.terms);
        let recheck = denied && now_ns >= self.recheck_ns && !idle;
        let used_up = self.month.as_ref().is_some_and(|month| month.refuses(now_ns).is_some());
        if used_up || now_ns < self.calm_until_ns || (denied && !recheck) {
            return 0;
        }
        if !self.is_told {
            return 1;
        }
        let least = u32::from(self.waiting || recheck);
        // An idle key would give back what a fading forecast asks for.
        let forecast = if idle { 0 } else { self.demand.forecast(&self.terms).max(self.demand.doubled()) };
        let need = forecast.max(least).min(self.terms.want_max);
        let held = Self::held(slot, now_ns);
        // Tokens in hand cost nothing: ask when a quarter is left.
        if held * 4 > need && !(self.waiting && held == 0) {
            return 0;
        }
        need.saturating_sub(held)
    }

    /// A debt is told when more than half of the overdraft is used, or after a tick; on a bucket that is far from empty, later.
    fn report_is_due(&self, slot: &Slot, now_ns: u64) -> bool {
        if self.share.as_ref().is_some_and(Share::is_owing) {
            return true;
        }
        let owed = slot.owed();
        owed > 0
            && (self.leaving || owed.saturating_mul(2) > self.terms.overdraft || now_ns >= self.report_at_ns(now_ns))
    }

    fn report_at_ns(&self, now_ns: u64) -> u64 {
        let since = self.owed_since_ns.unwrap_or(now_ns);
        if !self.level_is_high {
            return since.saturating_add(self.terms.tick_ns);
        }
        let patience = if self.is_patient() { LAZY_REPORT_NS } else { LAZY_MONTH_REPORT_NS };
        // Those that nobody waits for share their messages.
        since.saturating_add(patience).next_multiple_of(LAZY_ROUND_NS)
    }

    fn freeze(&mut self, slot: &Slot, now_ns: u64) {
        self.frozen = slot.collect_owed();
        self.owed_since_ns = None;
        if let Some(share) = self.share.as_mut() {
            self.frozen = self.frozen.saturating_add(share.report(now_ns));
        }
        self.tally.owed += u64::from(self.frozen);
        if let Some(month) = self.month.as_mut() {
            month.reported();
        }
    }

    /// Void tokens, all tokens of an idle key, or those beyond twice the forecast go back: one cell at a time.
    fn refund(&mut self, slot: &Slot, want: u32, now_ns: u64) -> Option<Refund> {
        if let Some(again) = self.refund_again.take() {
            return Some(again);
        }
        let now = Tick::of(now_ns);
        let idle = self.leaving || self.demand.is_idle(now_ns, &self.terms);
        let settled = now_ns.saturating_sub(self.granted_at_ns) >= 2 * self.terms.tick_ns;
        let forecast = self.demand.forecast(&self.terms);
        let held = slot.held(now);
        let spare = if want > 0 {
            0
        } else if idle {
            held
        } else if settled && held > forecast.saturating_mul(2).saturating_add(2) {
            held - forecast
        } else {
            0
        };
        for cell in Cell::BOTH {
            let lease = slot.lease(cell);
            let back = if lease.is_live(now) { spare } else { u32::MAX };
            let tokens = if lease.tokens > 0 { slot.withdraw(cell, back) } else { 0 };
            if tokens == 0 {
                continue;
            }
            self.seen = self.seen.saturating_sub(tokens);
            let receipt = *self.receipt(cell);
            match receipt {
                Some(receipt) => {
                    self.tally.refunded += u64::from(tokens);
                    return Some(Refund { tokens, receipt });
                }
                None => self.tally.expired += u64::from(tokens),
            }
        }
        None
    }

    /// When to come again though nobody calls.
    pub(crate) fn again_ns(&self, slot: &Slot, now_ns: u64) -> Option<u64> {
        let tick = now_ns.saturating_add(self.terms.tick_ns);
        let holding = (Self::held_anyhow(slot) > 0).then_some(tick);
        let owing = (slot.owed() > 0).then(|| self.report_at_ns(now_ns).max(now_ns + 1));
        let sharing = self.share.is_some().then_some(tick);
        let calm = (now_ns < self.calm_until_ns && self.waiting).then_some(self.calm_until_ns);
        let denied = (now_ns < slot.denial().0).then(|| self.recheck_ns.max(now_ns.saturating_add(self.terms.tick_ns)));
        let idle = self.demand.is_idle(now_ns, &self.terms);
        let month = self.month.as_ref().filter(|_| !idle).and_then(|month| month.probe_at_ns());
        let month = month.map(|at| at.max(now_ns + 1));
        [holding, owing, sharing, calm, denied, month].into_iter().flatten().min()
    }

    /// The message is lost, or its answer is: what it was to carry back is gone, what it owed stays frozen.
    pub(crate) fn lost(&mut self, refund: Option<Refund>) {
        self.asked = false;
        if mutant::is(Mutant::DebtNotRetried) {
            self.frozen = 0;
        }
        if mutant::is(Mutant::RefundRetried) {
            self.refund_again = refund;
        }
    }
}
