//! Usage as it is counted: batches of events, and of what events were compacted to, in types that cannot be wrong. What of it
//! costs money stands in `billable`, how it is added up in `rollup`. Knows neither the stream nor the tables.

use std::borrow::Cow;

use uuid::Uuid;

pub mod billable;
pub mod rollup;

/// An event further in the past or the future than this is counted, and flagged. In milliseconds.
const PAST_MAX_MS: i64 = 35 * 24 * 3_600_000;
const FUTURE_MAX_MS: i64 = 5 * 60_000;

/// One process's spool on one node: its batches are numbered without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Producer {
    pub node: Uuid,
    pub epoch: Uuid,
}

/// Names a batch for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId {
    pub producer: Producer,
    pub sequence: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub id: BatchId,
    pub events: Vec<Event>,
    pub compacted: Vec<Compacted>,
    /// No event that is older comes with a later sequence. `None`: not told.
    pub low_watermark_ms: Option<i64>,
    /// The last of its epoch.
    pub closes_epoch: bool,
}

impl Batch {
    /// Requests in it.
    pub fn count(&self) -> i64 {
        let events = i64::try_from(self.events.len()).unwrap_or(i64::MAX);
        self.compacted.iter().fold(events, |sum, row| sum.saturating_add(row.count))
    }

    /// When its requests happened, and how many at each time.
    pub fn times(&self) -> impl Iterator<Item = (i64, i64)> {
        let events = self.events.iter().map(|event| (event.at_ms, 1));
        events.chain(self.compacted.iter().map(|row| (row.quarter_hour_ms, row.count)))
    }
}

/// Whether clocks that are right make this time unlikely.
pub fn is_skewed(at_ms: i64, now_ms: i64) -> bool {
    !(now_ms - PAST_MAX_MS..=now_ms + FUTURE_MAX_MS).contains(&at_ms)
}

/// What became of a request of a known subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by the upstream, whatever the status.
    Proxied,
    /// Admitted, but answered by an error of the gateway's own making.
    Failed,
    /// Admitted; the client went away.
    ClientGone,
    /// Not admitted; the reason is stored.
    Refused(&'static str),
}

pub const RATE_LIMITED: Outcome = Outcome::Refused("rate_limited");
pub const QUOTA_EXCEEDED: Outcome = Outcome::Refused("quota_exceeded");
pub const UNPAID: Outcome = Outcome::Refused("payment_required");

/// What a request did, or many alike: all that a count or a bill asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub key: i64,
    pub subscription: i64,
    pub product: i64,
    pub endpoint: i64,
    pub plan: i64,
    pub status: i16,
    pub outcome: Outcome,
    pub failed_by: Option<&'static str>,
    pub upstream_contacted: bool,
    pub test_key: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at_ms: i64,
    pub request_id: Uuid,
    pub method: Cow<'static, str>,
    pub kind: Kind,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us: i64,
    pub upstream_latency_us: Option<i64>,
}

/// Events of one quarter of an hour of which a full spool kept the sums alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub quarter_hour_ms: i64,
    pub kind: Kind,
    /// At least 1.
    pub count: i64,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us_sum: i64,
    pub upstream_latency_us_sum: i64,
}

impl Kind {
    pub fn is_admitted(&self) -> bool {
        !matches!(self.outcome, Outcome::Refused(_))
    }

    /// Admitted, but its quota is to be credited.
    pub fn is_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }

    /// Refused with 429.
    pub fn is_limited(&self) -> bool {
        self.outcome == RATE_LIMITED || self.outcome == QUOTA_EXCEEDED
    }

    /// Refused with 402.
    pub fn is_unpaid(&self) -> bool {
        self.outcome == UNPAID
    }

    /// As `usage_logs.verdict` holds it: 'admitted', or the code of the rejection.
    pub fn verdict(&self) -> &'static str {
        match self.outcome {
            Outcome::Refused(code) => code,
            Outcome::Proxied | Outcome::Failed | Outcome::ClientGone => "admitted",
        }
    }

    /// 1 to 5; 499 is class 4.
    pub fn status_class(&self) -> i16 {
        self.status / 100
    }
}
