//! Decides whether a subscription may send one more request: per minute, and per month where its plan has a quota. Its state
//! lives outside the snapshot, so that it survives every swap. Across a fleet it spends tokens leased from Redis, without a network
//! call; where only Redis knows, it says so, and the caller may wait for the answer under way. The algorithms are the core's.

mod alone;
pub mod answer;
mod arena;
mod drive;
mod entry;
mod fleet;
mod lane;
mod redis_link;
mod terms;
#[cfg(test)]
mod tests;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use limits_redis::LimitsRedis;
use tokio::time::timeout;

use self::alone::Alone;
pub use self::answer::{LimitAnswers, LimitItem, LimitKind, LimitRefusal};
pub use self::drive::Driver;
use self::fleet::Fleet;
pub use self::terms::{Lane, Terms};
pub use self::wait::Pending;
use crate::clock::Now;
use crate::metrics::Metrics;
use crate::metrics::status::PartState;

#[derive(Debug)]
pub struct Limiter {
    counts: Counts,
}

#[derive(Debug)]
enum Counts {
    Alone(Alone),
    Fleet(Arc<Fleet>),
}

/// What became of a request.
#[derive(Debug)]
pub enum Checked {
    Admitted(LimitAnswers),
    Refused(LimitRefusal),
    /// Only Redis knows: wait for it. The figures are those of this moment.
    Unknown(Box<Pending>, LimitAnswers),
}

impl Limiter {
    /// Counts by itself: exact, for a gateway that is the whole fleet.
    pub fn alone() -> Limiter {
        Limiter { counts: Counts::Alone(Alone::new()) }
    }

    /// With a Redis, one of a fleet; the driver has to run. Without one, alone, and the driver only forgets what is over.
    pub fn start(redis: Option<LimitsRedis>, metrics: Arc<Metrics>) -> (Arc<Limiter>, Driver) {
        let Some(redis) = redis else {
            let limiter = Arc::new(Limiter::alone());
            metrics.status.set_limits_redis(PartState::Off);
            let driver = Driver::sweeping(Arc::clone(&limiter), metrics);
            return (limiter, driver);
        };
        let (fleet, lanes) = Fleet::new(redis.is_grouped());
        let fleet = Arc::new(fleet);
        let driver = Driver::talking(Arc::clone(&fleet), lanes, redis, metrics);
        (Arc::new(Limiter { counts: Counts::Fleet(fleet) }), driver)
    }

    /// Takes one request from each of the subscription's limits, or from none.
    pub fn check(&self, terms: &Terms, now: Now) -> Checked {
        match &self.counts {
            Counts::Alone(alone) => alone.check(terms, now),
            Counts::Fleet(fleet) => fleet.check(terms, now),
        }
    }

    /// The same figures for a request that is not counted. Takes nothing.
    pub fn peek(&self, terms: &Terms, now: Now) -> LimitAnswers {
        match &self.counts {
            Counts::Alone(alone) => alone.peek(terms, now),
            Counts::Fleet(fleet) => fleet.peek(terms, now),
        }
    }

    /// Until requests can be decided: before its Redis has admitted a process, or is known to be away, they would wait in vain.
    pub async fn wait_introduced(&self, wait_max: Duration) {
        if let Counts::Fleet(fleet) = &self.counts {
            let _late = timeout(wait_max, fleet.wait_introduced()).await;
        }
    }

    /// Lanes of subscriptions whose limits are held in memory.
    pub fn slots(&self) -> usize {
        match &self.counts {
            Counts::Alone(alone) => alone.slots(),
            Counts::Fleet(fleet) => fleet.slots(),
        }
    }

    fn sweep(&self, now: Now) {
        if let Counts::Alone(alone) = &self.counts {
            alone.sweep(now);
        }
    }
}
