//! Entries of the live stream into moments: parsed, named, and handed to the hub; what a gateway sent and did not come is
//! seen by its sequence. Refuses to let one bad entry stop the others.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message as _;
use snapshot::wire;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::directory::{Directory, Wanted};
use super::message::{State, Status};
use super::metrics::LiveMetrics;
use super::moment::{Count, Moment, Request, Row, Sums};
use super::source::SourceError;
use crate::domain::verdict::Verdict;

/// Largest entry, in bytes: many times what a gateway sends in 100 ms.
const ENTRY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Events and counts of one entry.
const EVENTS_MAX: usize = 10_000;
/// A method's longest name, in bytes.
const METHOD_BYTES_MAX: usize = 32;
/// The form of an entry that this reads.
const ENTRY_VERSION: &[u8] = b"1";
/// Lives of gateways whose sequence is remembered; beyond it all are forgotten, and a gap may go unseen once.
const BOOTS_MAX: usize = 10_000;

pub(super) struct Intake {
    directory: Directory,
    moments: mpsc::Sender<Arc<Moment>>,
    status: watch::Sender<Status>,
    metrics: LiveMetrics,
    /// By node and boot: the last sequence that came.
    heard: HashMap<(Uuid, Uuid), u64>,
}

/// A batch in types that cannot be wrong, not yet named.
struct Parsed {
    node: Uuid,
    boot: Uuid,
    sequence: u64,
    at_ms: i64,
    events: Vec<ParsedEvent>,
    counts: Vec<ParsedCount>,
    /// Events and counts that could not be read.
    bad: u64,
}

/// Meter ids of what was called, and by whom.
struct Where {
    product: i64,
    subscription: i64,
    endpoint: i64,
}

struct ParsedEvent {
    at: Where,
    key: i64,
    plan: i64,
    request: Request,
}

struct ParsedCount {
    at: Where,
    sums: Sums,
}

impl Intake {
    pub(super) fn new(
        directory: Directory,
        moments: mpsc::Sender<Arc<Moment>>,
        status: watch::Sender<Status>,
        metrics: LiveMetrics,
    ) -> Intake {
        Intake { directory, moments, status, metrics, heard: HashMap::new() }
    }

    pub(super) fn note_followed(&self) {
        self.metrics.up.set(1);
        self.tell(State::Live);
    }

    pub(super) fn note_away(&self, error: &SourceError) {
        if self.metrics.up.get() == 1 {
            tracing::warn!(%error, "live usage is stale for now");
        }
        self.metrics.up.set(0);
        self.tell(State::Stale);
    }

    fn tell(&self, state: State) {
        self.status.send_if_modified(|status| {
            let is_new = status.state != state;
            if is_new {
                *status = Status { state, since_ms: Timestamp::now().as_millisecond(), ..*status };
            }
            is_new
        });
    }

    pub(super) async fn take(&mut self, version: Option<Bytes>, payload: Option<Bytes>) {
        let Some(parsed) = parse(version.as_deref(), payload) else {
            self.metrics.bad.inc();
            return;
        };
        self.metrics.batches.inc();
        self.metrics.bad.inc_by(parsed.bad);
        self.look_for_gap(&parsed);
        let mut wanted = Wanted::default();
        for event in &parsed.events {
            wanted.place(event.at.product, event.at.subscription, event.at.endpoint);
            wanted.caller(event.key, event.plan);
        }
        for count in &parsed.counts {
            wanted.place(count.at.product, count.at.subscription, count.at.endpoint);
        }
        self.directory.learn(&wanted).await;
        let moment = self.named(parsed);
        // A hub that is gone ends with the process; so does this.
        let _ended = self.moments.send(Arc::new(moment)).await;
    }

    fn look_for_gap(&mut self, parsed: &Parsed) {
        if self.heard.len() >= BOOTS_MAX {
            self.heard.clear();
        }
        let last = self.heard.insert((parsed.node, parsed.boot), parsed.sequence);
        let lost = last.map_or(0, |last| parsed.sequence.saturating_sub(last.saturating_add(1)));
        if lost > 0 {
            self.metrics.lost_batches.inc_by(lost);
            self.status.send_modify(|status| status.lost_batches = status.lost_batches.saturating_add(lost));
        }
    }

    fn named(&self, parsed: Parsed) -> Moment {
        let (directory, node) = (&self.directory, parsed.node);
        let (events, counts) = (parsed.events.len(), parsed.counts.len());
        let name_row = |event: ParsedEvent| {
            let place = directory.place(event.at.product, event.at.subscription, event.at.endpoint)?;
            let (key, plan) = (directory.key(event.key), directory.plan(event.plan));
            Some(Arc::new(Row { request: event.request, node, place, key, plan }))
        };
        let name_count = |count: ParsedCount| {
            let place = directory.place(count.at.product, count.at.subscription, count.at.endpoint)?;
            Some(Count { place, sums: count.sums })
        };
        let rows: Vec<_> = parsed.events.into_iter().filter_map(name_row).collect();
        let counts_named: Vec<_> = parsed.counts.into_iter().filter_map(name_count).collect();
        let unnamed = (events - rows.len()) + (counts - counts_named.len());
        self.metrics.unnamed.inc_by(u64::try_from(unnamed).unwrap_or(u64::MAX));
        Moment { at_ms: parsed.at_ms, rows, counts: counts_named }
    }
}

