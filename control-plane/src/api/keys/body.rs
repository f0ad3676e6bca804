//! What a key looks like in JSON: created, edited, shown. The secret stands in one answer only, and in no type that is
//! stored, logged or audited.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::extract::{not_null, nullable};
use crate::domain::key::{Environment, KeyStatus};
use crate::store::keys::KeyRow;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[schema(example = "production", max_length = 120)]
    pub name: String,
    /// `live` unless said.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// Empty: every endpoint.
    #[serde(default)]
    pub scopes: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// What is absent stays as it is.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How long the old key still works: 0 to 604800, a day unless said.
    #[serde(default)]
    #[schema(maximum = 604800, default = 86400)]
    pub overlap_seconds: Option<u32>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ApiKey {
    pub id: Uuid,
    pub subscription_id: Uuid,
    pub name: String,
    /// How the key begins and ends, to recognise it by.
    #[schema(example = "hub_live_x8Kd")]
    pub prefix: String,
    #[schema(example = "f3Zq")]
    pub last_four: String,
    pub environment: Environment,
    pub status: KeyStatus,
    pub scopes: Vec<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// The key that this one replaced, and the one that replaced it.
    pub predecessor_id: Option<Uuid>,
    pub successor_id: Option<Uuid>,
    pub created_by: Uuid,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What making a key answers.
#[derive(Clone, Serialize, ToSchema)]
pub struct ApiKeyWithSecret {
    #[serde(flatten)]
    pub metadata: ApiKey,
    /// The key itself, this once. Absent when an Idempotency-Key is repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "hub_live_…")]
    pub key: Option<String>,
    /// True in place of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_already_shown: Option<bool>,
}

impl From<KeyRow> for ApiKey {
    fn from(row: KeyRow) -> ApiKey {
        ApiKey {
            id: row.id,
            subscription_id: row.subscription_id,
            name: row.name,
            prefix: row.prefix,
            last_four: row.last_four,
            environment: row.environment,
            status: row.status,
            scopes: row.scopes,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
            predecessor_id: row.predecessor_id,
            successor_id: row.successor_id,
            created_by: row.created_by,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
