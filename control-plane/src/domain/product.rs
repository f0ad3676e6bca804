//! A product: what a publisher offers, from draft to retirement. Its routes and limits live elsewhere.

use super::fault::{Faults, Flaw};
use super::text::{DESCRIPTION_CHARS_MAX, Name, Prose, Slug};

/// Largest body that a product may let through, in bytes: 1 TiB.
pub const BODY_BYTES_MAX: u64 = 1 << 40;
/// What a product gets that names no limit: 10 MiB.
pub const BODY_BYTES_DEFAULT: u64 = 10 << 20;
/// Most that an operator may let one product hold of one gateway: requests in flight, upstream connections.
pub const REQUESTS_IN_FLIGHT_CEILING: u32 = 10_000_000;
pub const UPSTREAM_CONNECTIONS_CEILING: u32 = 1_000_000;
/// Origins and headers in one CORS list.
const CORS_ITEMS_MAX: usize = 64;
pub const CORS_ITEM_CHARS_MAX: usize = 253;
/// Longest time that a browser may keep a preflight's answer, in seconds: a day.
pub const CORS_MAX_AGE_S: u32 = 86_400;

text_enum! {
    /// Who may find a product.
    Visibility { Public = "public", Private = "private" }
}

text_enum! {
    /// Where a product stands in its life. It only goes forward.
    ProductStatus { Draft = "draft", Published = "published", Deprecated = "deprecated", Retired = "retired" }
}

text_enum! {
    /// Whether a subscription waits for the publisher.
    Approval { Auto = "auto", Manual = "manual" }
}

/// What a browser on another origin may do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Exact origins such as `https://app.example.com`, or a single `*`.
    pub origins: Vec<String>,
    #[serde(default)]
    pub headers: Vec<String>,
    #[serde(default)]
    pub exposed_headers: Vec<String>,
    #[serde(default)]
    pub credentials: bool,
    #[serde(default)]
    pub max_age_s: u32,
}

/// A product's settings, as a person gave them.
#[derive(Clone, Debug)]
pub struct ProductDraft {
    pub slug: String,
    pub name: String,
    pub description: String,
    pub category: Option<String>,
    pub visibility: Visibility,
    pub approval: Approval,
    pub key_in_query: bool,
    pub body_bytes_max: u64,
    pub cors: Option<Cors>,
}

/// A product's settings that can be stored.
#[derive(Clone, Debug)]
pub struct ProductTerms {
    pub slug: Slug,
    pub name: Name,
    pub description: Prose,
    pub category: Option<Name>,
    pub visibility: Visibility,
    pub approval: Approval,
    pub key_in_query: bool,
    pub body_bytes_max: i64,
    pub cors: Option<Cors>,
}

/// What a product may hold of each gateway at once, as an operator gave it. `None`: as much as the gateway's settings say.
#[derive(Clone, Copy, Debug)]
pub struct CapsDraft {
    pub requests_in_flight_max: Option<u32>,
    pub upstream_connections_max: Option<u32>,
}

/// The same, as it can be stored.
#[derive(Clone, Copy, Debug)]
pub struct ProductCaps {
    pub requests_in_flight_max: Option<i32>,
    pub upstream_connections_max: Option<i32>,
}

impl ProductCaps {
    /// Errors: every fault, each with the field's pointer.
    pub fn parse(draft: CapsDraft) -> Result<ProductCaps, Faults> {
        let mut faults = Faults::default();
        let requests =
            faults.take("/requests_in_flight_max", cap(draft.requests_in_flight_max, REQUESTS_IN_FLIGHT_CEILING));
        let connections =
            faults.take("/upstream_connections_max", cap(draft.upstream_connections_max, UPSTREAM_CONNECTIONS_CEILING));
        let whole =
            (|| Some(ProductCaps { requests_in_flight_max: requests?, upstream_connections_max: connections? }))();
        faults.finish(whole)
    }
}

fn cap(value: Option<u32>, ceiling: u32) -> Result<Option<i32>, Flaw> {
    let flaw =
        || Flaw::new(format!("a cap is between 1 and {ceiling}")).mend("leave it out for the gateways' own settings");
    value
        .map(|value| match i32::try_from(value) {
            Ok(stored) if (1..=ceiling).contains(&value) => Ok(stored),
            _ => Err(flaw()),
        })
        .transpose()
}

impl ProductTerms {
    /// Errors: every fault, each with the field's pointer.
    pub fn parse(draft: &ProductDraft) -> Result<ProductTerms, Faults> {
        let mut faults = Faults::default();
        let slug = faults.take("/slug", Slug::parse(&draft.slug));
        let name = faults.take("/name", Name::parse(&draft.name));
        let description = faults.take("/description", Prose::parse(&draft.description, DESCRIPTION_CHARS_MAX));
        let category = faults.take("/category", draft.category.as_deref().map(Name::parse_category).transpose());
        let body_bytes_max = faults.take("/body_bytes_max", body_bytes(draft.body_bytes_max));
        let cors = faults.take("/cors", draft.cors.clone().map(check_cors).transpose());
        let whole = (|| {
            Some(ProductTerms {
                slug: slug?,
                name: name?,
                description: description?,
                category: category?,
                visibility: draft.visibility,
                approval: draft.approval,
                key_in_query: draft.key_in_query,
                body_bytes_max: body_bytes_max?,
                cors: cors?,
            })
        })();
        faults.finish(whole)
    }
}

fn body_bytes(value: u64) -> Result<i64, Flaw> {
    let too_large =
        || Flaw::new(format!("a body has at most {BODY_BYTES_MAX} bytes")).mend("0 leaves the gateway's own limit");
    if value > BODY_BYTES_MAX {
        return Err(too_large());
    }
    i64::try_from(value).map_err(|_| too_large())
}

fn check_cors(cors: Cors) -> Result<Cors, Flaw> {
    let lists = [&cors.origins, &cors.headers, &cors.exposed_headers];
    if lists.iter().any(|list| list.len() > CORS_ITEMS_MAX) {
        return Err(Flaw::new(format!("a CORS list has at most {CORS_ITEMS_MAX} items")));
    }
    let is_bad = |item: &String| {
        item.is_empty() || item.len() > CORS_ITEM_CHARS_MAX || !item.bytes().all(|b| b.is_ascii_graphic())
    };
    if lists.iter().any(|list| list.iter().any(is_bad)) {
        return Err(Flaw::new("a CORS item is empty, too long or not plain text"));
    }
    let any_origin = cors.origins.iter().any(|origin| origin == "*");
    if cors.origins.is_empty() || (any_origin && cors.origins.len() > 1) {
        return Err(Flaw::new("origins is a list of exact origins, or '*' alone")
            .mend("for example [\"https://app.example.com\"]"));
    }
    if any_origin && cors.credentials {
        return Err(
            Flaw::new("credentials cannot go to every origin").mend("name the origins, or set credentials to false")
        );
    }
    if !any_origin && !cors.origins.iter().all(|origin| is_origin(origin)) {
        return Err(
            Flaw::new("an origin is scheme://host[:port] without a path").mend("as in 'https://app.example.com'")
        );
    }
    if cors.max_age_s > CORS_MAX_AGE_S {
        return Err(Flaw::new(format!("max_age_s is at most {CORS_MAX_AGE_S}")));
    }
    Ok(cors)
}

fn is_origin(text: &str) -> bool {
    url::Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text)
}
