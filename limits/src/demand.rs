//! How many tokens a node will want: a smoothed rate for the steady part, doubling for a burst. Integers only, so that every
//! machine forecasts alike. Refuses to know what is held or granted.

use crate::terms::{FORECAST_EXTRA_NS, Terms};

const SECOND_NS: u128 = 1_000_000_000;
const MILLI: u128 = 1_000;
/// The smoothed rate forgets in this many ticks.
const MEMORY_TICKS: u64 = 5;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// Thousandths of a token per second.
    rate_milli: u64,
    counted_at_ns: u64,
    /// Tokens wanted since the last question, or the last tick.
    recent: u32,
    recent_since_ns: u64,
    wanted_at_ns: u64,
}

impl Demand {
    /// Counts what was spent and missed since the last count.
    pub(crate) fn count(&mut self, wanted: u32, now_ns: u64, terms: &Terms) {
        let memory = u128::from(MEMORY_TICKS * terms.tick_ns);
        let elapsed = u128::from(now_ns.saturating_sub(self.counted_at_ns));
        let weighed = u128::from(self.rate_milli) * memory + u128::from(wanted) * MILLI * SECOND_NS;
        self.rate_milli = u64::try_from(weighed / (memory + elapsed)).unwrap_or(u64::MAX);
        self.counted_at_ns = now_ns;
        if now_ns.saturating_sub(self.recent_since_ns) > terms.tick_ns {
            self.forget_recent(now_ns);
        }
        // Of what came over a longer time only a tick's part is recent.
        let part = u128::from(wanted) * u128::from(terms.tick_ns) / elapsed.max(u128::from(terms.tick_ns));
        self.recent = self.recent.saturating_add(u32::try_from(part).unwrap_or(u32::MAX));
        if wanted > 0 {
            self.wanted_at_ns = now_ns;
        }
    }

    /// A question has been asked.
    pub(crate) fn forget_recent(&mut self, now_ns: u64) {
        self.recent = 0;
        self.recent_since_ns = now_ns;
    }

    /// Tokens for the next tick with a fifth to spare; 0 where it would not be a whole one, and the key lives on overdraft.
    pub(crate) fn forecast(&self, terms: &Terms) -> u32 {
        let ahead = u128::from(terms.tick_ns + FORECAST_EXTRA_NS);
        let (milli, whole) = (u128::from(self.rate_milli) * ahead * 12, 10 * MILLI * SECOND_NS);
        if milli < whole {
            return 0;
        }
        u32::try_from(milli.div_ceil(whole)).unwrap_or(u32::MAX)
    }

    /// Twice what came since the last question: a burst is found in log₂ steps. One request alone is not a burst.
    pub(crate) fn doubled(&self) -> u32 {
        if self.recent < 2 { 0 } else { self.recent.saturating_mul(2) }
    }

    /// How long nothing has been wanted.
    pub(crate) fn quiet_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.wanted_at_ns)
    }

    pub(crate) fn is_idle(&self, now_ns: u64, terms: &Terms) -> bool {
        self.quiet_ns(now_ns) > 2 * terms.tick_ns
    }
}
