//! What a request head must be before anybody looks at its meaning: bounded, and readable in one way only. Where two
//! readers could disagree about host, path or length, the answer is 400. Routes nothing.

#[cfg(test)]
mod tests;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, VIA};
use http::{HeaderMap, Method, Version};
use snapshot::routes::METHODS;

use crate::rejection::Rejection;

/// Bounds of a request head; an operator may choose lower ones.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
pub const HEADER_LINES_MAX: usize = 100;
/// A DNS name and a port.
const HOST_BYTES_MAX: usize = 255 + 6;
/// What the gateway calls itself in `Via`.
pub const PSEUDONYM: &str = "apihub";
/// How often a request may have come through the gateway: products may call products, but not for ever.
const PASSES_MAX: usize = 3;
/// Colon, space, CR, LF: what a header line has beside its name and value.
const LINE_OVERHEAD_BYTES: usize = 4;

/// Path and query of a target that is well-formed as a target, and its authority where it is in absolute form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetParts<'a> {
    pub authority: Option<&'a str>,
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// Splits a request target. `raw` are the bytes as sent, so that what is decided on is what is sent on.
///
/// HTTP/1 also takes the absolute form, `http://host/path` (RFC 9112 §3.2.2). Its path is then decided on and sent on like any
/// other, and its authority must be the one that `Host` names.
pub fn split_target(version: Version, raw: &[u8]) -> Result<TargetParts<'_>, Rejection> {
    use snapshot::path::PathFault;
    let text = std::str::from_utf8(raw).map_err(|_| Rejection::BadPath(PathFault::ForbiddenByte))?;
    let (authority, text) = if version <= Version::HTTP_11 { split_absolute(text) } else { (None, text) };
    Ok(match text.split_once('?') {
        Some((path, query)) => TargetParts { authority, path: rooted(authority, path), query: Some(query) },
        None => TargetParts { authority, path: rooted(authority, text), query: None },
    })
}

/// The authority and the rest of a target in absolute form; other targets as they are.
fn split_absolute(text: &str) -> (Option<&str>, &str) {
    let after = |scheme: &str| {
        let start = text.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| text.get(scheme.len()..)).flatten()
    };
    let Some(rest) = after("http://").or_else(|| after("https://")) else { return (None, text) };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    rest.split_at_checked(end).map_or((None, text), |(authority, rest)| (Some(authority), rest))
}

/// `http://host` alone means its root.
fn rooted<'a>(authority: Option<&str>, path: &'a str) -> &'a str {
    if authority.is_some() && path.is_empty() { "/" } else { path }
}

/// 414 for a target beyond the bound, 400 for a query that the request line to the upstream could not carry.
pub fn check_target(path: &str, query: Option<&str>, bytes_max: usize) -> Result<(), Rejection> {
    if path.len() + query.map_or(0, |query| query.len() + 1) > bytes_max {
        return Err(Rejection::UriTooLong);
    }
    // RFC 3986 `query`, and what browsers send beside it; no space, control, quote, angle bracket or fragment.
    let is_query_byte = |byte: u8| matches!(byte, 0x21 | 0x24..=0x3B | 0x3D | 0x3F..=0x7E);
    if query.is_some_and(|query| !query.bytes().all(is_query_byte)) {
        return Err(Rejection::BadQuery);
    }
    Ok(())
}

/// 405 for methods that are never proxied, 501 for those nobody knows.
pub fn check_method(method: &Method) -> Result<(), Rejection> {
    if METHODS.contains(method) {
        Ok(())
    } else if *method == Method::TRACE || *method == Method::CONNECT {
        Err(Rejection::MethodNotAllowed(METHODS.to_vec()))
    } else {
        Err(Rejection::MethodUnknown)
    }
}

/// 431 where the header lines are too many or too long together.
pub fn check_header_size(headers: &HeaderMap, bytes_max: usize, lines_max: usize) -> Result<(), Rejection> {
    let bytes: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD_BYTES).sum();
    if headers.len() > lines_max || bytes > bytes_max { Err(Rejection::HeadersTooLarge) } else { Ok(()) }
}

/// 508 where the request has come through this gateway too often (RFC 9110 §7.6.3).
pub fn check_loop(headers: &HeaderMap) -> Result<(), Rejection> {
    let hops = headers.get_all(VIA).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let is_ours = |hop: &&[u8]| {
        let mut words = hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        // Its version, then who received it; a comment may follow.
        words.nth(1).is_some_and(|who| who.eq_ignore_ascii_case(PSEUDONYM.as_bytes()))
    };
    if hops.filter(is_ours).count() > PASSES_MAX { Err(Rejection::LoopDetected) } else { Ok(()) }
}

