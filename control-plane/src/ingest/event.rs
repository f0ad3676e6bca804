//! Usage as it comes out of the stream: an entry parsed into a batch. An event that is wrong is set apart with the reason, and
//! the others are taken; an entry whose frame is wrong is refused whole. Reads no database.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message;
use snapshot::wire;
use uuid::Uuid;

use crate::domain::usage::{
    Batch, BatchId, Compacted, Event, Kind, Outcome, Producer, QUOTA_EXCEEDED, RATE_LIMITED, UNPAID,
};

/// Largest entry, encoded, in bytes: several times what a gateway sends.
pub(super) const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events in one batch, and compacted rows in one.
const EVENTS_MAX: usize = 10_000;
/// Requests of one compacted row.
const COUNT_MAX: u64 = 1 << 40;
/// Bytes and microseconds of one event or row: sums of millions of them still fit.
const AMOUNT_MAX: u64 = 1 << 50;
/// The form of an entry that this reads.
const ENTRY_VERSION: &[u8] = b"1";
/// A method's longest name, in characters.
const METHOD_CHARS_MAX: usize = 32;
/// No request is older than the year 2000, or younger than 2100; in Unix milliseconds.
const AT_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;
/// In milliseconds.
const QUARTER_HOUR_MS: i64 = 15 * 60_000;
/// What nearly every event is, without a copy.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// Why an entry was moved aside.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum EntryFault {
    #[error("the entry lacks the field '{0}'")]
    FieldMissing(&'static str),
    #[error("the entry's version is not 1")]
    Version,
    #[error("the entry has {0} bytes, more than {ENTRY_BYTES_MAX}")]
    TooLarge(usize),
    #[error("the batch does not decode: {0}")]
    Decode(String),
    #[error("the batch's {0} is missing or not valid")]
    Batch(&'static str),
    #[error("the batch has {0} events or rows, more than {EVENTS_MAX}")]
    TooManyEvents(usize),
}

/// A batch, and what of its entry cannot be counted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parsed {
    pub(super) batch: Batch,
    pub(super) refused: Vec<Refused>,
}

/// An event or a compacted row that is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// 'event' or 'row', and its place in the entry.
    pub(super) what: &'static str,
    pub(super) index: usize,
    /// The field that is missing or not valid.
    pub(super) field: &'static str,
    /// As it came, encoded.
    pub(super) payload: Vec<u8>,
}

pub(super) fn parse_entry(version: Option<&[u8]>, payload: Option<Bytes>) -> Result<Parsed, EntryFault> {
    if version.ok_or(EntryFault::FieldMissing("v"))? != ENTRY_VERSION {
        return Err(EntryFault::Version);
    }
    let payload = payload.ok_or(EntryFault::FieldMissing("b"))?;
    if payload.len() > ENTRY_BYTES_MAX {
        return Err(EntryFault::TooLarge(payload.len()));
    }
    let batch = wire::UsageBatch::decode(payload).map_err(|error| EntryFault::Decode(error.to_string()))?;
    let length = batch.events.len().max(batch.rows.len());
    if length > EVENTS_MAX {
        return Err(EntryFault::TooManyEvents(length));
    }
    let node = uuid(&batch.node_id).ok_or(EntryFault::Batch("node_id"))?;
    let epoch = uuid(&batch.epoch).ok_or(EntryFault::Batch("epoch"))?;
    let sequence = i64::try_from(batch.sequence).map_err(|_| EntryFault::Batch("sequence"))?;
    let low_watermark_ms = match batch.low_watermark_ms {
        0 => None,
        at_ms => Some(at_ms).filter(|at| AT_MS.contains(at)).ok_or(EntryFault::Batch("low_watermark_ms")).map(Some)?,
    };
    let mut refused = Vec::new();
    let events = parse_all("event", &batch.events, parse_event, &mut refused);
    let compacted = parse_all("row", &batch.rows, parse_row, &mut refused);
    let id = BatchId { producer: Producer { node, epoch }, sequence };
    let closes_epoch = batch.closes_epoch;
    Ok(Parsed { batch: Batch { id, events, compacted, low_watermark_ms, closes_epoch }, refused })
}

fn parse_all<W: Message, T>(
    what: &'static str,
    wires: &[W],
    parse: fn(&W) -> Result<T, &'static str>,
    refused: &mut Vec<Refused>,
) -> Vec<T> {
    let mut good = Vec::with_capacity(wires.len());
    for (index, wire) in wires.iter().enumerate() {
        match parse(wire) {
            Ok(value) => good.push(value),
            Err(field) => refused.push(Refused { what, index, field, payload: wire.encode_to_vec() }),
        }
    }
    good
}

