//! W3C trace context: a trusted proxy's `traceparent` is passed on, anybody else's is replaced by a new one, so that no
//! client can write into somebody's traces.

use std::fmt::Write as _;

use http::HeaderValue;
use uuid::Uuid;

use crate::stack_text::StackText;

pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const TRACESTATE: &str = "tracestate";
/// Version, trace, parent, flags, and the hyphens between them.
const TRACEPARENT_BYTES: usize = 2 + 32 + 16 + 2 + 3;

/// A trace that begins here: named after the request, and not sampled, since the gateway keeps no spans.
pub(super) fn new(request: Uuid) -> HeaderValue {
    let (_, span) = request.as_u64_pair();
    let mut text = StackText::<TRACEPARENT_BYTES>::new();
    // Always as long as the constant says.
    let _ = write!(text, "00-{}-{span:016x}-00", request.simple());
    text.to_value()
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
        assert!(is_valid(&new(Uuid::now_v7())));
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
