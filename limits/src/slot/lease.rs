//! Leased tokens and the moment they become void, in one word, so that no thread can see the one without the other. Refuses
//! to move a deadline.

/// Bits of the token count; the rest is the deadline.
const TOKEN_BITS: u32 = 24;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;
/// A deadline counts in 2¹⁶ ns (66 µs): 40 bits last 2.2 years of uptime, after which every lease counts as void.
const TICK_SHIFT: u32 = 16;
const TICK_MAX: u64 = (1 << (64 - TOKEN_BITS)) - 1;

/// Local time in the slot's ticks, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

impl Tick {
    pub fn of(now_ns: u64) -> Tick {
        Tick((now_ns >> TICK_SHIFT).min(TICK_MAX))
    }

    pub(super) fn of_number(number: u64) -> Tick {
        Tick(number.min(TICK_MAX))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// The first nanosecond of this tick.
    pub fn start_ns(self) -> u64 {
        self.0 << TICK_SHIFT
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub tokens: u32,
    /// The first tick in which nothing of it may be spent.
    pub until: Tick,
}

impl Lease {
    pub(super) const EMPTY: u64 = 0;

    pub(super) fn unpack(word: u64) -> Lease {
        // The mask makes the conversion exact.
        let tokens = u32::try_from(word & TOKEN_MASK).unwrap_or(0);
        Lease { tokens, until: Tick(word >> TOKEN_BITS) }
    }

    pub(super) fn pack(self) -> u64 {
        (self.until.0 << TOKEN_BITS) | u64::from(self.tokens).min(TOKEN_MASK)
    }

    pub fn is_live(self, now: Tick) -> bool {
        self.tokens > 0 && now < self.until
    }

    /// Tokens that may be spent now.
    pub fn live_tokens(self, now: Tick) -> u32 {
        if self.is_live(now) { self.tokens } else { 0 }
    }

    pub(super) fn less(self, tokens: u32) -> Lease {
        Lease { tokens: self.tokens.saturating_sub(tokens), ..self }
    }
}
