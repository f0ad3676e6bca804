//! How large a request body may be, and whether the declared one is. What arrives undeclared is counted by the proxy
//! against the limit returned here.

use crate::live::ServedProduct;
use crate::rejection::Rejection;

/// The bound for this request's body, in bytes. 413 where the declared length is beyond it.
pub fn body_limit(declared: Option<u64>, product: &ServedProduct, gateway_max: u64) -> Result<u64, Rejection> {
    let limit_bytes = product.body_bytes_max.map_or(gateway_max, |own| own.min(gateway_max));
    match declared {
        Some(length) if length > limit_bytes => Err(Rejection::BodyTooLarge { limit_bytes }),
        _ => Ok(limit_bytes),
    }
}