/// Errors: the field's name.
fn parse_event(wire: &wire::UsageEvent) -> Result<Event, &'static str> {
    let kind = parse_kind(wire.kind.as_ref())?;
    Ok(Event {
        at_ms: Some(wire.at_ms).filter(|at| AT_MS.contains(at)).ok_or("at_ms")?,
        request_id: uuid(&wire.request_id).ok_or("request_id")?,
        method: method(&wire.method)?,
        kind,
        request_bytes: amount(wire.request_bytes).ok_or("request_bytes")?,
        response_bytes: amount(wire.response_bytes).ok_or("response_bytes")?,
        latency_us: i64::from(wire.latency_us),
        upstream_latency_us: kind.upstream_contacted.then(|| i64::from(wire.upstream_latency_us)),
    })
}

/// Errors: the field's name.
fn parse_row(wire: &wire::UsageRow) -> Result<Compacted, &'static str> {
    let kind = parse_kind(wire.kind.as_ref())?;
    let begins = |at: &i64| AT_MS.contains(at) && at % QUARTER_HOUR_MS == 0;
    Ok(Compacted {
        quarter_hour_ms: Some(wire.quarter_hour_ms).filter(begins).ok_or("quarter_hour_ms")?,
        kind,
        count: Some(wire.count).filter(|count| (1..=COUNT_MAX).contains(count)).and_then(signed).ok_or("count")?,
        request_bytes: amount(wire.request_bytes).ok_or("request_bytes")?,
        response_bytes: amount(wire.response_bytes).ok_or("response_bytes")?,
        latency_us_sum: amount(wire.latency_us_sum).ok_or("latency_us_sum")?,
        upstream_latency_us_sum: amount(wire.upstream_latency_us_sum).ok_or("upstream_latency_us_sum")?,
    })
}

fn parse_kind(wire: Option<&wire::UsageKind>) -> Result<Kind, &'static str> {
    let wire = wire.ok_or("kind")?;
    Ok(Kind {
        key: signed(wire.key).ok_or("key")?,
        subscription: signed(wire.subscription).ok_or("subscription")?,
        product: signed(wire.product).ok_or("product")?,
        endpoint: signed(wire.endpoint).ok_or("endpoint")?,
        plan: signed(wire.plan).ok_or("plan")?,
        status: status(wire.status)?,
        outcome: outcome(wire.verdict)?,
        failed_by: failed_by(wire.failed_by)?,
        upstream_contacted: wire.upstream_contacted,
        test_key: wire.test_key,
    })
}

fn status(value: u32) -> Result<i16, &'static str> {
    i16::try_from(value).ok().filter(|status| (100..=599).contains(status)).ok_or("status")
}

fn method(text: &str) -> Result<Cow<'static, str>, &'static str> {
    if let Some(known) = METHODS.into_iter().find(|known| *known == text) {
        return Ok(Cow::Borrowed(known));
    }
    let fits = (1..=METHOD_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if fits { Ok(Cow::Owned(text.to_owned())) } else { Err("method") }
}

fn outcome(verdict: i32) -> Result<Outcome, &'static str> {
    match wire::Verdict::try_from(verdict) {
        Ok(wire::Verdict::Proxied) => Ok(Outcome::Proxied),
        Ok(wire::Verdict::UpstreamError) => Ok(Outcome::Failed),
        Ok(wire::Verdict::ClientGone) => Ok(Outcome::ClientGone),
        Ok(wire::Verdict::Unpaid) => Ok(UNPAID),
        Ok(wire::Verdict::Forbidden) => Ok(Outcome::Refused("forbidden")),
        Ok(wire::Verdict::RateLimited) => Ok(RATE_LIMITED),
        Ok(wire::Verdict::QuotaExceeded) => Ok(QUOTA_EXCEEDED),
        Ok(wire::Verdict::Unspecified) | Err(_) => Err("verdict"),
    }
}

fn failed_by(value: i32) -> Result<Option<&'static str>, &'static str> {
    match wire::FailedBy::try_from(value) {
        Ok(wire::FailedBy::Nobody) => Ok(None),
        Ok(wire::FailedBy::Gateway) => Ok(Some("gateway")),
        Ok(wire::FailedBy::Upstream) => Ok(Some("upstream")),
        Ok(wire::FailedBy::Client) => Ok(Some("client")),
        Err(_) => Err("failed_by"),
    }
}

fn uuid(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

fn signed(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

fn amount(value: u64) -> Option<i64> {
    signed(value).filter(|_| value <= AMOUNT_MAX)
}
