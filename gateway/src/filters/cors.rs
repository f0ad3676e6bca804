//! Cross-origin requests, for products that configure them: preflights are answered here without a key, and actual
//! answers, errors included, get the product's headers. For other products nothing is touched.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use snapshot::routes::Found;

use super::route::InProduct;
use crate::live::{CorsRules, ServedProduct};
use crate::rejection::Rejection;

/// Headers of an upstream's answer that the gateway's own replace, where a product has cross-origin rules.
pub const REPLACED_HEADERS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// The answer to a preflight: 204, no body, these headers.
#[derive(Debug)]
pub struct Preflight {
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Preflight {
    pub const STATUS: u16 = 204;
}

/// What the answers to one request must say about origins.
#[derive(Clone)]
pub struct CorsGrant {
    product: Arc<ServedProduct>,
    /// The client's, where the rules allow it.
    origin: Option<HeaderValue>,
}

/// The answer to a preflight, where this is one and the product has rules. 404 where the path does not exist.
pub fn answer_preflight(
    method: &Method,
    headers: &HeaderMap,
    found: InProduct<'_, '_>,
) -> Result<Option<Preflight>, Rejection> {
    let Some(rules) = &found.product.cors else { return Ok(None) };
    if *method != Method::OPTIONS {
        return Ok(None);
    }
    let (Some(origin), Some(wanted)) = (headers.get(ORIGIN), headers.get(ACCESS_CONTROL_REQUEST_METHOD)) else {
        return Ok(None);
    };
    let wanted = Method::from_bytes(wanted.as_bytes()).map_err(|_| Rejection::BadRequest)?;
    let methods = match found.product.routes.find(&wanted, found.path) {
        Found::Endpoint(..) => HeaderValue::from_str(wanted.as_str()).map_err(|_| Rejection::BadRequest)?,
        // The browser reads from the list that its method is not among them.
        Found::MethodNotAllowed(methods) => {
            let names: Vec<&str> = methods.into_iter().map(Method::as_str).collect();
            HeaderValue::from_str(&names.join(", ")).map_err(|_| Rejection::BadRequest)?
        }
        Found::Nothing => return Err(Rejection::NoRoute),
    };
    let mut answer = Vec::with_capacity(6);
    if let Some(allowed) = allowed_origin(rules, origin) {
        push_origin(rules, allowed, &mut answer);
        answer.push((ACCESS_CONTROL_ALLOW_METHODS, methods));
        answer.push((ACCESS_CONTROL_ALLOW_HEADERS, rules.allow_headers.clone()));
        answer.extend(rules.max_age.clone().map(|seconds| (ACCESS_CONTROL_MAX_AGE, seconds)));
    }
    answer.push((VARY, HeaderValue::from_static("Origin, Access-Control-Request-Method")));
    Ok(Some(Preflight { headers: answer }))
}

/// What to add to the answers of an actual request; `None` where the product has no rules.
pub fn grant(headers: &HeaderMap, product: &Arc<ServedProduct>) -> Option<CorsGrant> {
    let rules = product.cors.as_ref()?;
    let origin = headers.get(ORIGIN).and_then(|origin| allowed_origin(rules, origin));
    Some(CorsGrant { product: Arc::clone(product), origin })
}

impl CorsGrant {
    /// To be set after [`REPLACED_HEADERS`] were removed; `Vary` is to be appended.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let Some(rules) = &self.product.cors else { return Vec::new() };
        let mut headers = Vec::with_capacity(4);
        if let Some(origin) = &self.origin {
            push_origin(rules, origin.clone(), &mut headers);
            headers.extend(rules.expose_headers.clone().map(|names| (ACCESS_CONTROL_EXPOSE_HEADERS, names)));
        }
        if !rules.any_origin {
            headers.push((VARY, HeaderValue::from_static("Origin")));
        }
        headers
    }
}

fn allowed_origin(rules: &CorsRules, origin: &HeaderValue) -> Option<HeaderValue> {
    if rules.any_origin {
        return Some(HeaderValue::from_static("*"));
    }
    rules.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

fn push_origin(rules: &CorsRules, origin: HeaderValue, headers: &mut Vec<(HeaderName, HeaderValue)>) {
    headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
    if rules.credentials {
        headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
    }
}
