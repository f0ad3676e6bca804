//! What an answer changes: a lease, the overdraft, the denial, and when to ask again. Refuses to prolong anything that is held.

use super::Ledger;
use crate::mutant::{self, Mutant};
use crate::slot::lease::{Lease, Tick};
use crate::slot::{CALL_ALWAYS, Denial, Slot};
use crate::terms::{RECHECK_NS, UNITS, US_NS};
use crate::wire::{Ask, Grant, Receipt};

/// Below this part of the bucket a short answer means that others want the same tokens.
const CONTENDED_PART: i64 = 10;

impl Ledger {
    /// `sent_ns`: when the question went out, from which the lease counts. `jitter`: any number, to spread the nodes.
    /// `settling`: the level does not tell yet what other nodes owe.
    pub(crate) fn answered(
        &mut self,
        slot: &Slot,
        (ask, grant): (&Ask, &Grant),
        reply_us: u64,
        sent_ns: u64,
        now_ns: u64,
        (settling, jitter): (bool, u64),
    ) {
        self.asked = false;
        self.frozen = 0;
        self.install(slot, grant, reply_us, sent_ns, now_ns);
        if ask.revision != self.policy.revision() {
            // Its level speaks of terms that no longer hold.
            return;
        }
        self.waiting = false;
        self.is_told = true;
        let level = grant.level.div_euclid(UNITS);
        slot.set_contact(level, now_ns);
        let grows_ns = grant.grows_us.saturating_mul(US_NS);
        slot.set_grows(if grows_ns == 0 { 0 } else { now_ns.saturating_add(grows_ns) });
        self.level_is_high = level * 2 >= i64::from(self.policy.burst());
        if let Some(mut share) = self.share.take_if(|_| !settling) {
            slot.owe(share.report(now_ns));
        }
        self.limit_overdraft(slot, grant, level, settling, now_ns);
        self.calm_down(ask, grant, level, jitter, now_ns);
        if let (Some(month), Some(quota)) = (self.month.as_mut(), grant.quota) {
            month.answered(quota, grant.tokens, self.terms.fleet, now_ns);
            if let Some(for_ns) = month.refuses(now_ns) {
                slot.lower_overdraft(0);
                slot.deny_until(now_ns.saturating_add(for_ns), Denial::Quota);
            }
        }
        // Half of the overdraft may be used before anybody has to know.
        slot.set_low_credit(if self.is_patient() { self.terms.overdraft / 2 } else { CALL_ALWAYS });
    }

    fn install(&mut self, slot: &Slot, grant: &Grant, reply_us: u64, sent_ns: u64, now_ns: u64) {
        if grant.tokens == 0 {
            return;
        }
        self.tally.leased += u64::from(grant.tokens);
        let life_ns = self.terms.lease_ns.min(grant.valid_us.saturating_mul(US_NS));
        let (now, until) = (Tick::of(now_ns), Tick::of(sent_ns.saturating_add(life_ns)));
        if now >= until {
            self.tally.expired += u64::from(grant.tokens);
            return;
        }
        let put = slot.put(Lease { tokens: grant.tokens, until }, now);
        self.tally.expired += u64::from(put.displaced);
        let kept = self.receipt(put.cell);
        // Where leases have joined, the oldest receipt speaks for all: it claims least.
        if !put.joined || kept.is_none() {
            *kept = Some(Receipt { granted_us: reply_us, level: grant.level, credited: grant.credited });
        }
        self.seen = self.seen.saturating_sub(put.displaced).saturating_add(grant.tokens);
        self.granted_at_ns = now_ns;
        slot.set_low_water(grant.tokens / 4);
    }

    /// The rule that bounds the fleet: overdraft only while the level of the last contact, with what flows in since, is a
    /// token at least; and never more than the level told.
    fn limit_overdraft(&mut self, slot: &Slot, grant: &Grant, level: i64, settling: bool, now_ns: u64) {
        if mutant::is(Mutant::OverdraftOnEveryReply) {
            slot.deny_until(0, Denial::Rate);
            slot.set_overdraft(self.terms.overdraft);
            return;
        }
        let most = self.terms.overdraft;
        if settling || self.leaving {
            slot.lower_overdraft(0);
            slot.deny_until(0, Denial::Rate);
        } else if level < 1 {
            // One probe, once there may be a token again.
            self.recheck_ns = now_ns.saturating_add(RECHECK_NS);
            slot.deny_until(now_ns.saturating_add(grant.wait_us.saturating_mul(US_NS)), Denial::Rate);
            slot.set_overdraft(most.min(1));
        } else {
            slot.deny_until(0, Denial::Rate);
            slot.set_overdraft(most.min(u32::try_from(level).unwrap_or(u32::MAX)));
        }
    }

    fn calm_down(&mut self, ask: &Ask, grant: &Grant, level: i64, jitter: u64, now_ns: u64) {
        let contended = grant.tokens < ask.want && level * CONTENDED_PART < i64::from(self.policy.burst());
        if !contended || mutant::is(Mutant::AskStorm) {
            return;
        }
        let half = self.terms.tick_ns / 2;
        self.calm_until_ns = now_ns.saturating_add(half).saturating_add(jitter % half.max(1));
    }
}
