//! Usage as it comes out of the stream: an entry parsed into a batch. An event that is wrong is set apart with the reason, and
//! the others are taken; an entry whose frame is wrong is refused whole. Reads no database.

use bytes::Bytes;
use prost::Message;
use snapshot::wire;
use uuid::Uuid;

use crate::domain::usage::{Batch, BatchId, Event, Outcome};

/// Largest entry, encoded, in bytes: ten times what a gateway sends.
pub(super) const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events in one batch; gateways send at most 1,000.
const EVENTS_MAX: usize = 10_000;
/// The form of an entry that this reads.
const ENTRY_VERSION: &[u8] = b"1";
/// A method's longest name, in characters.
const METHOD_CHARS_MAX: usize = 32;
/// No request is older than the year 2000, or younger than 2100; in Unix milliseconds.
const AT_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;

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
    #[error("the batch has {0} events, more than {EVENTS_MAX}")]
    TooManyEvents(usize),
}

/// A batch, and the events of its entry that cannot be counted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parsed {
    pub(super) batch: Batch,
    pub(super) refused: Vec<RefusedEvent>,
}

/// An event that is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RefusedEvent {
    /// Its place in the entry.
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
    if batch.events.len() > EVENTS_MAX {
        return Err(EntryFault::TooManyEvents(batch.events.len()));
    }
    let id = BatchId {
        node: uuid(&batch.node_id).ok_or(EntryFault::Batch("node_id"))?,
        epoch: uuid(&batch.epoch).ok_or(EntryFault::Batch("epoch"))?,
        sequence: i64::try_from(batch.sequence).map_err(|_| EntryFault::Batch("sequence"))?,
    };
    let (mut events, mut refused) = (Vec::with_capacity(batch.events.len()), Vec::new());
    for (index, event) in batch.events.iter().enumerate() {
        match parse_event(event) {
            Ok(event) => events.push(event),
            Err(field) => refused.push(RefusedEvent { index, field, payload: event.encode_to_vec() }),
        }
    }
    Ok(Parsed { batch: Batch { id, events }, refused })
}

/// Errors: the field's name.
fn parse_event(wire: &wire::UsageEvent) -> Result<Event, &'static str> {
    let (outcome, failed_by) = (outcome(wire.verdict)?, failed_by(wire.failed_by)?);
    let status = i16::try_from(wire.status).ok().filter(|status| (100..=599).contains(status)).ok_or("status")?;
    let method_fits =
        (1..=METHOD_CHARS_MAX).contains(&wire.method.chars().count()) && !wire.method.chars().any(char::is_control);
    Ok(Event {
        at_ms: Some(wire.at_ms).filter(|at| AT_MS.contains(at)).ok_or("at_ms")?,
        request_id: uuid(&wire.request_id).ok_or("request_id")?,
        key: signed(wire.key).ok_or("key")?,
        subscription: signed(wire.subscription).ok_or("subscription")?,
        product: signed(wire.product).ok_or("product")?,
        endpoint: signed(wire.endpoint).ok_or("endpoint")?,
        plan: signed(wire.plan).ok_or("plan")?,
        method: Some(&wire.method).filter(|_| method_fits).ok_or("method")?.clone(),
        status,
        outcome,
        failed_by,
        request_bytes: signed(wire.request_bytes).ok_or("request_bytes")?,
        response_bytes: signed(wire.response_bytes).ok_or("response_bytes")?,
        latency_us: i64::from(wire.latency_us),
        upstream_latency_us: wire.upstream_contacted.then(|| i64::from(wire.upstream_latency_us)),
        upstream_contacted: wire.upstream_contacted,
        test_key: wire.test_key,
    })
}

fn outcome(verdict: i32) -> Result<Outcome, &'static str> {
    match wire::Verdict::try_from(verdict) {
        Ok(wire::Verdict::Proxied) => Ok(Outcome::Proxied),
        Ok(wire::Verdict::UpstreamError) => Ok(Outcome::Failed),
        Ok(wire::Verdict::ClientGone) => Ok(Outcome::ClientGone),
        Ok(wire::Verdict::Unpaid) => Ok(Outcome::Refused("payment_required")),
        Ok(wire::Verdict::Forbidden) => Ok(Outcome::Refused("forbidden")),
        Ok(wire::Verdict::RateLimited) => Ok(Outcome::Refused("rate_limited")),
        Ok(wire::Verdict::QuotaExceeded) => Ok(Outcome::Refused("quota_exceeded")),
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
