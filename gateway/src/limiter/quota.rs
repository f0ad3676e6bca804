//! The long window: requests counted per billing period, refused beyond a hard quota and merely shown beyond a soft one. Pure.
//! Refuses to go back to an earlier period, so that a clock that is set back gives nothing away.

use snapshot::record::{Period, Quota, Subscription};

/// How long after a period's end its count is kept: a clock that is set back by an hour finds it.
const KEEP_AFTER_END_MS: i64 = 2 * 3_600 * 1_000;

#[derive(Clone, Debug, Default)]
pub(super) struct QuotaCount {
    period: u32,
    used: u64,
    ends_at_ms: Option<i64>,
}

/// The quota is used up; until the period's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UsedUp;

impl QuotaCount {
    /// Counts one request. Err: the quota is hard and used up; nothing was counted.
    pub(super) fn take(&mut self, subscription: &Subscription, quota: Quota, unix_ms: i64) -> Result<(), UsedUp> {
        self.enter(subscription, unix_ms);
        if quota.hard && self.used >= quota.included {
            return Err(UsedUp);
        }
        self.used = self.used.saturating_add(1);
        Ok(())
    }

    /// Moves to the period that this moment belongs to. Periods only go forward.
    pub(super) fn enter(&mut self, subscription: &Subscription, unix_ms: i64) {
        let Some(period) = current_period(subscription, unix_ms) else { return };
        if period.id > self.period {
            *self = QuotaCount { period: period.id, used: 0, ends_at_ms: Some(period.ends_at_ms) };
        } else if period.id == self.period {
            self.ends_at_ms = Some(period.ends_at_ms);
        }
    }

    pub(super) fn remaining(&self, quota: Quota) -> u64 {
        quota.included.saturating_sub(self.used)
    }

    /// Seconds until the period ends, rounded up; 0 where no end is known.
    pub(super) fn until_end_s(&self, unix_ms: i64) -> u64 {
        let left_ms = self.ends_at_ms.map_or(0, |end| end.saturating_sub(unix_ms).max(0));
        u64::try_from(left_ms).unwrap_or(0).div_ceil(1_000)
    }

    /// Whether forgetting this would change no answer.
    pub(super) fn is_idle(&self, unix_ms: i64) -> bool {
        self.used == 0 || self.ends_at_ms.is_some_and(|end| end.saturating_add(KEEP_AFTER_END_MS) < unix_ms)
    }
}

/// The next period follows when the current one is over; when both are (the control plane has been away that long), the last
/// one known goes on.
fn current_period(subscription: &Subscription, unix_ms: i64) -> Option<Period> {
    match (subscription.period, subscription.next_period) {
        (Some(current), _) if unix_ms < current.ends_at_ms => Some(current),
        (current, next) => next.or(current),
    }
}