/// One host at most, of nothing but the bytes of a host; HTTP/1.1 and HTTP/2 must name one.
///
/// `authority` is the target's (HTTP/2, or HTTP/1 in absolute form) or what the caller took from `Host`.
pub fn check_host(version: Version, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Rejection> {
    let mut lines = headers.get_all(HOST).iter();
    let line = lines.next().map(|value| value.as_bytes());
    if lines.next().is_some() {
        return Err(Rejection::BadHost("The request names several hosts."));
    }
    let authority = authority.map(str::as_bytes);
    // Mostly the second was taken from the first.
    let other = authority.filter(|authority| Some(*authority) != line);
    if line.is_some_and(|host| !is_host(host)) || other.is_some_and(|host| !is_host(host)) {
        return Err(Rejection::BadHost("The host has a byte that no host name, address or port has."));
    }
    match (line, authority) {
        (Some(line), Some(authority)) if !line.eq_ignore_ascii_case(authority) => {
            Err(Rejection::BadHost("The Host header and the request target name different hosts."))
        }
        (None, None) if version > Version::HTTP_10 => Err(Rejection::BadHost("The request names no host.")),
        (None, Some(_)) if version == Version::HTTP_11 => {
            Err(Rejection::BadHost("The request names its host in the target alone."))
        }
        _ => Ok(()),
    }
}

/// A name or IPv4 address, or an IPv6 address in brackets, and perhaps a port.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let (address, after) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default());
            let is_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if !address.iter().all(is_address) {
                return false;
            }
            (address, after)
        }
        None => {
            let end = host.iter().position(|&byte| byte == b':').unwrap_or(host.len());
            let (name, port) = host.split_at_checked(end).unwrap_or_default();
            if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
                return false;
            }
            (name, port)
        }
    };
    let is_port = match port.strip_prefix(b":") {
        Some(digits) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    };
    !name.is_empty() && is_port && host.len() <= HOST_BYTES_MAX
}

/// The declared length of the body, where there is one. Refuses every head that two readers could frame differently.
pub fn read_framing(version: Version, headers: &HeaderMap) -> Result<Option<u64>, Rejection> {
    let coded = check_transfer_encoding(version, headers)?;
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    if lengths.next().is_some() {
        return Err(Rejection::BadFraming("The request has several Content-Length lines."));
    }
    if coded {
        return Err(Rejection::BadFraming("The request has both Content-Length and Transfer-Encoding."));
    }
    parse_length(length.as_bytes()).map(Some)
}

/// Whether a body comes in chunks.
fn check_transfer_encoding(version: Version, headers: &HeaderMap) -> Result<bool, Rejection> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    if version != Version::HTTP_11 {
        return Err(Rejection::BadFraming("Transfer-Encoding belongs to HTTP/1.1 alone."));
    }
    if codings.next().is_some() {
        return Err(Rejection::BadFraming("The request has several Transfer-Encoding lines."));
    }
    if coding.as_bytes().eq_ignore_ascii_case(b"chunked") { Ok(true) } else { Err(Rejection::TransferCodingUnknown) }
}

/// Digits only, and below 2^63: no list, no sign, nothing that a reader could take for another number.
fn parse_length(value: &[u8]) -> Result<u64, Rejection> {
    const FAULT: Rejection = Rejection::BadFraming("The Content-Length is not one plain number below 2^63.");
    let is_plain = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).map_err(|_| FAULT)?;
    let length = if is_plain { text.parse::<i64>().ok() } else { None };
    length.and_then(|length| u64::try_from(length).ok()).ok_or(FAULT)
}

/// Whether the bytes of an HTTP/1 head have a `Content-Length` line. Pingora drops that line when `Transfer-Encoding` is
/// there too, so that the parsed head no longer tells.
pub fn raw_head_has_content_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length:";
    raw.split(|&byte| byte == b'\n').any(|line| line.get(..NAME.len()).is_some_and(|n| n.eq_ignore_ascii_case(NAME)))
}

/// What to answer when [`raw_head_has_content_length`] is true of a request that has `Transfer-Encoding`.
pub fn both_framings() -> Rejection {
    Rejection::BadFraming("The request has both Content-Length and Transfer-Encoding.")
}
