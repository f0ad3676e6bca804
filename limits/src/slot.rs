//! The hot part of a limit: one cache line of atomics from which any thread takes a token in nanoseconds, without lock, network
//! or allocation. Refuses to know policies and messages; its ledger fills it.
//!
//! Every truth is one word, changed by compare-and-exchange only: a subtraction that is undone later could create a token
//! under a concurrent exchange. A failed exchange is another thread's success, so the loops end.

#[cfg(test)]
#[cfg(loom)]
mod interleavings;
pub mod lease;
pub mod stamp;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests;

use self::lease::{Lease, Tick};
use crate::mutant::{self, Mutant};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bits of the level in the contact word, signed; the rest is the tick of the contact.
const LEVEL_BITS: u32 = 24;
const LEVEL_BIAS: i64 = 1 << (LEVEL_BITS - 1);
/// For `set_low_credit`: of whatever is owed the syncer has to hear.
pub(crate) const CALL_ALWAYS: u32 = u32::MAX;

/// One of the two generations of leased tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    First,
    Second,
}

impl Cell {
    pub const BOTH: [Cell; 2] = [Cell::First, Cell::Second];
}

/// Where an admitted request's token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Lease,
    Overdraft,
}

/// Which limit says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    Rate,
    /// The month's hard quota.
    Quota,
}

/// What a node knows at once about one more request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// `wake`: the syncer has to look at this slot; said once until it has looked.
    Admitted { taken: Taken, wake: bool },
    /// Known to be exhausted until then.
    Denied { until_ns: u64, by: Denial },
    /// Only Redis knows.
    Unknown,
}

/// Where a lease went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) cell: Cell,
    /// Void tokens that it displaced there.
    pub(crate) displaced: u32,
    /// It shares the cell with older tokens.
    pub(crate) joined: bool,
}

/// The level that Redis told at the last contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Whole tokens, rounded down, negative while others' debts are repaid.
    pub level: i64,
    /// When the answer arrived, in local time.
    pub at_ns: u64,
}

/// Left and owed overdraft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Credit {
    left: u32,
    owed: u32,
}

impl Credit {
    fn unpack(word: u64) -> Credit {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
        Credit { left: half(word >> 32), owed: half(word) }
    }

    fn pack(self) -> u64 {
        (u64::from(self.left) << 32) | u64::from(self.owed)
    }
}

/// 64 bytes: two leases, overdraft, denial, last contact, and when to call for the syncer. One cache line, asserted below.
#[derive(Debug)]
#[repr(align(64))]
pub struct Slot {
    first: AtomicU64,
    second: AtomicU64,
    credit: AtomicU64,
    /// Even nanoseconds, and 1 where the quota denies.
    denied: AtomicU64,
    contact: AtomicU64,
    /// When a window's level grows next; for the figures that clients read.
    grows: AtomicU64,
    /// Requests since the last visit that no lease could serve.
    misses: AtomicU32,
    /// The syncer is called when no more leased tokens are left than this.
    low_water: AtomicU32,
    /// The syncer is called when no more overdraft is left than this, and when a debt begins.
    low_credit: AtomicU32,
    /// 1: the syncer has been called and has not looked yet.
    dirty: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 64 && align_of::<Slot>() == 64, "a slot is one cache line");

impl Default for Slot {
    fn default() -> Self {
        Slot::new()
    }
}

impl Slot {
    /// Without any token and without overdraft: a node may owe nothing before Redis has admitted it.
    pub fn new() -> Slot {
        Slot {
            first: AtomicU64::new(Lease::EMPTY),
            second: AtomicU64::new(Lease::EMPTY),
            credit: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            contact: AtomicU64::new(0),
            grows: AtomicU64::new(0),
            misses: AtomicU32::new(0),
            low_water: AtomicU32::new(0),
            low_credit: AtomicU32::new(CALL_ALWAYS),
            dirty: AtomicU32::new(0),
        }
    }

    /// Takes one token: leased, else owed. `now_ns` is the node's monotonic time and the moment of the admission.
    #[inline]
    pub fn take(&self, now_ns: u64) -> Take {
        self.take_counting(now_ns, true)
    }

    /// `take` for a request that has waited: it is not wanted twice.
    pub fn take_again(&self, now_ns: u64) -> Take {
        self.take_counting(now_ns, false)
    }

