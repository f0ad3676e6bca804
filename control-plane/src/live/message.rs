//! What watchers are sent, as JSON, written once for all who watch the same. docs/API.md shows each shape.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::moment::{Row, Sums};
use super::recent::{Seconds, WINDOW};
use super::topic::Watch;
use crate::domain::verdict::Verdict;

/// Whether what is shown is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Live,
    /// The stream cannot be reached; what was sent is as old as `since`.
    Stale,
    /// This control plane has no stream.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    pub since_ms: i64,
    /// Batches that gateways sent and that never came here.
    pub lost_batches: u64,
}

impl Status {
    pub(super) fn at_start(has_source: bool) -> Status {
        let state = if has_source { State::Stale } else { State::Off };
        Status { state, since_ms: Timestamp::now().as_millisecond(), lost_batches: 0 }
    }
}

#[derive(Serialize)]
struct StatusMessage {
    r#type: &'static str,
    state: State,
    since: Timestamp,
    lost_batches: u64,
}

pub fn notice_of_status(status: Status) -> Bytes {
    let since = time_of(status.since_ms);
    render(&StatusMessage { r#type: "state", state: status.state, since, lost_batches: status.lost_batches })
}

#[derive(Serialize)]
struct MissedMessage<'a> {
    r#type: &'static str,
    topic: &'a str,
    messages: u64,
    requests: u64,
}

pub(super) fn missed(topic: &str, messages: u64, requests: u64) -> Bytes {
    render(&MissedMessage { r#type: "missed", topic, messages, requests })
}

/// A snapshot or a delta; which one says `r#type`.
#[derive(Serialize)]
struct RequestsMessage<'a> {
    r#type: &'static str,
    topic: &'a str,
    sequence: u64,
    approximate: bool,
    rows: Vec<RowView<'a>>,
    /// Requests that happened and are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unlisted: Option<u64>,
}

#[derive(Serialize)]
struct RowView<'a> {
    at: Timestamp,
    request_id: Uuid,
    node_id: Uuid,
    product_id: Uuid,
    product: &'a str,
    endpoint_id: Option<Uuid>,
    endpoint: Option<&'a str>,
    subscription_id: Uuid,
    consumer: &'a str,
    plan_id: Option<Uuid>,
    /// Never on a publisher's topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<Uuid>,
    method: &'a str,
    status: u32,
    verdict: Verdict,
    failed_by: Option<&'static str>,
    request_bytes: u64,
    response_bytes: u64,
    latency_us: u32,
    upstream_latency_us: Option<u32>,
    test_key: bool,
}

#[derive(Serialize)]
struct CountersMessage<'a> {
    r#type: &'static str,
    topic: &'a str,
    sequence: u64,
    approximate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_s: Option<u64>,
    seconds: Vec<SecondView>,
}

#[derive(Serialize)]
struct SecondView {
    at: Timestamp,
    #[serde(flatten)]
    sums: Sums,
}

impl<'a> RowView<'a> {
    fn of(row: &'a Row, shows_keys: bool) -> RowView<'a> {
        let (request, place) = (&row.request, &row.place);
        RowView {
            at: time_of(request.at_ms),
            request_id: request.id,
            node_id: row.node,
            product_id: place.product.id,
            product: &place.product.slug,
            endpoint_id: place.endpoint.as_ref().map(|endpoint| endpoint.id),
            endpoint: place.endpoint.as_ref().map(|endpoint| endpoint.pattern.as_str()),
            subscription_id: place.subscription.id,
            consumer: &place.subscription.consumer,
            plan_id: row.plan,
            key_id: row.key.filter(|_| shows_keys),
            method: &request.method,
            status: request.status,
            verdict: request.verdict,
            failed_by: request.failed_by,
            request_bytes: request.request_bytes,
            response_bytes: request.response_bytes,
            latency_us: request.latency_us,
            upstream_latency_us: request.upstream_latency_us,
            test_key: request.is_test,
        }
    }
}

/// Of which topic, and where in it.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) watch: Watch,
    pub(super) name: &'a str,
    pub(super) sequence: u64,
}

pub(super) fn requests_delta<'a>(head: Head<'a>, rows: impl Iterator<Item = &'a Row>, unlisted: u64) -> Bytes {
    render(&requests(head, "delta", rows, Some(unlisted)))
}

pub(super) fn requests_snapshot<'a>(head: Head<'a>, rows: impl Iterator<Item = &'a Row>) -> Bytes {
    render(&requests(head, "snapshot", rows, None))
}

fn requests<'a>(
    head: Head<'a>,
    kind: &'static str,
    rows: impl Iterator<Item = &'a Row>,
    unlisted: Option<u64>,
) -> RequestsMessage<'a> {
    RequestsMessage {
        r#type: kind,
        topic: head.name,
        sequence: head.sequence,
        approximate: true,
        rows: rows.map(|row| RowView::of(row, head.watch.shows_keys)).collect(),
        unlisted,
    }
}

pub(super) fn counters_delta(head: Head<'_>, seconds: &Seconds) -> Bytes {
    counters(head, "delta", None, seconds)
}

pub(super) fn counters_snapshot(head: Head<'_>, seconds: &Seconds) -> Bytes {
    counters(head, "snapshot", Some(WINDOW.as_secs()), seconds)
}

fn counters(head: Head<'_>, kind: &'static str, window_s: Option<u64>, seconds: &Seconds) -> Bytes {
    let seconds = seconds.iter().map(|(at_ms, sums)| SecondView { at: time_of(*at_ms), sums: *sums }).collect();
    let (topic, sequence) = (head.name, head.sequence);
    render(&CountersMessage { r#type: kind, topic, sequence, approximate: true, window_s, seconds })
}

/// Times were checked when they were parsed.
fn time_of(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or_default()
}

/// Structs of strings and numbers always serialize; an empty message would be ignored.
fn render(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}
