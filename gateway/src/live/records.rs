//! A snapshot as wire records again, for the last good snapshot on disk: building from them gives the same snapshot, its
//! refusals included. Writes nothing itself.

use ::snapshot::key::Environment;
use ::snapshot::record::{Algorithm, Key, OnRedisDown, Period, Plan, Policy, Subscription, SubscriptionStatus};
use ::snapshot::wire;
use wire::record::Record as RecordKind;

use super::snapshot::Snapshot;

impl Snapshot {
    /// Made one by one, so that a writer never holds all of them. What was refused comes last, after what it could not
    /// replace.
    pub fn records(&self) -> impl Iterator<Item = wire::Record> {
        let fleet = RecordKind::Fleet(wire::Fleet { fleet_max: self.fleet_max });
        let served = self.products.iter().filter_map(|(_, entry)| entry.served());
        std::iter::once(fleet)
            .chain(served.map(|product| RecordKind::Product(product.wire.clone())))
            .chain(self.plans.iter().map(|(_, plan)| RecordKind::Plan(plan_record(plan))))
            .chain(self.subscriptions.iter().map(|(_, it)| RecordKind::Subscription(subscription_record(it))))
            .chain(self.key_ids.iter().map(|(_, key)| RecordKind::Key(key_record(key))))
            .map(|record| wire::Record { record: Some(record) })
            .chain(self.refused.values().map(|refused| refused.record.clone()))
    }
}

fn plan_record(plan: &Plan) -> wire::Plan {
    wire::Plan {
        id: plan.id.as_bytes().to_vec(),
        meter_id: plan.meter_id,
        name: plan.name.clone(),
        version: plan.version,
        policy: Some(policy_record(plan.policy)),
        included_requests: plan.quota.map(|quota| quota.included),
        quota_hard: plan.quota.is_some_and(|quota| quota.hard),
    }
}

fn policy_record(policy: Policy) -> wire::Policy {
    let algorithm = match policy.algorithm {
        Algorithm::TokenBucket => wire::Algorithm::TokenBucket,
        Algorithm::SlidingWindow => wire::Algorithm::SlidingWindow,
        Algorithm::FixedWindow => wire::Algorithm::FixedWindow,
    };
    let on_redis_down = match policy.on_redis_down {
        OnRedisDown::FairShare => wire::OnRedisDown::FairShare,
        OnRedisDown::Open => wire::OnRedisDown::Open,
        OnRedisDown::Closed => wire::OnRedisDown::Closed,
    };
    wire::Policy {
        algorithm: algorithm.into(),
        requests_per_minute: policy.per_minute.get(),
        burst_limit: policy.burst.get(),
        on_redis_down: on_redis_down.into(),
        strict: policy.strict,
    }
}

fn subscription_record(subscription: &Subscription) -> wire::Subscription {
    let status = match subscription.status {
        SubscriptionStatus::Pending => wire::SubscriptionStatus::Pending,
        SubscriptionStatus::Active => wire::SubscriptionStatus::Active,
        SubscriptionStatus::Suspended => wire::SubscriptionStatus::Suspended,
        SubscriptionStatus::PastDue => wire::SubscriptionStatus::PastDue,
        SubscriptionStatus::Cancelled => wire::SubscriptionStatus::Cancelled,
    };
    let period = |period: Period| wire::Period {
        id: period.id,
        ends_at_ms: period.ends_at_ms,
        included_requests: period.included,
    };
    wire::Subscription {
        id: subscription.id.as_bytes().to_vec(),
        meter_id: subscription.meter_id,
        product_id: subscription.product_id.as_bytes().to_vec(),
        plan_id: subscription.plan_id.as_bytes().to_vec(),
        consumer_id: subscription.consumer_id.as_bytes().to_vec(),
        consumer_username: subscription.consumer_username.clone(),
        status: status.into(),
        override_requests_per_minute: subscription.rate_override.map(|rate| rate.per_minute.get()),
        override_burst_limit: subscription.rate_override.map(|rate| rate.burst.get()),
        period: subscription.period.map(period),
        next_period: subscription.next_period.map(period),
        cancel_at_ms: subscription.cancel_at_ms,
        refuse_unpaid_from_ms: subscription.refuse_unpaid_from_ms,
    }
}

fn key_record(key: &Key) -> wire::Key {
    let environment = match key.environment {
        Environment::Live => wire::Environment::Live,
        Environment::Test => wire::Environment::Test,
    };
    wire::Key {
        id: key.id.as_bytes().to_vec(),
        meter_id: key.meter_id,
        digest: key.digest.0.to_vec(),
        subscription_id: key.subscription_id.as_bytes().to_vec(),
        environment: environment.into(),
        expires_at_ms: key.expires_at_ms,
        scopes: key.scopes.clone(),
    }
}
