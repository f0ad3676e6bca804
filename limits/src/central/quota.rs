//! The month's count of a subscription in Redis: granted minus refunded, so it is never too low. Refuses to guess a count that
//! was lost; the control plane puts it back.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuotaState {
    pub(super) period: u32,
    pub(super) used: u64,
    /// When this period's count began; refunds of earlier grants belong to another.
    pub(super) since_us: u64,
}

impl QuotaState {
    pub(super) fn new(period: u32, used: u64, now_us: u64) -> QuotaState {
        QuotaState { period, used, since_us: now_us }
    }

    pub(super) fn period(&self) -> u32 {
        self.period
    }

    /// A new period starts from nothing. A node that still speaks of an earlier one counts into the present one.
    pub(super) fn enter(&mut self, period: u32, now_us: u64) {
        if period > self.period {
            *self = QuotaState::new(period, 0, now_us);
        }
    }

    pub(super) fn debit(&mut self, tokens: u32) {
        self.used = self.used.saturating_add(u64::from(tokens));
    }

    pub(super) fn refund(&mut self, tokens: u32, granted_us: u64) {
        if granted_us >= self.since_us {
            self.used = self.used.saturating_sub(u64::from(tokens));
        }
    }

    pub(super) fn left(&self, included: u64) -> i64 {
        let part = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        part(included).saturating_sub(part(self.used))
    }
}
