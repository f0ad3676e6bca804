//! W3C trace context: a trusted proxy's `traceparent` is passed on, anybody else's is replaced by a new one, so that no
//! client can write into somebody's traces.

use http::{HeaderName, HeaderValue};
use uuid::Uuid;

use crate::header_texts::{HeaderTexts, Piece};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A trace that begins here: named after the request, and not sampled, since the gateway keeps no spans.
pub(super) fn new(request: Uuid, texts: &mut HeaderTexts) -> Piece {
    /// Hexadecimal digits of a span, the second half of the id.
    const SPAN_DIGITS: usize = 16;
    let mut buffer = Uuid::encode_buffer();
    let trace = request.simple().encode_lower(&mut buffer);
    let start = texts.here();
    texts.push("00-");
    texts.push(trace);
    texts.push("-");
    texts.push(trace.get(SPAN_DIGITS..).unwrap_or_default());
    texts.push("-00");
    texts.since(start)
}

/// Version, 16 bytes of trace, 8 bytes of parent, flags; in lower-case hexadecimal and not all zero.
pub(super) fn is_valid(value: &HeaderValue) -> bool {
    let mut parts = value.as_bytes().split(|&byte| byte == b'-');
    let mut part = |length: usize| {
        parts
            .next()
            .filter(|part| part.len() == length && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (part(2), part(32), part(16), part(2)) else {
        return false;
    };
    let is_zero = |part: &[u8]| part.iter().all(|&byte| byte == b'0');
    // Later versions may have more parts; version ff is forbidden.
    version != b"ff" && !is_zero(trace) && !is_zero(parent) && (version != b"00" || parts.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_make_is_valid() {
        let mut texts = HeaderTexts::with_capacity(64);
        let made = new(Uuid::now_v7(), &mut texts);
        assert!(is_valid(&texts.ready().value(&made)));
    }

    #[test]
    fn only_well_formed_values_are_passed_on() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_valid(&HeaderValue::from_static(good)));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_valid(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