/// `None`: the frame cannot be read, or is too large.
fn parse(version: Option<&[u8]>, payload: Option<Bytes>) -> Option<Parsed> {
    let payload = payload.filter(|payload| payload.len() <= ENTRY_BYTES_MAX)?;
    if version != Some(ENTRY_VERSION) {
        return None;
    }
    let batch = wire::LiveBatch::decode(payload).ok()?;
    if batch.events.len() > EVENTS_MAX || batch.counts.len() > EVENTS_MAX {
        return None;
    }
    Timestamp::from_millisecond(batch.at_ms).ok()?;
    let events: Vec<ParsedEvent> = batch.events.iter().filter_map(parse_event).collect();
    let counts: Vec<ParsedCount> = batch.counts.iter().filter_map(parse_count).collect();
    let bad = (batch.events.len() - events.len()) + (batch.counts.len() - counts.len());
    Some(Parsed {
        node: Uuid::from_slice(&batch.node_id).ok()?,
        boot: Uuid::from_slice(&batch.boot_id).ok()?,
        sequence: batch.sequence,
        at_ms: batch.at_ms,
        events,
        counts,
        bad: u64::try_from(bad).unwrap_or(u64::MAX),
    })
}

fn parse_event(wire: &wire::UsageEvent) -> Option<ParsedEvent> {
    Timestamp::from_millisecond(wire.at_ms).ok()?;
    let is_method = (1..=METHOD_BYTES_MAX).contains(&wire.method.len()) && !wire.method.chars().any(char::is_control);
    let kind = wire.kind?;
    Some(ParsedEvent {
        at: parse_where(kind.product, kind.subscription, kind.endpoint)?,
        key: i64::try_from(kind.key).ok()?,
        plan: i64::try_from(kind.plan).ok()?,
        request: Request {
            at_ms: wire.at_ms,
            id: Uuid::from_slice(&wire.request_id).ok()?,
            method: Some(&wire.method).filter(|_| is_method)?.clone(),
            status: Some(kind.status).filter(|status| (100..=599).contains(status))?,
            verdict: parse_verdict(kind.verdict)?,
            failed_by: parse_failed_by(kind.failed_by)?,
            request_bytes: wire.request_bytes,
            response_bytes: wire.response_bytes,
            latency_us: wire.latency_us,
            upstream_latency_us: kind.upstream_contacted.then_some(wire.upstream_latency_us),
            is_test: kind.test_key,
        },
    })
}

fn parse_count(wire: &wire::LiveCount) -> Option<ParsedCount> {
    let verdict = parse_verdict(wire.verdict)?;
    let when = |holds: bool| if holds { wire.count } else { 0 };
    let of = |wanted: Verdict| when(verdict == wanted);
    Some(ParsedCount {
        at: parse_where(wire.product, wire.subscription, wire.endpoint)?,
        sums: Sums {
            requests: wire.count,
            admitted: when(verdict.is_admitted()),
            errors: when(wire.status >= 500),
            rate_limited: of(Verdict::RateLimited),
            quota_exceeded: of(Verdict::QuotaExceeded),
            payment_required: of(Verdict::PaymentRequired),
            forbidden: of(Verdict::Forbidden),
            request_bytes: wire.request_bytes,
            response_bytes: wire.response_bytes,
            latency_us_sum: wire.latency_us_sum,
        },
    })
}

fn parse_where(product: u64, subscription: u64, endpoint: u64) -> Option<Where> {
    Some(Where {
        product: i64::try_from(product).ok()?,
        subscription: i64::try_from(subscription).ok()?,
        endpoint: i64::try_from(endpoint).ok()?,
    })
}

fn parse_verdict(value: i32) -> Option<Verdict> {
    match wire::Verdict::try_from(value).ok()? {
        wire::Verdict::Unspecified => None,
        wire::Verdict::Proxied => Some(Verdict::Proxied),
        wire::Verdict::Unpaid => Some(Verdict::PaymentRequired),
        wire::Verdict::Forbidden => Some(Verdict::Forbidden),
        wire::Verdict::RateLimited => Some(Verdict::RateLimited),
        wire::Verdict::QuotaExceeded => Some(Verdict::QuotaExceeded),
        wire::Verdict::UpstreamError => Some(Verdict::UpstreamError),
        wire::Verdict::ClientGone => Some(Verdict::ClientGone),
    }
}

/// `None`: no such answer; `Some(None)`: nobody failed.
fn parse_failed_by(value: i32) -> Option<Option<&'static str>> {
    match wire::FailedBy::try_from(value).ok()? {
        wire::FailedBy::Nobody => Some(None),
        wire::FailedBy::Gateway => Some(Some("gateway")),
        wire::FailedBy::Upstream => Some(Some("upstream")),
        wire::FailedBy::Client => Some(Some("client")),
    }
}
