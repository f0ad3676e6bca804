//! A usage record of one request that went well, of a key of one's choice.

use gateway::clock::unix_ms;
use gateway::usage::{MethodCode, Record};
use snapshot::wire::{FailedBy, Verdict};
use uuid::Uuid;

pub(crate) fn record(key: u64) -> Record {
    Record {
        at_ms: unix_ms(),
        request_id: Uuid::from_u128(u128::from(key)),
        key,
        subscription: 2,
        product: 3,
        endpoint: 4,
        plan: 5,
        method: MethodCode::of(&http::Method::GET),
        status: 200,
        verdict: Verdict::Proxied,
        failed_by: FailedBy::Nobody,
        request_bytes: 1,
        response_bytes: 2,
        latency_us: 3,
        upstream_latency_us: 4,
        upstream_contacted: true,
        test_key: false,
    }
}