    fn take_counting(&self, now_ns: u64, first: bool) -> Take {
        let now = Tick::of(now_ns);
        if let Some(left) = self.take_leased(now) {
            let wake = left <= self.low_water.load(Ordering::Relaxed) && self.call();
            return Take::Admitted { taken: Taken::Lease, wake };
        }
        if first {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        let (until_ns, by) = self.denial();
        if now_ns < until_ns {
            return Take::Denied { until_ns, by };
        }
        if let Some(credit) = self.take_overdraft() {
            return Take::Admitted { taken: Taken::Overdraft, wake: self.is_news(credit) && self.call() };
        }
        Take::Unknown
    }

    pub fn lease(&self, cell: Cell) -> Lease {
        Lease::unpack(self.cell(cell).load(Ordering::Acquire))
    }

    /// Leased tokens that may be spent now.
    pub fn held(&self, now: Tick) -> u32 {
        Cell::BOTH.into_iter().map(|cell| self.lease(cell).live_tokens(now)).fold(0, u32::saturating_add)
    }

    /// Overdraft in use that no message has taken along yet.
    pub fn owed(&self) -> u32 {
        Credit::unpack(self.credit.load(Ordering::Acquire)).owed
    }

    pub fn overdraft_left(&self) -> u32 {
        Credit::unpack(self.credit.load(Ordering::Acquire)).left
    }

    /// Until when nothing is admitted but leased tokens, and why.
    pub fn denial(&self) -> (u64, Denial) {
        let word = self.denied.load(Ordering::Acquire);
        (word & !1, if word & 1 == 0 { Denial::Rate } else { Denial::Quota })
    }

    /// None: Redis has never told a level.
    pub fn contact(&self) -> Option<Contact> {
        let word = self.contact.load(Ordering::Acquire);
        let biased = i64::try_from(word & ((1 << LEVEL_BITS) - 1)).unwrap_or(0);
        let at_ns = Tick::of_number(word >> LEVEL_BITS).start_ns();
        (word != 0).then_some(Contact { level: biased - LEVEL_BIAS, at_ns })
    }

    /// When the level told by the last contact grows, in local time; 0: nobody knows, or it always does.
    pub fn grows_at_ns(&self) -> u64 {
        self.grows.load(Ordering::Acquire)
    }

    /// Says once that the syncer should look.
    pub(crate) fn call(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) == 0 && self.dirty.swap(1, Ordering::AcqRel) == 0
    }

    /// How many are left.
    fn take_leased(&self, now: Tick) -> Option<u32> {
        loop {
            let (first, second) = (self.first.load(Ordering::Acquire), self.second.load(Ordering::Acquire));
            let (one, two) = (Lease::unpack(first), Lease::unpack(second));
            // The older generation first, so that the least becomes void.
            let use_first = one.is_live(now) && (!two.is_live(now) || one.until <= two.until);
            let (cell, seen, lease, other) =
                if use_first { (Cell::First, first, one, two) } else { (Cell::Second, second, two, one) };
            if !lease.is_live(now) {
                return None;
            }
            let less = lease.less(1);
            let exchanged =
                self.cell(cell).compare_exchange_weak(seen, less.pack(), Ordering::AcqRel, Ordering::Acquire);
            if exchanged.is_ok() {
                return Some(less.tokens.saturating_add(other.live_tokens(now)));
            }
        }
    }

    fn is_news(&self, credit: Credit) -> bool {
        credit.owed == 1 || credit.left <= self.low_credit.load(Ordering::Relaxed)
    }

    /// What stands there afterwards.
    fn take_overdraft(&self) -> Option<Credit> {
        let word = update(&self.credit, |word| {
            let Credit { left, owed } = Credit::unpack(word);
            (left > 0).then(|| Credit { left: left - 1, owed: owed.saturating_add(1) }.pack())
        });
        word.map(Credit::unpack)
    }

    fn cell(&self, cell: Cell) -> &AtomicU64 {
        match cell {
            Cell::First => &self.first,
            Cell::Second => &self.second,
        }
    }
}

/// The ledger's side. One ledger writes; any number of threads take meanwhile.
impl Slot {
    /// As new, for the next key. Plain stores: it is sealed and holds no lease, so that no exchange can succeed meanwhile.
    pub(crate) fn renew(&self) {
        let Slot { first, second, credit, denied, contact, grows, misses, low_water, low_credit, dirty } = self;
        first.store(Lease::EMPTY, Ordering::Release);
        second.store(Lease::EMPTY, Ordering::Release);
        for word in [credit, denied, contact, grows] {
            word.store(0, Ordering::Release);
        }
        for word in [misses, low_water, dirty] {
            word.store(0, Ordering::Release);
        }
        low_credit.store(CALL_ALWAYS, Ordering::Release);
    }

