//! What the limiter answers: the figures of each window, how the request was decided, and why it was refused. Writes no header
//! and no body.

use snapshot::record::Algorithm;

use crate::metrics::labels::LimitOutcome;

/// Nominal length of the long window in seconds; its true end is the period's.
pub const MONTH_S: u64 = 30 * 24 * 3_600;
/// Length of the short window in seconds.
pub const MINUTE_S: u64 = 60;

/// One window's figures at the time of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitItem {
    /// `minute` or `month`.
    pub name: &'static str,
    /// Requests per window, as the plan says it (the draft's `q`).
    pub limit: u64,
    /// Requests that would be admitted right now: more than `limit` where the plan's burst is.
    pub remaining: u64,
    /// Seconds until there are more if nobody asks meanwhile: one more of a bucket, a new month (the draft's `t`). 0 when
    /// nothing of the minute is used.
    pub reset_s: u64,
    /// Length of the window in seconds (the draft's `w`).
    pub window_s: u64,
}

/// The figures of the minute, and of the month where the plan has a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitAnswers {
    pub rate: LimitItem,
    pub quota: Option<LimitItem>,
    pub algorithm: Algorithm,
    /// None: the limits were looked at, not asked.
    pub outcome: Option<LimitOutcome>,
}

impl LimitItem {
    /// What is left, as a client is told it (the draft's `r`): never more than the limit beside it.
    pub fn left(&self) -> u64 {
        self.remaining.min(self.limit)
    }
}

impl LimitAnswers {
    /// One or two items, the minute first.
    pub fn items(&self) -> impl Iterator<Item = &LimitItem> {
        std::iter::once(&self.rate).chain(self.quota.as_ref())
    }

    /// The window that will refuse first: what the single-valued `X-RateLimit-*` headers speak of.
    pub fn tightest(&self) -> &LimitItem {
        match &self.quota {
            Some(quota) if quota.left() < self.rate.left() => quota,
            _ => &self.rate,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Too fast.
    Rate,
    /// The month's hard quota is used up.
    Quota,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitRefusal {
    pub kind: LimitKind,
    /// At least 1.
    pub retry_after_s: u64,
    pub answers: LimitAnswers,
}
