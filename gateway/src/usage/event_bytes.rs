//! Events as they stand in batches and in the live stream, written straight into bytes: what prost makes of a `UsageEvent`, without
//! the value, its two allocations and two walks over it. Knows the message's field numbers, which the test holds to the schema.

#[cfg(test)]
mod tests;

use prost::Message;
use prost::encoding::encode_varint;

use super::record::Record;

/// Wire types.
const VARINT: u8 = 0;
const BYTES: u8 = 2;

/// Bytes of one event, at most: those of its fields with the largest values.
const EVENT_BYTES_MAX: usize = 192;

/// One event, encoded once for all that want its bytes, and never where nobody does.
pub(super) struct Event<'a> {
    pub(super) record: &'a Record,
    /// `None` until somebody asked.
    bytes: Option<Bytes>,
}

impl<'a> Event<'a> {
    pub(super) fn new(record: &'a Record) -> Event<'a> {
        Event { record, bytes: None }
    }

    fn bytes(&mut self) -> &[u8] {
        self.bytes.get_or_insert_with(|| encode(self.record)).as_slice()
    }
}

/// Those of one message, as they come.
#[derive(Default)]
pub(super) struct EventBytes {
    bytes: Vec<u8>,
    count: usize,
}

impl EventBytes {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// `field`: of the message that holds them; below 16.
    pub(super) fn add(&mut self, field: u8, event: &mut Event<'_>) {
        let event = event.bytes();
        self.bytes.push(field << 3 | BYTES);
        encode_varint(u64::try_from(event.len()).unwrap_or(0), &mut self.bytes);
        self.bytes.extend_from_slice(event);
        self.count += 1;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole message. Its fields may come in any order.
    pub(super) fn with(&self, rest: &impl Message) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.bytes.len() + rest.encoded_len());
        whole.extend_from_slice(&self.bytes);
        rest.encode_raw(&mut whole);
        whole
    }
}

fn encode(record: &Record) -> Bytes {
    let mut out = Bytes { bytes: [0; EVENT_BYTES_MAX], length: 0 };
    out.number(1, u64::from_le_bytes(record.at_ms.to_le_bytes()));
    out.put([2 << 3 | BYTES, 16]);
    out.put(record.request_id.into_bytes());
    let kind = out.begin(3);
    out.number(1, record.key);
    out.number(2, record.subscription);
    out.number(3, record.product);
    out.number(4, record.endpoint);
    out.number(5, record.plan);
    out.number(6, u64::from(record.status));
    out.number(7, of_enum(record.verdict.into()));
    out.number(8, of_enum(record.failed_by.into()));
    out.number(9, u64::from(record.upstream_contacted));
    out.number(10, u64::from(record.test_key));
    out.end(kind);
    out.text(4, record.method.name().as_bytes());
    out.number(5, record.request_bytes);
    out.number(6, record.response_bytes);
    out.number(7, u64::from(record.latency_us));
    out.number(8, u64::from(record.upstream_latency_us));
    out
}

/// An enum goes over the wire as the 64 bits of its sign-extended number.
fn of_enum(number: i32) -> u64 {
    u64::from_le_bytes(i64::from(number).to_le_bytes())
}

/// A message's fields in memory of its own: no byte asks whether a heap has room for it. Every message, text and number of one
/// field is below 128 bytes, so that its length is one byte.
struct Bytes {
    bytes: [u8; EVENT_BYTES_MAX],
    length: usize,
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        if let Some(room) = self.bytes.get_mut(self.length..).and_then(<[u8]>::first_chunk_mut::<N>) {
            *room = bytes;
            self.length += N;
        }
    }

    /// Of 0 nothing is written.
    #[inline]
    fn number(&mut self, field: u8, value: u64) {
        let head = field << 3 | VARINT;
        match value {
            0 => {}
            1..=0x7F => self.put([head, low_byte(value)]),
            0x80..=0x3FFF => self.put([head, low_byte(value) | 0x80, low_byte(value >> 7)]),
            _ => self.long_number(head, value),
        }
    }

    /// Two bytes at a time, of seven bits each.
    fn long_number(&mut self, head: u8, mut value: u64) {
        self.put([head]);
        while value > 0x3FFF {
            self.put([low_byte(value) | 0x80, low_byte(value >> 7) | 0x80]);
            value >>= 14;
        }
        match value {
            0..=0x7F => self.put([low_byte(value)]),
            _ => self.put([low_byte(value) | 0x80, low_byte(value >> 7)]),
        }
    }

    fn text(&mut self, field: u8, text: &[u8]) {
        let began = self.begin(field);
        if let Some(room) = self.bytes.get_mut(self.length..self.length + text.len()) {
            room.copy_from_slice(text);
            self.length += text.len();
        }
        self.end(began);
    }

    /// Where the length is to stand of what follows.
    fn begin(&mut self, field: u8) -> usize {
        self.put([field << 3 | BYTES, 0]);
        self.length
    }

    fn end(&mut self, began: usize) {
        let length = u8::try_from(self.length - began).unwrap_or(0);
        if let Some(place) = self.bytes.get_mut(began - 1) {
            *place = length;
        }
    }
}

fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}
