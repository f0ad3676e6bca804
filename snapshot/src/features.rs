//! Names of what a product may demand of a gateway. A gateway that lacks one closes the product: it never fails open.

/// Endpoints with path parameters, one target URL each.
pub const ROUTES_V1: &str = "routes.v1";
/// Keys by digest, scopes, expiry.
pub const KEYS_V1: &str = "keys.v1";
/// Token bucket, sliding and fixed window.
pub const LIMITS_V1: &str = "limits.v1";
/// Cross-origin answers made by the gateway.
pub const CORS_V1: &str = "cors.v1";

/// What this version of the gateway can do.
pub const KNOWN: &[&str] = &[ROUTES_V1, KEYS_V1, LIMITS_V1, CORS_V1];

/// The features in `required` that `known` lacks.
pub fn missing<'a>(required: &'a [String], known: &[&str]) -> Vec<&'a str> {
    required.iter().map(String::as_str).filter(|name| !known.contains(name)).collect()
}