    /// Puts a lease in. When both cells hold live tokens, the new ones join the newer generation and take over its earlier
    /// deadline: a deadline never moves.
    pub(crate) fn put(&self, lease: Lease, now: Tick) -> Put {
        let (one, two) = (self.lease(Cell::First), self.lease(Cell::Second));
        let cell = match (one.is_live(now), two.is_live(now)) {
            (false, _) => Cell::First,
            (true, false) => Cell::Second,
            (true, true) if one.until > two.until => Cell::First,
            (true, true) => Cell::Second,
        };
        let mut put = Put { cell, displaced: 0, joined: false };
        update(self.cell(cell), |word| {
            let present = Lease::unpack(word);
            put.joined = present.is_live(now);
            put.displaced = if put.joined { 0 } else { present.tokens };
            if !put.joined {
                return Some(lease.pack());
            }
            let until = if mutant::is(Mutant::LeaseRenewed) { lease.until } else { present.until.min(lease.until) };
            Some(Lease { tokens: present.tokens.saturating_add(lease.tokens), until }.pack())
        });
        put
    }

    /// Takes up to `tokens` out of a cell, to give them back to Redis; how many came.
    pub(crate) fn withdraw(&self, cell: Cell, tokens: u32) -> u32 {
        let mut out = 0;
        update(self.cell(cell), |word| {
            let lease = Lease::unpack(word);
            out = lease.tokens.min(tokens);
            (out > 0).then(|| lease.less(out).pack())
        });
        out
    }

    /// Adds what was spent without a word of Redis.
    pub(crate) fn owe(&self, tokens: u32) {
        update(&self.credit, |word| {
            let Credit { left, owed } = Credit::unpack(word);
            (tokens > 0).then(|| Credit { left, owed: owed.saturating_add(tokens) }.pack())
        });
    }

    /// Everything owed, for a message that will be resent until it is acknowledged.
    pub(crate) fn collect_owed(&self) -> u32 {
        let mut collected = 0;
        update(&self.credit, |word| {
            let Credit { left, owed } = Credit::unpack(word);
            collected = owed;
            (owed > 0).then(|| Credit { left, owed: 0 }.pack())
        });
        collected
    }

    /// Sets the overdraft so that what is left and what is owed come to `total` at most.
    pub(crate) fn set_overdraft(&self, total: u32) {
        update(&self.credit, |word| {
            let Credit { owed, .. } = Credit::unpack(word);
            Some(Credit { left: total.saturating_sub(owed), owed }.pack())
        });
    }

    /// As `set_overdraft`, but never gives more than there is.
    pub(crate) fn lower_overdraft(&self, total: u32) {
        update(&self.credit, |word| {
            let Credit { left, owed } = Credit::unpack(word);
            Some(Credit { left: left.min(total.saturating_sub(owed)), owed }.pack())
        });
    }

    /// Takes the overdraft away for good, so that the slot can be forgotten. False: something is owed.
    pub(crate) fn seal(&self) -> bool {
        update(&self.credit, |word| (Credit::unpack(word).owed == 0).then_some(0)).is_some()
    }

    pub(crate) fn deny_until(&self, until_ns: u64, by: Denial) {
        // Rounded up to even, which a nanosecond more does not hurt.
        let until_ns = until_ns.saturating_add(until_ns & 1) & !1;
        self.denied.store(until_ns | u64::from(by == Denial::Quota), Ordering::Release);
    }

    pub(crate) fn set_contact(&self, level: i64, now_ns: u64) {
        let biased = u64::try_from(level.clamp(1 - LEVEL_BIAS, LEVEL_BIAS - 1) + LEVEL_BIAS).unwrap_or(0);
        self.contact.store((Tick::of(now_ns).number() << LEVEL_BITS) | biased, Ordering::Release);
    }

    pub(crate) fn set_grows(&self, at_ns: u64) {
        self.grows.store(at_ns, Ordering::Release);
    }

    pub(crate) fn set_low_water(&self, tokens: u32) {
        self.low_water.store(tokens, Ordering::Relaxed);
    }

    pub(crate) fn set_low_credit(&self, tokens: u32) {
        self.low_credit.store(tokens, Ordering::Relaxed);
    }

    /// Something happened since the last look.
    pub(crate) fn has_news(&self) -> bool {
        self.misses.load(Ordering::Acquire) > 0 || self.dirty.load(Ordering::Acquire) > 0
    }

    /// The syncer looks now: misses since the last look, and the next call counts again.
    pub(crate) fn look(&self) -> u32 {
        self.dirty.store(0, Ordering::Release);
        self.misses.swap(0, Ordering::AcqRel)
    }
}

/// `fetch_update` by our rules: None leaves the word alone. Ok: the new word.
fn update(word: &AtomicU64, mut change: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
    let mut seen = word.load(Ordering::Acquire);
    loop {
        let new = change(seen)?;
        match word.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(new),
            Err(other) => seen = other,
        }
    }
}
