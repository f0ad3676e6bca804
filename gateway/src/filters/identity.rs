//! What the upstream is told about the caller, and what of the client's own headers it must never see: the key, and every
//! name that only the gateway may use, however it is spelt.

#[cfg(test)]
mod tests;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::credential::{APIKEY, KeyPlaces, X_API_KEY};
use super::entitlement::KnownSubscription;
use crate::header_texts::{HeaderTexts, Piece};

const X_CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const X_CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const X_CREDENTIAL_IDENTIFIER: HeaderName = HeaderName::from_static("x-credential-identifier");
const X_SUBSCRIPTION_ID: HeaderName = HeaderName::from_static("x-subscription-id");
const X_PLAN: HeaderName = HeaderName::from_static("x-plan");

/// Names that the gateway alone may send upstream, in lower case with hyphens.
const RESERVED: [&str; 5] = ["x-subscription-id", "x-plan", "x-request-id", "x-real-ip", "forwarded"];
const RESERVED_PREFIXES: [&str; 4] = ["x-consumer-", "x-credential-", "x-gateway-", "x-forwarded-"];

/// The client's headers to remove before the gateway adds its own (`X-Request-ID` and `X-Forwarded-*` among them).
pub fn headers_to_strip(client: &HeaderMap, places: KeyPlaces) -> Vec<HeaderName> {
    let is_key = |name: &HeaderName| {
        (places.authorization && *name == AUTHORIZATION)
            || (places.x_api_key && *name == X_API_KEY)
            || (places.apikey && *name == APIKEY)
    };
    client.keys().filter(|name| is_key(name) || is_reserved(name) || is_key_in_disguise(name)).cloned().collect()
}

/// The caller, as the upstream learns him. Names are percent-encoded where a header could not carry them.
pub fn headers_to_send(known: &KnownSubscription, texts: &mut HeaderTexts) -> [(HeaderName, Piece); 5] {
    [
        (X_CONSUMER_ID, texts.uuid(known.subscription.consumer_id)),
        (X_CONSUMER_USERNAME, plain_text(texts, &known.subscription.consumer_username)),
        (X_CREDENTIAL_IDENTIFIER, texts.uuid(known.key.id)),
        (X_SUBSCRIPTION_ID, texts.uuid(known.subscription.id)),
        (X_PLAN, plain_text(texts, &known.plan.name)),
    ]
}

/// Many servers read '_' as '-', so both spellings are reserved.
pub fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    // All of them begin so; most names that clients send do not.
    if !name.starts_with(['x', 'f']) {
        return false;
    }
    RESERVED.iter().any(|reserved| same_name(name, reserved))
        || RESERVED_PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| same_name(start, prefix)))
}

/// `X_API_Key` is no place for a key here, but an upstream might log it as one.
fn is_key_in_disguise(name: &HeaderName) -> bool {
    same_name(name.as_str(), X_API_KEY.as_str()) && name.as_str().contains('_')
}

/// `name` is in lower case already: header names always are.
fn same_name(name: &str, reserved: &str) -> bool {
    name.len() == reserved.len() && name.bytes().zip(reserved.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

fn plain_text(texts: &mut HeaderTexts, text: &str) -> Piece {
    use std::fmt::Write as _;
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
    if text.bytes().all(|byte| is_plain(byte) || byte == b' ') && text.trim() == text {
        return texts.text(text);
    }
    let start = texts.here();
    for byte in text.bytes() {
        // Writing to memory cannot fail.
        let _ = if is_plain(byte) { texts.write_char(char::from(byte)) } else { write!(texts, "%{byte:02X}") };
    }
    texts.since(start)
}
