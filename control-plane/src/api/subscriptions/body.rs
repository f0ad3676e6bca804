//! What a subscription looks like in JSON: requested, moved, shown. Holds nothing of keys. Parses nothing beyond JSON's own types.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::subscription::{CancelWhen, SubscriptionStatus};
use crate::store::subscriptions::SubscriptionRow;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSubscription {
    /// An active plan of a published product.
    pub plan_id: Uuid,
    /// To the publisher, where he approves by hand.
    #[serde(default)]
    pub note: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancellation {
    /// `period_end` unless said.
    #[serde(default)]
    pub when: Option<CancelWhen>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanChange {
    /// An active plan of the same product; the plan that is held takes a change back that waits.
    pub plan_id: Uuid,
}

/// Takes the place of the plan's rate for this subscription alone.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideForm {
    #[schema(minimum = 1)]
    pub requests_per_minute: u32,
    /// A tenth of the rate unless said; of a window, the rate.
    #[serde(default)]
    pub burst_limit: Option<u32>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RateOverride {
    pub requests_per_minute: i32,
    pub burst_limit: i32,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Subscription {
    pub id: Uuid,
    pub product_id: Uuid,
    pub product_name: String,
    pub product_slug: String,
    /// Where the gateway serves the product.
    #[schema(example = "/acme/weather")]
    pub gateway_path: String,
    pub plan_id: Uuid,
    pub plan_name: String,
    pub plan_version: i32,
    /// Takes effect at period_end.
    pub next_plan_id: Option<Uuid>,
    /// Who bought it.
    pub user_id: Uuid,
    /// The consumer's organization.
    pub organization_id: Uuid,
    pub organization_name: String,
    pub organization_slug: String,
    pub status: SubscriptionStatus,
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub activated_at: Option<Timestamp>,
    /// A cancellation that is still to come.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cancel_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cancelled_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub past_due_since: Option<Timestamp>,
    /// While it is unpaid: from then on the gateways answer 402.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub refuse_unpaid_from: Option<Timestamp>,
    #[serde(rename = "override")]
    pub rate_override: Option<RateOverride>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub period_start: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub period_end: Option<Timestamp>,
    /// The month as YYYYMM; 0 before the first.
    pub period_id: i32,
    pub note: String,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl From<SubscriptionRow> for Subscription {
    fn from(row: SubscriptionRow) -> Subscription {
        let rate_override = row.override_requests_per_minute.zip(row.override_burst_limit);
        Subscription {
            gateway_path: format!("/{}/{}", row.publisher_organization_slug, row.product_slug),
            id: row.id,
            product_id: row.product_id,
            product_name: row.product_name,
            product_slug: row.product_slug,
            plan_id: row.plan_id,
            plan_name: row.plan_name,
            plan_version: row.plan_version,
            next_plan_id: row.next_plan_id,
            user_id: row.user_id,
            organization_id: row.organization_id,
            organization_name: row.organization_name,
            organization_slug: row.organization_slug,
            status: row.status,
            requested_at: row.requested_at,
            activated_at: row.activated_at,
            cancel_at: row.cancel_at,
            cancelled_at: row.cancelled_at,
            past_due_since: row.past_due_since,
            refuse_unpaid_from: row.refuse_unpaid_from,
            rate_override: rate_override
                .map(|(requests_per_minute, burst_limit)| RateOverride { requests_per_minute, burst_limit }),
            period_start: row.period_start,
            period_end: row.period_end,
            period_id: row.period_id,
            note: row.note,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
