//! What a plan looks like in JSON: created, edited, shown. Amounts are decimal text. Parses nothing beyond JSON's own types.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::extract::{not_null, nullable};
use crate::domain::plan::{Algorithm, OnRedisDown, PlanDraft, PlanStatus, PolicyDraft, QuotaMode};
use crate::store::plans::PlanRow;

/// How the rate is enforced. What is absent has a default: a token bucket of a tenth of the rate, at least 1.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyForm {
    /// Equals the plan's rate_limit, so it may be left out.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// Of a token bucket: its size. Of a window: equals requests_per_minute.
    #[serde(default)]
    pub burst_limit: Option<u32>,
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
    #[serde(default)]
    pub on_redis_down: Option<OnRedisDown>,
    /// No overdraft between gateways.
    #[serde(default)]
    pub strict: bool,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPlan {
    #[schema(example = "basic", min_length = 2, max_length = 40)]
    pub slug: String,
    #[schema(example = "Basic", max_length = 120)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// Per month.
    #[schema(value_type = String, example = "19.90")]
    pub price: Decimal,
    /// The organization's unless said.
    #[serde(default)]
    #[schema(example = "USD")]
    pub currency: Option<String>,
    /// Requests per minute.
    #[schema(example = 60, minimum = 1)]
    pub rate_limit: u32,
    /// Monthly quota; absent or null: none.
    #[serde(default)]
    pub included_requests: Option<u64>,
    /// `hard` unless said.
    #[serde(default)]
    pub quota_mode: Option<QuotaMode>,
    /// Only above a soft quota.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub overage_price_per_1000: Option<Decimal>,
    #[serde(default)]
    pub trial_days: u32,
    /// Status classes that cost money: `["2xx"]` unless said.
    #[serde(default)]
    pub billable_statuses: Option<Vec<String>>,
    #[serde(default)]
    pub policy: Option<PolicyForm>,
}

/// What is absent stays as it is; a `policy` replaces the whole policy. Of a version that is sold, only name and
/// description can change.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanPatch {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(value_type = String, nullable = false)]
    pub price: Option<Decimal>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub currency: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub rate_limit: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u64>)]
    pub included_requests: Option<Option<u64>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub quota_mode: Option<QuotaMode>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub overage_price_per_1000: Option<Option<Decimal>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub trial_days: Option<u32>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub billable_statuses: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pub policy: Option<PolicyForm>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Policy {
    pub requests_per_minute: i32,
    pub burst_limit: i32,
    pub algorithm: Algorithm,
    pub on_redis_down: OnRedisDown,
    pub strict: bool,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Plan {
    pub id: Uuid,
    pub product_id: Uuid,
    /// The same for all versions of a plan.
    pub family_id: Uuid,
    /// Which version is sold; the ETag is another number.
    pub plan_version: i32,
    pub slug: String,
    pub name: String,
    pub description: String,
    pub status: PlanStatus,
    #[schema(value_type = String, example = "19.9")]
    pub price: Decimal,
    pub currency: String,
    #[schema(example = "month")]
    pub billing_period: &'static str,
    pub rate_limit: i32,
    pub included_requests: Option<i64>,
    pub quota_mode: QuotaMode,
    #[schema(value_type = Option<String>)]
    pub overage_price_per_1000: Option<Decimal>,
    pub trial_days: i32,
    pub billable_statuses: Vec<String>,
    pub policy: Policy,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl From<PolicyForm> for PolicyDraft {
    fn from(form: PolicyForm) -> PolicyDraft {
        PolicyDraft {
            requests_per_minute: form.requests_per_minute,
            burst_limit: form.burst_limit,
            algorithm: form.algorithm,
            on_redis_down: form.on_redis_down,
            strict: form.strict,
        }
    }
}

impl NewPlan {
    /// `currency`: the publisher's own.
    pub fn draft(self, currency: String) -> PlanDraft {
        PlanDraft {
            slug: self.slug,
            name: self.name,
            description: self.description,
            price: self.price,
            currency: self.currency.unwrap_or(currency),
            rate_limit: self.rate_limit,
            included_requests: self.included_requests,
            quota_mode: self.quota_mode.unwrap_or(QuotaMode::Hard),
            overage_price_per_1000: self.overage_price_per_1000,
            trial_days: self.trial_days,
            billable_statuses: self.billable_statuses.unwrap_or_else(|| vec!["2xx".to_owned()]),
            policy: self.policy.unwrap_or_default().into(),
        }
    }
}

impl PlanPatch {
    /// Whether anything that is sold would change.
    pub fn touches_terms(&self) -> bool {
        self.price.is_some()
            || self.currency.is_some()
            || self.rate_limit.is_some()
            || self.included_requests.is_some()
            || self.quota_mode.is_some()
            || self.overage_price_per_1000.is_some()
            || self.trial_days.is_some()
            || self.billable_statuses.is_some()
            || self.policy.is_some()
    }

    /// The plan as it would be. A new rate without a new policy keeps the algorithm and takes the default burst.
    pub fn over(self, row: &PlanRow) -> PlanDraft {
        let same_rate = self.rate_limit.is_none_or(|rate| i64::from(rate) == i64::from(row.rate_limit));
        let kept = PolicyDraft {
            requests_per_minute: None,
            burst_limit: same_rate.then_some(row.policy.burst_limit.unsigned_abs()),
            algorithm: Some(row.policy.algorithm),
            on_redis_down: Some(row.policy.on_redis_down),
            strict: row.policy.strict,
        };
        PlanDraft {
            slug: row.slug.clone(),
            name: self.name.unwrap_or_else(|| row.name.clone()),
            description: self.description.unwrap_or_else(|| row.description.clone()),
            price: self.price.unwrap_or(row.price),
            currency: self.currency.unwrap_or_else(|| row.currency.clone()),
            rate_limit: self.rate_limit.unwrap_or(row.rate_limit.unsigned_abs()),
            included_requests: self.included_requests.unwrap_or(row.included_requests.map(i64::unsigned_abs)),
            quota_mode: self.quota_mode.unwrap_or(row.quota_mode),
            overage_price_per_1000: self.overage_price_per_1000.unwrap_or(row.overage_price_per_1000),
            trial_days: self.trial_days.unwrap_or(row.trial_days.unsigned_abs()),
            billable_statuses: self.billable_statuses.unwrap_or_else(|| row.billable_statuses.clone()),
            policy: self.policy.map_or(kept, PolicyDraft::from),
        }
    }
}

impl From<PlanRow> for Plan {
    fn from(row: PlanRow) -> Plan {
        Plan {
            id: row.id,
            product_id: row.product_id,
            family_id: row.family_id,
            plan_version: row.version,
            slug: row.slug,
            name: row.name,
            description: row.description,
            status: row.status,
            price: row.price.normalize(),
            currency: row.currency,
            billing_period: "month",
            rate_limit: row.rate_limit,
            included_requests: row.included_requests,
            quota_mode: row.quota_mode,
            overage_price_per_1000: row.overage_price_per_1000.map(|price| price.normalize()),
            trial_days: row.trial_days,
            billable_statuses: row.billable_statuses,
            policy: Policy {
                requests_per_minute: row.policy.requests_per_minute,
                burst_limit: row.policy.burst_limit,
                algorithm: row.policy.algorithm,
                on_redis_down: row.policy.on_redis_down,
                strict: row.policy.strict,
            },
            version: row.row_version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
