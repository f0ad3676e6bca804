//! What a product looks like in JSON: created, edited, shown. Parses nothing beyond JSON's own types.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::extract::{not_null, nullable};
use crate::domain::product::{Approval, BODY_BYTES_DEFAULT, Cors, ProductDraft, ProductStatus, Visibility};
use crate::store::products::ProductRow;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProduct {
    /// Second segment of the product's address on the gateway.
    #[schema(example = "weather", min_length = 2, max_length = 40)]
    pub slug: String,
    #[schema(example = "Weather", max_length = 120)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub category: Option<String>,
    /// `private` unless said.
    #[serde(default)]
    pub visibility: Option<Visibility>,
    /// `auto` unless said.
    #[serde(default)]
    pub approval: Option<Approval>,
    /// Whether a key may stand in the query, where logs can see it.
    #[serde(default)]
    pub key_in_query: bool,
    /// 10 MiB unless said; 0 leaves the gateway's own limit.
    #[serde(default)]
    pub body_bytes_max: Option<u64>,
    #[serde(default)]
    pub cors: Option<Cors>,
}

/// What is absent stays as it is.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductPatch {
    /// Only before the first release: it is part of the address.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub slug: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub category: Option<Option<String>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub visibility: Option<Visibility>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub approval: Option<Approval>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub key_in_query: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub body_bytes_max: Option<u64>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Cors>)]
    pub cors: Option<Option<Cors>>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Product {
    pub id: Uuid,
    pub organization_id: Uuid,
    pub slug: String,
    pub name: String,
    pub description: String,
    pub category: Option<String>,
    pub visibility: Visibility,
    pub status: ProductStatus,
    pub approval: Approval,
    pub key_in_query: bool,
    pub body_bytes_max: i64,
    pub cors: Option<Cors>,
    /// What an operator lets it hold of each gateway; null leaves each gateway's settings.
    pub requests_in_flight_max: Option<i32>,
    pub upstream_connections_max: Option<i32>,
    /// The proved hosts of its own.
    pub hosts: Vec<String>,
    /// Number of the release that gateways serve.
    pub live_release: Option<i32>,
    /// Why this version of the software could not compile the live release; gateways keep what they serve.
    pub quarantine_reason: Option<String>,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl From<NewProduct> for ProductDraft {
    fn from(new: NewProduct) -> ProductDraft {
        ProductDraft {
            slug: new.slug,
            name: new.name,
            description: new.description,
            category: new.category,
            visibility: new.visibility.unwrap_or(Visibility::Private),
            approval: new.approval.unwrap_or(Approval::Auto),
            key_in_query: new.key_in_query,
            body_bytes_max: new.body_bytes_max.unwrap_or(BODY_BYTES_DEFAULT),
            cors: new.cors,
        }
    }
}

impl ProductPatch {
    /// The product as it would be.
    pub fn over(self, row: &ProductRow) -> ProductDraft {
        ProductDraft {
            slug: self.slug.unwrap_or_else(|| row.slug.clone()),
            name: self.name.unwrap_or_else(|| row.name.clone()),
            description: self.description.unwrap_or_else(|| row.description.clone()),
            category: self.category.unwrap_or_else(|| row.category.clone()),
            visibility: self.visibility.unwrap_or(row.visibility),
            approval: self.approval.unwrap_or(row.approval),
            key_in_query: self.key_in_query.unwrap_or(row.key_in_query),
            body_bytes_max: self.body_bytes_max.unwrap_or(row.body_bytes_max.unsigned_abs()),
            cors: self.cors.unwrap_or_else(|| row.cors.clone()),
        }
    }
}

impl From<ProductRow> for Product {
    fn from(row: ProductRow) -> Product {
        Product {
            id: row.id,
            organization_id: row.organization_id,
            slug: row.slug,
            name: row.name,
            description: row.description,
            category: row.category,
            visibility: row.visibility,
            status: row.status,
            approval: row.approval,
            key_in_query: row.key_in_query,
            body_bytes_max: row.body_bytes_max,
            cors: row.cors,
            requests_in_flight_max: row.caps.requests_in_flight_max,
            upstream_connections_max: row.caps.upstream_connections_max,
            hosts: row.hosts,
            live_release: row.live_release_number,
            quarantine_reason: row.quarantine_reason,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
