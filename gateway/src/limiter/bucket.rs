//! The token bucket as GCRA: one number, the theoretical arrival time (TAT) in nanoseconds of the monotonic clock. Pure: no
//! clock, no storage. The interval is rounded up, so that rounding never admits more than burst + rate × time.
//! Source: ATM Forum, Generic Cell Rate Algorithm (virtual scheduling).

use snapshot::record::Policy;

const MINUTE_NS: u64 = 60_000_000_000;
/// A TAT that is later than an empty bucket's by more than this says that the clock was set back, not that threads read it
/// in another order.
const SET_BACK_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Time in which one token flows in.
    interval_ns: u64,
    /// Time in which an empty bucket fills: burst × interval. At most 60 × 10⁶ × 60 × 10⁹, which fits.
    capacity_ns: u64,
}

/// What became of a request for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Store this TAT.
    Taken { tat_ns: u64 },
    /// Wait this long. `heal_ns`: the clock was set back; store this TAT, an empty bucket's.
    Refused { wait_ns: u64, heal_ns: Option<u64> },
}

impl Bucket {
    pub(super) fn of(policy: &Policy) -> Bucket {
        let interval_ns = MINUTE_NS.div_ceil(u64::from(policy.per_minute.get()));
        Bucket { interval_ns, capacity_ns: interval_ns.saturating_mul(u64::from(policy.burst.get())) }
    }

    pub(super) fn take(self, tat_ns: u64, now_ns: u64) -> Token {
        let full_at = tat_ns.max(now_ns).saturating_add(self.interval_ns);
        let latest = now_ns.saturating_add(self.capacity_ns);
        if full_at <= latest {
            return Token::Taken { tat_ns: full_at };
        }
        if tat_ns > latest.saturating_add(SET_BACK_NS) {
            return Token::Refused { wait_ns: self.interval_ns, heal_ns: Some(latest) };
        }
        Token::Refused { wait_ns: full_at - latest, heal_ns: None }
    }

    /// Gives one token back.
    pub(super) fn give_back(self, tat_ns: u64) -> u64 {
        tat_ns.saturating_sub(self.interval_ns)
    }

    /// Whole tokens in hand.
    pub(super) fn remaining(self, tat_ns: u64, now_ns: u64) -> u64 {
        (self.capacity_ns - self.missing_ns(tat_ns, now_ns)) / self.interval_ns
    }

    /// Time until there is one whole token more; 0 when full.
    pub(super) fn until_more_ns(self, tat_ns: u64, now_ns: u64) -> u64 {
        match self.missing_ns(tat_ns, now_ns) {
            0 => 0,
            missing => (missing - 1) % self.interval_ns + 1,
        }
    }

    /// How much is missing, as (missing, of): what a policy change carries over.
    pub(super) fn used_fraction(self, tat_ns: u64, now_ns: u64) -> (u64, u64) {
        (self.missing_ns(tat_ns, now_ns), self.capacity_ns)
    }

    /// The TAT at which the same fraction is missing, rounded against the client.
    pub(super) fn tat_with_used(self, (used, of): (u64, u64), now_ns: u64) -> u64 {
        now_ns.saturating_add(scale_up(self.capacity_ns, used, of))
    }

    fn missing_ns(self, tat_ns: u64, now_ns: u64) -> u64 {
        tat_ns.saturating_sub(now_ns).min(self.capacity_ns)
    }
}

/// ⌈whole × used / of⌉, at most `whole`.
pub(super) fn scale_up(whole: u64, used: u64, of: u64) -> u64 {
    if used == 0 || of == 0 {
        return 0;
    }
    let scaled = (u128::from(whole) * u128::from(used)).div_ceil(u128::from(of));
    u64::try_from(scaled).unwrap_or(whole).min(whole)
}
