//! What an endpoint looks like in JSON: created, edited, shown. Parses nothing beyond JSON's own types.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::extract::{not_null, nullable};
use crate::domain::endpoint::{
    CONNECT_TIMEOUT_MS_DEFAULT, EndpointDraft, READ_TIMEOUT_MS_DEFAULT, UpstreamHttp, WRITE_TIMEOUT_MS_DEFAULT,
};
use crate::store::endpoints::EndpointRow;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, or `*` for all of them.
    #[schema(example = "GET")]
    pub method: String,
    #[schema(example = "/users/{id}")]
    pub path_pattern: String,
    /// Where requests go; `{name}` puts a parameter of the pattern into path or query.
    #[schema(example = "https://api.example.com/v2/users/{id}")]
    pub target_url: String,
    /// What a key with scopes must carry.
    #[serde(default)]
    #[schema(example = "users:read")]
    pub scope: Option<String>,
    /// 2 s unless said.
    #[serde(default)]
    pub connect_timeout_ms: Option<u32>,
    /// 30 s unless said.
    #[serde(default)]
    pub read_timeout_ms: Option<u32>,
    /// 30 s unless said.
    #[serde(default)]
    pub write_timeout_ms: Option<u32>,
    /// No limit unless said, so that streams and tunnels live.
    #[serde(default)]
    pub total_timeout_ms: Option<u32>,
    #[serde(default)]
    #[schema(maximum = 3)]
    pub retries: u32,
    /// `auto` unless said.
    #[serde(default)]
    pub upstream_http: Option<UpstreamHttp>,
}

/// What is absent stays as it is.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointPatch {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub method: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub path_pattern: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub target_url: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub scope: Option<Option<String>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub connect_timeout_ms: Option<u32>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub read_timeout_ms: Option<u32>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub write_timeout_ms: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u32>)]
    pub total_timeout_ms: Option<Option<u32>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub retries: Option<u32>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub upstream_http: Option<UpstreamHttp>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Endpoint {
    pub id: Uuid,
    pub product_id: Uuid,
    pub method: String,
    pub path_pattern: String,
    pub target_url: String,
    pub scope: Option<String>,
    pub connect_timeout_ms: i32,
    pub read_timeout_ms: i32,
    pub write_timeout_ms: i32,
    pub total_timeout_ms: Option<i32>,
    pub retries: i16,
    pub upstream_http: UpstreamHttp,
    /// Once set, the next publish leaves it out.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retired_at: Option<Timestamp>,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl From<NewEndpoint> for EndpointDraft {
    fn from(new: NewEndpoint) -> EndpointDraft {
        EndpointDraft {
            method: new.method,
            path_pattern: new.path_pattern,
            target_url: new.target_url,
            scope: new.scope,
            connect_timeout_ms: new.connect_timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS_DEFAULT),
            read_timeout_ms: new.read_timeout_ms.unwrap_or(READ_TIMEOUT_MS_DEFAULT),
            write_timeout_ms: new.write_timeout_ms.unwrap_or(WRITE_TIMEOUT_MS_DEFAULT),
            total_timeout_ms: new.total_timeout_ms,
            retries: new.retries,
            upstream_http: new.upstream_http.unwrap_or(UpstreamHttp::Auto),
        }
    }
}

impl EndpointPatch {
    /// The endpoint as it would be.
    pub fn over(self, row: &EndpointRow) -> EndpointDraft {
        EndpointDraft {
            method: self.method.unwrap_or_else(|| row.method.clone()),
            path_pattern: self.path_pattern.unwrap_or_else(|| row.path_pattern.clone()),
            target_url: self.target_url.unwrap_or_else(|| row.target_url.clone()),
            scope: self.scope.unwrap_or_else(|| row.scope.clone()),
            connect_timeout_ms: self.connect_timeout_ms.unwrap_or(row.connect_timeout_ms.unsigned_abs()),
            read_timeout_ms: self.read_timeout_ms.unwrap_or(row.read_timeout_ms.unsigned_abs()),
            write_timeout_ms: self.write_timeout_ms.unwrap_or(row.write_timeout_ms.unsigned_abs()),
            total_timeout_ms: self.total_timeout_ms.unwrap_or(row.total_timeout_ms.map(i32::unsigned_abs)),
            retries: self.retries.unwrap_or(u32::from(row.retries.unsigned_abs())),
            upstream_http: self.upstream_http.unwrap_or(row.upstream_http),
        }
    }
}

impl From<EndpointRow> for Endpoint {
    fn from(row: EndpointRow) -> Endpoint {
        Endpoint {
            id: row.id,
            product_id: row.product_id,
            method: row.method,
            path_pattern: row.path_pattern,
            target_url: row.target_url,
            scope: row.scope,
            connect_timeout_ms: row.connect_timeout_ms,
            read_timeout_ms: row.read_timeout_ms,
            write_timeout_ms: row.write_timeout_ms,
            total_timeout_ms: row.total_timeout_ms,
            retries: row.retries,
            upstream_http: row.upstream_http,
            retired_at: row.retired_at,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
