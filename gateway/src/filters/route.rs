//! Which product and which endpoint a request is for, by its path in normal form. Nothing else of the request counts, and
//! a product that is closed is found but not entered.

use std::sync::Arc;

use http::Method;
use snapshot::record::Endpoint;
use snapshot::routes::{Captures, Found};

use crate::live::{ServedProduct, Snapshot};
use crate::rejection::Rejection;

/// A product that is served, and the path within it.
#[derive(Clone, Copy)]
pub struct InProduct<'s, 'p> {
    pub product: &'s Arc<ServedProduct>,
    pub path: &'p str,
}

/// An endpoint that takes the request.
pub struct Route<'s, 'p> {
    pub product: &'s Arc<ServedProduct>,
    pub endpoint: &'s Arc<Endpoint>,
    /// What the pattern's parameters stand for.
    pub captures: Captures<'p>,
}

/// 404 where no product is, 503 where it is closed or where there is no snapshot yet.
pub fn find_product<'s, 'p>(
    snapshot: &'s Snapshot,
    host: Option<&str>,
    path: &'p str,
) -> Result<InProduct<'s, 'p>, Rejection> {
    if snapshot.token.is_none() {
        return Err(Rejection::NotReady);
    }
    let found = snapshot.product_for(host, path).ok_or(Rejection::NoRoute)?;
    let product = found.entry.served().ok_or(Rejection::ProductClosed)?;
    Ok(InProduct { product, path: found.path })
}

/// 404 where no pattern matches, 405 where one does with other methods.
pub fn find_endpoint<'s, 'p>(found: InProduct<'s, 'p>, method: &Method) -> Result<Route<'s, 'p>, Rejection> {
    let product = found.product;
    match product.routes.find(method, found.path) {
        Found::Endpoint(index, captures) => {
            let endpoint = product.endpoints.get(index).ok_or(Rejection::NoRoute)?;
            Ok(Route { product, endpoint, captures })
        }
        Found::MethodNotAllowed(methods) => Err(Rejection::MethodNotAllowed(methods.into_iter().cloned().collect())),
        Found::Nothing => Err(Rejection::NoRoute),
    }
}
