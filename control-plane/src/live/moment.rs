//! What one batch of the live stream says, with everything named by its id: rows of requests, and counts of all of them.
//! Knows neither the stream nor the watchers.

use std::sync::Arc;

use uuid::Uuid;

use super::topic::Scope;
use crate::domain::verdict::Verdict;

#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) at_ms: i64,
    pub(super) rows: Vec<Arc<Row>>,
    pub(super) counts: Vec<Count>,
}

/// Where usage belongs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) product: Arc<Product>,
    pub(super) subscription: Arc<Subscription>,
    /// `None`: refused before a route within the product was looked at, or an endpoint that nobody knows.
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

#[derive(Debug)]
pub(super) struct Product {
    pub(super) id: Uuid,
    pub(super) organization: Uuid,
    pub(super) slug: String,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: Uuid,
    pub(super) organization: Uuid,
    pub(super) consumer: String,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) id: Uuid,
    pub(super) pattern: String,
}

/// One request.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) request: Request,
    pub(super) node: Uuid,
    pub(super) place: Place,
    pub(super) key: Option<Uuid>,
    pub(super) plan: Option<Uuid>,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) at_ms: i64,
    pub(super) id: Uuid,
    pub(super) method: String,
    pub(super) status: u32,
    pub(super) verdict: Verdict,
    pub(super) failed_by: Option<&'static str>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) latency_us: u32,
    /// `None`: the upstream was not contacted.
    pub(super) upstream_latency_us: Option<u32>,
    pub(super) is_test: bool,
}

/// Requests of one place that went alike.
#[derive(Clone, Debug)]
pub(super) struct Count {
    pub(super) place: Place,
    pub(super) sums: Sums,
}

/// What is counted; sums of sums are sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Sums {
    pub(super) requests: u64,
    pub(super) admitted: u64,
    /// Answered with 5xx, whoever failed.
    pub(super) errors: u64,
    /// 429: too fast.
    pub(super) rate_limited: u64,
    /// 429: the month's quota is used up.
    pub(super) quota_exceeded: u64,
    /// 402.
    pub(super) payment_required: u64,
    /// 403, of the gateway's own.
    pub(super) forbidden: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) latency_us_sum: u64,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Sums) {
        let pairs = [
            (&mut self.requests, other.requests),
            (&mut self.admitted, other.admitted),
            (&mut self.errors, other.errors),
            (&mut self.rate_limited, other.rate_limited),
            (&mut self.quota_exceeded, other.quota_exceeded),
            (&mut self.payment_required, other.payment_required),
            (&mut self.forbidden, other.forbidden),
            (&mut self.request_bytes, other.request_bytes),
            (&mut self.response_bytes, other.response_bytes),
            (&mut self.latency_us_sum, other.latency_us_sum),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Place {
    /// Every scope that it is seen in.
    pub(super) fn scopes(&self) -> [Scope; 5] {
        [
            Scope::Platform,
            Scope::Product(self.product.id),
            Scope::Subscription(self.subscription.id),
            Scope::Publisher(self.product.organization),
            Scope::Consumer(self.subscription.organization),
        ]
    }

    pub(super) fn is_in(&self, scope: Scope) -> bool {
        self.scopes().contains(&scope)
    }
}
