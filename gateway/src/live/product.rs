//! A product as the data plane serves it: everything a request needs is made here, once, so that no request makes it.
//! Decides nothing about a request.

use std::sync::{Arc, OnceLock};

use ::snapshot::record::{Cors, Endpoint, Product, ProductCaps};
use ::snapshot::routes::ProductRoutes;
use ::snapshot::wire;
use http::HeaderValue;
use uuid::Uuid;

use crate::bulkhead::Bulkhead;

/// Headers that carry a key: a browser may always send them to a product that answers cross-origin.
const CREDENTIAL_HEADERS: [&str; 3] = ["authorization", "x-api-key", "apikey"];

/// One product of the snapshot, served or closed.
pub struct ProductEntry {
    pub id: Uuid,
    pub organization_slug: String,
    pub slug: String,
    pub hosts: Vec<String>,
    pub state: ProductState,
}

pub enum ProductState {
    Open(Arc<ServedProduct>),
    /// It is here, but this gateway may not serve it: 503, never a route of somebody else's.
    Closed,
}

/// A release that is served.
pub struct ServedProduct {
    pub id: Uuid,
    pub meter_id: u64,
    pub organization_id: Uuid,
    pub organization_slug: String,
    pub slug: String,
    pub release: u64,
    pub key_in_query: bool,
    pub body_bytes_max: Option<u64>,
    pub cors: Option<CorsRules>,
    pub caps: ProductCaps,
    /// The counts under these caps, found with the first request.
    pub bulkhead: OnceLock<Arc<Bulkhead>>,
    /// In the order that `routes` refers to.
    pub endpoints: Vec<Arc<Endpoint>>,
    pub routes: ProductRoutes,
    /// As it came, for the snapshot on disk.
    pub(super) wire: wire::Product,
}

/// A product's cross-origin rules, as ready header values.
pub struct CorsRules {
    pub any_origin: bool,
    pub origins: Vec<String>,
    /// Never together with `any_origin`: that would let every site act with the user's credentials.
    pub credentials: bool,
    pub allow_headers: HeaderValue,
    pub expose_headers: Option<HeaderValue>,
    pub max_age: Option<HeaderValue>,
}

impl ProductEntry {
    pub(super) fn open(product: Product, wire: wire::Product) -> ProductEntry {
        ProductEntry {
            id: product.id,
            organization_slug: product.organization_slug.clone(),
            slug: product.slug.clone(),
            hosts: product.hosts.clone(),
            state: ProductState::Open(Arc::new(ServedProduct::new(product, wire))),
        }
    }

    /// Holds the product's addresses, so that they answer 503 and not 404.
    pub(super) fn closed(id: Uuid, wire: &wire::Product) -> ProductEntry {
        ProductEntry {
            id,
            organization_slug: wire.organization_slug.clone(),
            slug: wire.slug.clone(),
            hosts: wire.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            state: ProductState::Closed,
        }
    }

    pub fn served(&self) -> Option<&Arc<ServedProduct>> {
        match &self.state {
            ProductState::Open(product) => Some(product),
            ProductState::Closed => None,
        }
    }
}

impl ServedProduct {
    fn new(product: Product, wire: wire::Product) -> ServedProduct {
        ServedProduct {
            id: product.id,
            meter_id: product.meter_id,
            organization_id: product.organization_id,
            organization_slug: product.organization_slug,
            slug: product.slug,
            release: product.release,
            key_in_query: product.key_in_query,
            body_bytes_max: product.body_bytes_max,
            cors: product.cors.as_ref().map(CorsRules::new),
            caps: product.caps,
            bulkhead: OnceLock::new(),
            endpoints: product.endpoints.into_iter().map(Arc::new).collect(),
            routes: product.routes,
            wire,
        }
    }
}

impl CorsRules {
    fn new(cors: &Cors) -> CorsRules {
        let any_origin = cors.origins.iter().any(|origin| origin == "*");
        let extra = CREDENTIAL_HEADERS.iter().copied();
        let extra = extra.filter(|name| !cors.headers.iter().any(|header| header.eq_ignore_ascii_case(name)));
        CorsRules {
            any_origin,
            origins: cors.origins.clone(),
            credentials: cors.credentials && !any_origin,
            allow_headers: list(cors.headers.iter().map(String::as_str).chain(extra)).unwrap_or(NONE),
            expose_headers: list(cors.exposed_headers.iter().map(String::as_str)),
            max_age: (cors.max_age_s > 0).then(|| HeaderValue::from(cors.max_age_s)),
        }
    }
}

const NONE: HeaderValue = HeaderValue::from_static("");

/// What is no header name is left out: the publisher's release was checked, and a header must not be broken by it.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let is_name = |name: &&str| *name == "*" || http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    let names: Vec<&str> = names.filter(is_name).collect();
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}
