//! What tests and benchmarks record, and where: one request that went well, of a key of one's choice, into rings that nobody empties
//! but the service itself.

use std::path::Path;

use gateway::clock::unix_ms;
use gateway::usage::{MethodCode, OnFull, Record, UsageSettings};
use settings::Secret;
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

/// Of one thread, with a Redis that is not there: everything stays on disk.
pub(crate) fn usage_settings(dir: &Path) -> UsageSettings {
    UsageSettings {
        redis_url: Some(Secret::new("unix:/nonexistent/redis.sock".to_owned())),
        stream: "usage".to_owned(),
        stream_length_max: 1_000,
        node_id: Uuid::from_u128(7),
        dir: dir.join("usage"),
        spool_bytes_max: 1 << 30,
        on_full: OnFull::Serve,
        threads: 1,
    }
}
