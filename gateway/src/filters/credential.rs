//! Where the key is: `Authorization: Bearer`, `X-API-Key`, `apikey`, or the query where the product allows it. Exactly one
//! key, or 400. Whether it is a good one is not asked here.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::rejection::Rejection;

pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub const APIKEY: HeaderName = HeaderName::from_static("apikey");
/// The query parameter's name, and the scheme of the `Authorization` header.
const QUERY_PARAMETER: &str = "apikey";
const BEARER: &[u8] = b"bearer";

/// Which places carried the key: there it is removed before the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyPlaces {
    pub authorization: bool,
    pub x_api_key: bool,
    pub apikey: bool,
    pub query: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    pub key: &'a [u8],
    pub places: KeyPlaces,
    /// The request's query without the key.
    pub query: Option<Cow<'a, str>>,
}

/// 401 where there is no key, 400 where there are two or one is repeated.
pub fn extract<'a>(
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    key_in_query: bool,
) -> Result<Credential<'a>, Rejection> {
    let bearer = single(headers, &AUTHORIZATION)?.and_then(bearer_token);
    let x_api_key = single(headers, &X_API_KEY)?.map(|value| value.as_bytes().trim_ascii());
    let apikey = single(headers, &APIKEY)?.map(|value| value.as_bytes().trim_ascii());
    let in_query = if key_in_query { query_key(query)? } else { None };

    let mut found: Option<&[u8]> = None;
    for key in [bearer, x_api_key, apikey, in_query.map(str::as_bytes)].into_iter().flatten() {
        match found {
            Some(other) if other != key => return Err(Rejection::ConflictingCredentials),
            _ => found = Some(key),
        }
    }
    let key = found.filter(|key| !key.is_empty()).ok_or(Rejection::MissingKey)?;
    Ok(Credential {
        key,
        places: KeyPlaces {
            authorization: bearer.is_some(),
            x_api_key: x_api_key.is_some(),
            apikey: apikey.is_some(),
            query: in_query.is_some(),
        },
        query: match query {
            Some(query) if in_query.is_some() || holds_a_key(query) => without_key(query),
            query => query.map(Cow::Borrowed),
        },
    })
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Rejection> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next();
    if lines.next().is_some() { Err(Rejection::DuplicateCredential) } else { Ok(first) }
}

/// `None` for another scheme: that header is meant for the upstream.
fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes().trim_ascii();
    let (scheme, rest) = value.split_at_checked(BEARER.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(BEARER) && rest.first().is_none_or(|byte| *byte == b' ');
    is_bearer.then(|| rest.trim_ascii())
}

fn is_key_parameter(pair: &str) -> bool {
    pair.split('=').next() == Some(QUERY_PARAMETER)
}

/// No character of a key needs an escape, so the value is taken as it stands.
fn query_key(query: Option<&str>) -> Result<Option<&str>, Rejection> {
    let mut pairs = query.unwrap_or_default().split('&').filter(|pair| is_key_parameter(pair));
    let first = pairs.next();
    if pairs.next().is_some() {
        return Err(Rejection::DuplicateCredential);
    }
    Ok(first.map(|pair| pair.split_once('=').map_or("", |(_, value)| value)))
}

/// Where the product takes no key from the query, the parameter is the upstream's own, unless it is one of our keys: then it
/// is a mistake of the client's, and no upstream may learn it.
fn holds_a_key(query: &str) -> bool {
    let pairs = query.split('&').filter(|pair| is_key_parameter(pair));
    pairs.filter_map(|pair| pair.split_once('=')).any(|(_, value)| snapshot::key::parse(value.as_bytes()).is_ok())
}

fn without_key(query: &str) -> Option<Cow<'_, str>> {
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_key_parameter(pair)).collect();
    if rest.is_empty() { None } else { Some(Cow::Owned(rest.join("&"))) }
}
