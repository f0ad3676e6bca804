//! What a release says in readable form: kept beside its bytes so that two releases can be compared and the public can be
//! shown the routes. Only ever gains fields: old summaries are read for ever.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::release::Draft;
use crate::domain::endpoint::UpstreamHttp;
use crate::domain::plan::{Algorithm, OnRedisDown, QuotaMode};
use crate::domain::product::Cors;
use crate::store::endpoints::EndpointRow;
use crate::store::plans::PlanRow;

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ReleaseSummary)]
pub struct Summary {
    pub settings: SummarySettings,
    pub endpoints: Vec<SummaryEndpoint>,
    pub plans: Vec<SummaryPlan>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SummarySettings {
    pub slug: String,
    pub hosts: Vec<String>,
    pub key_in_query: bool,
    pub body_bytes_max: i64,
    pub cors: Option<Cors>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SummaryEndpoint {
    pub id: Uuid,
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
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SummaryPlan {
    pub id: Uuid,
    pub slug: String,
    pub version: i32,
    pub name: String,
    #[schema(value_type = String)]
    pub price: Decimal,
    pub currency: String,
    pub included_requests: Option<i64>,
    pub quota_mode: QuotaMode,
    pub rate_limit: i32,
    pub burst_limit: i32,
    pub algorithm: Algorithm,
    pub on_redis_down: OnRedisDown,
    pub strict: bool,
}

impl Summary {
    pub fn of(draft: &Draft<'_>) -> Summary {
        let product = draft.product;
        Summary {
            settings: SummarySettings {
                slug: product.slug.clone(),
                hosts: product.hosts.clone(),
                key_in_query: product.key_in_query,
                body_bytes_max: product.body_bytes_max,
                cors: product.cors.clone(),
            },
            endpoints: draft.endpoints.iter().map(SummaryEndpoint::from).collect(),
            plans: draft.plans.iter().map(SummaryPlan::from).collect(),
        }
    }
}

impl From<&EndpointRow> for SummaryEndpoint {
    fn from(row: &EndpointRow) -> Self {
        SummaryEndpoint {
            id: row.id,
            method: row.method.clone(),
            path_pattern: row.path_pattern.clone(),
            target_url: row.target_url.clone(),
            scope: row.scope.clone(),
            connect_timeout_ms: row.connect_timeout_ms,
            read_timeout_ms: row.read_timeout_ms,
            write_timeout_ms: row.write_timeout_ms,
            total_timeout_ms: row.total_timeout_ms,
            retries: row.retries,
            upstream_http: row.upstream_http,
        }
    }
}

impl From<&PlanRow> for SummaryPlan {
    fn from(row: &PlanRow) -> Self {
        SummaryPlan {
            id: row.id,
            slug: row.slug.clone(),
            version: row.version,
            name: row.name.clone(),
            price: row.price.normalize(),
            currency: row.currency.clone(),
            included_requests: row.included_requests,
            quota_mode: row.quota_mode,
            rate_limit: row.rate_limit,
            burst_limit: row.policy.burst_limit,
            algorithm: row.policy.algorithm,
            on_redis_down: row.policy.on_redis_down,
            strict: row.policy.strict,
        }
    }
}
