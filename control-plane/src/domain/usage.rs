//! Usage as it is counted: batches of events, in types that cannot be wrong. What of it costs money stands in `billable`, how
//! it is added up in `minutes`. Knows neither the stream nor the tables.

use uuid::Uuid;

pub mod billable;
pub mod minutes;

/// Names a batch for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId {
    pub node: Uuid,
    pub epoch: Uuid,
    pub sequence: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub id: BatchId,
    pub events: Vec<Event>,
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

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at_ms: i64,
    pub request_id: Uuid,
    pub key: i64,
    pub subscription: i64,
    pub product: i64,
    pub endpoint: i64,
    pub plan: i64,
    pub method: String,
    pub status: i16,
    pub outcome: Outcome,
    pub failed_by: Option<&'static str>,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub latency_us: i64,
    pub upstream_latency_us: Option<i64>,
    pub upstream_contacted: bool,
    pub test_key: bool,
}

impl Event {
    pub fn is_admitted(&self) -> bool {
        !matches!(self.outcome, Outcome::Refused(_))
    }

    /// Admitted, but its quota is to be credited.
    pub fn is_failed(&self) -> bool {
        self.outcome == Outcome::Failed
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
