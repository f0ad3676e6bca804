//! One event as it stands in batches and in the live stream, written straight into bytes: what prost makes of a `UsageEvent`, without
//! the value, its two allocations and two walks over it. Knows the message's field numbers, which the test holds to the schema.

#[cfg(test)]
mod tests;

use super::record::Record;

/// Wire types.
const VARINT: u8 = 0;
const BYTES: u8 = 2;
/// Of the request id.
const ID_BYTES: u8 = 16;

/// Appends the event as the field `field` of the message that holds it; `field` is below 16.
pub(super) fn put_event(out: &mut Vec<u8>, field: u8, record: &Record) {
    let kind = [
        (1, record.key),
        (2, record.subscription),
        (3, record.product),
        (4, record.endpoint),
        (5, record.plan),
        (6, u64::from(record.status)),
        (7, of_enum(record.verdict.into())),
        (8, of_enum(record.failed_by.into())),
        (9, u64::from(record.upstream_contacted)),
        (10, u64::from(record.test_key)),
    ];
    let at_ms = [(1, u64::from_le_bytes(record.at_ms.to_le_bytes()))];
    let sums = [
        (5, record.request_bytes),
        (6, record.response_bytes),
        (7, u64::from(record.latency_us)),
        (8, u64::from(record.upstream_latency_us)),
    ];
    let method = record.method.name().as_bytes();
    let (kind_bytes, method_bytes) = (length_of(&kind), u64::try_from(method.len()).unwrap_or(0));
    let beside = 2 + u64::from(ID_BYTES) + 1 + varint_length(kind_bytes) + 2;
    put_head(out, field, length_of(&at_ms) + beside + kind_bytes + method_bytes + length_of(&sums));
    put_fields(out, &at_ms);
    out.extend_from_slice(&[2 << 3 | BYTES, ID_BYTES]);
    out.extend_from_slice(record.request_id.as_bytes());
    put_head(out, 3, kind_bytes);
    put_fields(out, &kind);
    put_head(out, 4, method_bytes);
    out.extend_from_slice(method);
    put_fields(out, &sums);
}

/// An enum goes over the wire as the 64 bits of its sign-extended number.
fn of_enum(number: i32) -> u64 {
    u64::from_le_bytes(i64::from(number).to_le_bytes())
}

/// Of fields that hold 0 nothing is written.
fn length_of(fields: &[(u8, u64)]) -> u64 {
    fields.iter().map(|(_, value)| if *value == 0 { 0 } else { 1 + varint_length(*value) }).sum()
}

fn varint_length(value: u64) -> u64 {
    u64::from((u64::BITS - (value | 1).leading_zeros()).div_ceil(7))
}

fn put_head(out: &mut Vec<u8>, field: u8, length: u64) {
    out.push(field << 3 | BYTES);
    put_varint(out, length);
}

fn put_fields(out: &mut Vec<u8>, fields: &[(u8, u64)]) {
    for (field, value) in fields {
        if *value > 0 {
            out.push(field << 3 | VARINT);
            put_varint(out, *value);
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7F {
        out.push(u8::try_from(value & 0x7F).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}
