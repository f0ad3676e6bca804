//! A request's way through a node: decided at once, or waiting for Redis' word for as long as it may. Tells the oracle each outcome.

use super::*;

impl World {
    pub(super) fn arrive(&mut self, node: usize) {
        let now_ns = self.now_ns;
        let Some(present) = self.nodes[node].as_ref() else { return };
        if now_ns < present.paused_until_ns {
            return;
        }
        self.offered += 1;
        if self.scenario.closing {
            self.reopen(node);
        }
        if self.decide(node, now_ns, true) {
            self.at(now_ns + WAIT_MAX_NS, Event::WaitEnd { node, life: self.nodes[node].as_ref().unwrap().life });
            self.nodes[node].as_mut().unwrap().waiting.push_back(now_ns);
            self.oracle.waits += 1;
        }
        self.pump(node);
    }

    /// Gives the key up and takes it on again, where that is allowed.
    pub(super) fn reopen(&mut self, node: usize) {
        let (now_ns, policy, fleet) = (self.now_ns, self.policy, self.scenario.fleet);
        let present = self.nodes[node].as_mut().unwrap();
        let expired = present.syncer.ledger(present.place).unwrap().tally().expired;
        if present.waiting.is_empty() && present.syncer.give_up(present.place, now_ns + present.offset_ns) {
            present.expired += expired;
            // The same slot, as a gateway gives it from key to key.
            present.place = present.syncer.open(KEY, Arc::clone(&present.slot), policy, fleet);
        }
    }

    /// Decides one request; true: it has to wait.
    pub(super) fn decide(&mut self, node: usize, arrived_ns: u64, first: bool) -> bool {
        let now_ns = self.now_ns;
        let present = self.nodes[node].as_mut().unwrap();
        let local_ns = now_ns + present.offset_ns;
        let take = if first { present.slot.take(local_ns) } else { present.slot.take_again(local_ns) };
        let unknown = match take {
            Take::Admitted { taken, wake } => {
                if wake {
                    present.syncer.call(present.place);
                }
                self.admit(node, taken, arrived_ns);
                return false;
            }
            Take::Denied { .. } => Unknown::Refused { retry_ns: 0, by: crate::slot::Denial::Rate },
            Take::Unknown => present.syncer.decide_unknown(present.place, local_ns),
        };
        match unknown {
            Unknown::Admitted => {
                // Its first answer after an outage may still be under way.
                let comes_back = present.was_alone && now_ns <= present.back_ns + ALONE_AFTER_NS;
                if present.syncer.reach() == Reach::Up && !comes_back {
                    self.oracle.offend("a node went alone though Redis answers".into());
                }
                if self.scenario.when_down == OnRedisDown::Closed {
                    self.oracle.offend("closed, and admitted without a lease".into());
                }
                self.oracle.admit(now_ns);
                false
            }
            Unknown::Refused { .. } => {
                self.oracle.refused += 1;
                false
            }
            Unknown::Wait => true,
        }
    }

    pub(super) fn admit(&mut self, node: usize, taken: Taken, arrived_ns: u64) {
        let now_ns = self.now_ns;
        self.oracle.admit(now_ns);
        self.oracle.longest_wait_ns = self.oracle.longest_wait_ns.max(now_ns - arrived_ns);
        let present = self.nodes[node].as_mut().unwrap();
        match taken {
            Taken::Lease => self.oracle.spend(&mut present.purse, now_ns),
            Taken::Overdraft => {
                present.purse.incurred += 1;
                if self.scenario.when_down == OnRedisDown::Closed || self.scenario.strict {
                    self.oracle.offend("overdraft where there is none".into());
                }
                self.measure_depth();
            }
        }
    }

    /// The level that counts every debt incurred, told or not.
    pub(super) fn measure_depth(&mut self) {
        let Some(key) = self.redis.key(KEY) else { return };
        let level = key.level_at(self.redis_now_us()) / UNITS;
        let incurred: u64 = self.nodes.iter().flatten().map(|node| node.purse.incurred).sum();
        let untold = i64::try_from(incurred).unwrap() - i64::try_from(self.oracle.applied).unwrap();
        let deep = level - untold;
        let most = i64::from(self.scenario.fleet) * i64::from(self.terms.overdraft);
        if self.oracle.is_deep_forbidden {
            self.oracle.deepest = self.oracle.deepest.min(deep);
            if deep < -most {
                self.oracle.offend(format!("the level counting all debts is {deep}, below −N·e = −{most}"));
            }
        }
    }

    pub(super) fn end_waits(&mut self, node: usize, life: u64) {
        let now_ns = self.now_ns;
        let Some(present) = self.nodes[node].as_mut().filter(|present| present.life == life) else { return };
        while present.waiting.front().is_some_and(|arrived| arrived + WAIT_MAX_NS <= now_ns) {
            present.waiting.pop_front();
            self.oracle.refused += 1;
        }
        if present.waiting.is_empty() {
            present.syncer.stop_waiting(present.place);
        }
    }
}
