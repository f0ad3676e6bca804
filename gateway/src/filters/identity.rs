//! What the upstream is told about the caller, and what of the client's own headers it must never see: the key, and every
//! name that only the gateway may use, however it is spelt.

#[cfg(test)]
mod tests;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::credential::{APIKEY, KeyPlaces, X_API_KEY};
use super::entitlement::KnownSubscription;

// As they are written: the framework copies a name only where it is not static text.
const X_CONSUMER_ID: &str = "X-Consumer-ID";
const X_CONSUMER_USERNAME: &str = "X-Consumer-Username";
const X_CREDENTIAL_IDENTIFIER: &str = "X-Credential-Identifier";
const X_SUBSCRIPTION_ID: &str = "X-Subscription-ID";
const X_PLAN: &str = "X-Plan";

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
pub fn headers_to_send(known: &KnownSubscription) -> [(&'static str, HeaderValue); 5] {
    [
        (X_CONSUMER_ID, id_value(known.subscription.consumer_id)),
        (X_CONSUMER_USERNAME, text_value(&known.subscription.consumer_username)),
        (X_CREDENTIAL_IDENTIFIER, id_value(known.key.id)),
        (X_SUBSCRIPTION_ID, id_value(known.subscription.id)),
        (X_PLAN, text_value(&known.plan.name)),
    ]
}

/// Many servers read '_' as '-', so both spellings are reserved.
pub fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.iter().any(|reserved| same_name(name, reserved))
        || RESERVED_PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| same_name(start, prefix)))
}

/// `X_API_Key` is no place for a key here, but an upstream might log it as one.
fn is_key_in_disguise(name: &HeaderName) -> bool {
    name.as_str().contains('_') && same_name(name.as_str(), X_API_KEY.as_str())
}

/// `name` is in lower case already: header names always are.
fn same_name(name: &str, reserved: &str) -> bool {
    name.len() == reserved.len() && name.bytes().zip(reserved.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

fn id_value(id: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    // Hexadecimal digits and hyphens are always a valid value.
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer)).unwrap_or(HeaderValue::from_static(""))
}

fn text_value(text: &str) -> HeaderValue {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%' || byte == b' ';
    if text.bytes().all(is_plain) && text.trim() == text {
        return HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if is_plain(byte) && byte != b' ' {
            encoded.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static(""))
}
