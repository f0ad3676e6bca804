//! What breaks, what heals, and which terms each fault adds to the bound. Refuses to judge.

use super::*;

impl World {
    pub(super) fn break_something(&mut self, fault: Fault) {
        let now_ns = self.now_ns;
        match fault {
            Fault::Crash { node, back_ms } => {
                if let Some(gone) = self.nodes[node].take() {
                    self.forgetful = true;
                    self.oracle.is_deep_forbidden = false;
                    self.oracle.allowance += self.bound.crash(gone.is_alone);
                    self.at(now_ns + back_ms * MS_NS, Event::Start { node });
                }
            }
            Fault::Join { node } => self.start(node),
            Fault::CutOff { node, for_ms } => {
                if let Some(present) = self.nodes[node].as_mut() {
                    present.cut_until_ns = now_ns + for_ms * MS_NS;
                }
            }
            Fault::RedisDown { for_ms } => self.down_until_ns = now_ns + for_ms * MS_NS,
            Fault::Failover { lost_ms } => {
                if let Some(photograph) = self.photograph.take() {
                    self.redis = photograph;
                    self.forget();
                    self.oracle.allowance += self.bound.failover(Duration::from_millis(lost_ms));
                }
            }
            Fault::Wipe => {
                self.redis = Group::new();
                self.forget();
                self.oracle.allowance += self.bound.wipe();
            }
            Fault::ClockStep { by_ms } => {
                self.redis_step_us += by_ms * 1_000;
                if self.is_window() {
                    // When a window ends was told by the clock as it was: who was refused until then may try too soon.
                    self.oracle.is_deep_forbidden = false;
                }
                // A window may begin anew, wherever the clock jumps.
                self.oracle.allowance += match u64::try_from(by_ms) {
                    _ if self.is_window() => f64::from(self.scenario.burst),
                    Ok(forward) => self.bound.clock_forward(Duration::from_millis(forward)),
                    Err(_) => 0.0,
                };
            }
            Fault::Pause { node, for_ms } => {
                if let Some(present) = self.nodes[node].as_mut() {
                    present.paused_until_ns = now_ns + for_ms * MS_NS;
                }
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.forgetful = true;
        self.oracle.is_deep_forbidden = false;
    }

    pub(super) fn heal(&mut self) {
        self.network = Network::CALM;
        self.down_until_ns = 0;
        self.nodes.iter_mut().flatten().for_each(|node| node.cut_until_ns = 0);
    }

    /// While some nodes have gone alone and others lease from Redis, both spend: r/N for each of the former.
    pub(super) fn account(&mut self, until_ns: u64) {
        let alone = self.nodes.iter().flatten().filter(|node| node.is_alone).count();
        let others = self.nodes.iter().flatten().any(|node| !node.is_alone && node.syncer.is_admitted());
        // A window's count does not flow out while Redis is away, so there the share always comes on top.
        if alone > 0 && (others || self.is_window()) {
            let time = Duration::from_nanos(until_ns - self.accounted_ns);
            self.oracle.allowance += self.bound.stays_alone(u32::try_from(alone).unwrap(), time);
        }
        self.accounted_ns = until_ns;
    }

    pub(super) fn note_reach(&mut self, node: usize) {
        let present = self.nodes[node].as_mut().unwrap();
        let is_alone = present.syncer.reach() != Reach::Up;
        if is_alone && !present.is_alone {
            self.oracle.allowance += self.bound.goes_alone();
            self.oracle.is_deep_forbidden = false;
            present.was_alone = true;
        }
        if is_alone {
            present.back_ns = self.now_ns;
        }
        present.is_alone = is_alone;
    }
}
