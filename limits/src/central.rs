//! What Redis does with one batch, as a pure model: the script has to match it to the unit. Holds the state of one hash-tag
//! group. Refuses to know a clock: `now_us` is Redis' own, wherever it may jump.

mod bucket;
mod fixed;
mod key;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod packed;
mod quota;
mod sliding;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests;

use std::collections::HashMap;

pub use self::key::KeyState;
use self::quota::QuotaState;
use crate::terms::UNITS;
use crate::wire::{Ask, Grant, QuotaLeft, Reply, Request, Verdict};

/// How long Redis remembers a node that is silent: longer than any message can be under way.
const LINK_TTL_US: u64 = 24 * 3_600 * 1_000_000;

/// What Redis keeps of one node, beside its group of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkState {
    epoch: u64,
    birth: u64,
    /// The last message carried out.
    send: u64,
    /// The last set of debts carried out.
    debts: u64,
    expires_us: u64,
}

/// One hash-tag group: its keys' buckets and windows, its quotas, and the nodes that have asked.
#[derive(Clone, Debug, Default)]
pub struct Group {
    links: HashMap<u64, LinkState>,
    keys: HashMap<u64, KeyState>,
    quotas: HashMap<u64, QuotaState>,
}

impl Group {
    pub fn new() -> Group {
        Group::default()
    }

    pub fn apply(&mut self, request: &Request, now_us: u64) -> Reply {
        let (verdict, debts_are_new) = self.admit(request, now_us);
        let mut grants = Vec::new();
        if verdict == Verdict::Done {
            grants.extend(request.asks.iter().map(|ask| self.apply_ask(ask, debts_are_new, now_us)));
        }
        Reply { node: request.node, send: request.send, verdict, now_us, grants }
    }

    /// The control plane puts a lost count back, once for each key and period; whether it was lost.
    pub fn seed_quota(&mut self, key: u64, period: u32, used: u64, now_us: u64) -> bool {
        let lost = self.quotas.get(&key).is_none_or(|quota| quota.period() < period);
        if lost {
            self.quotas.insert(key, QuotaState::new(period, used, now_us));
        }
        lost
    }

    /// One ask outside of any link, by a gateway that is the whole fleet.
    pub fn ask(&mut self, ask: &Ask, now_us: u64) -> Grant {
        self.apply_ask(ask, true, now_us)
    }

    /// What `ask` would answer to somebody who wants nothing. Leaves no trace.
    pub fn peek(&self, ask: &Ask, now_us: u64) -> Grant {
        let mut copy = Group::new();
        copy.keys.extend(self.keys.get(&ask.key).map(|state| (ask.key, state.clone())));
        copy.quotas.extend(self.quotas.get(&ask.key).map(|quota| (ask.key, quota.clone())));
        copy.apply_ask(&Ask { want: 0, debt: 0, refund: None, ..*ask }, true, now_us)
    }

    /// Forgets the keys that would be full. The quotas stay.
    pub fn forget_full(&mut self, now_us: u64) {
        self.keys.retain(|_, state| now_us < state.expires_us());
    }

    /// Forgets a month that is over.
    pub fn forget_quota(&mut self, key: u64) {
        self.quotas.remove(&key);
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The state of one key, for audits and tests.
    pub fn key(&self, key: u64) -> Option<&KeyState> {
        self.keys.get(&key)
    }

    /// Judges a message by its numbers; whether its debts have yet to be debited.
    fn admit(&mut self, request: &Request, now_us: u64) -> (Verdict, bool) {
        let known = self.links.get(&request.node).copied().filter(|link| now_us < link.expires_us);
        let expires_us = now_us.saturating_add(LINK_TTL_US);
        if request.epoch == 0 {
            if let Some(link) = known.filter(|link| link.birth == request.birth) {
                return (Verdict::Admitted { epoch: link.epoch }, false);
            }
            let epoch = known.map_or(0, |link| link.epoch) + 1;
            let link = LinkState { epoch, birth: request.birth, send: 0, debts: 0, expires_us };
            self.links.insert(request.node, link);
            return (Verdict::Admitted { epoch }, false);
        }
        let fresh = LinkState { epoch: request.epoch, birth: request.birth, send: 0, debts: 0, expires_us };
        let mut link = known.filter(|link| link.epoch >= request.epoch).unwrap_or(fresh);
        if link.epoch > request.epoch {
            return (Verdict::Superseded, false);
        }
        if request.send <= link.send {
            return (Verdict::Stale, false);
        }
        let debts_are_new = request.debts > link.debts;
        link = LinkState { send: request.send, debts: link.debts.max(request.debts), expires_us, ..link };
        self.links.insert(request.node, link);
        (Verdict::Done, debts_are_new)
    }

    fn apply_ask(&mut self, ask: &Ask, debts_are_new: bool, now_us: u64) -> Grant {
        let mut state = self.keys.remove(&ask.key).filter(|state| now_us < state.expires_us());
        let state = state.get_or_insert_with(|| KeyState::new(ask, now_us));
        state.adopt(ask, now_us);
        state.settle(now_us);
        let debt = if debts_are_new { ask.debt } else { 0 };
        state.debit_debt(debt);
        let refunded = ask.refund.map_or(0, |refund| state.refund(&refund, now_us));
        let mut quota = self.quotas.remove(&ask.key);
        let left = settle_quota(ask, &mut quota, debt, refunded, now_us);
        let tokens = offer(ask.want, state.level() / UNITS).min(left.map_or(u32::MAX, |left| offer(ask.want, left)));
        state.debit(tokens);
        if let Some(quota) = quota.as_mut() {
            quota.debit(tokens);
        }
        let grant = Grant {
            key: ask.key,
            tokens,
            level: state.level(),
            credited: state.credited(),
            valid_us: state.valid_us(now_us),
            wait_us: state.wait_us(now_us),
            grows_us: state.grows_us(now_us),
            quota: ask.quota.map(|asked| {
                quota.as_ref().map_or(QuotaLeft::Unseeded, |quota| QuotaLeft::Left(quota.left(asked.included)))
            }),
        };
        self.keys.insert(ask.key, state.clone());
        if let Some(quota) = quota {
            self.quotas.insert(ask.key, quota);
        }
        grant
    }
}

/// Counts what every message brings, and what the quota leaves to grant; None where it does not constrain.
fn settle_quota(ask: &Ask, quota: &mut Option<QuotaState>, debt: u32, refunded: u32, now_us: u64) -> Option<i64> {
    let quota = quota.as_mut()?;
    if let Some(asked) = ask.quota {
        quota.enter(asked.period, now_us);
    }
    quota.debit(debt);
    if let Some(refund) = ask.refund {
        quota.refund(refunded, refund.receipt.granted_us);
    }
    ask.quota.filter(|asked| asked.hard).map(|asked| quota.left(asked.included))
}

/// Half of what is there, at least one, at most what is wanted.
fn offer(want: u32, level: i64) -> u32 {
    if want == 0 || level < 1 {
        return 0;
    }
    let half = u32::try_from((level / 2).max(1)).unwrap_or(u32::MAX);
    want.min(half)
}
