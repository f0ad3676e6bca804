//! The metrics of limits: how requests were decided, who waited, and what the fleet's counting costs Redis.

use std::time::Duration;

use limits::overshoot::{Overshoot, Overshoots};
use prometheus::{Error, Histogram, IntCounter, IntGauge};
use snapshot::record::Algorithm;

use super::closed::Closed;
use super::labels::{Label as _, LimitAlgorithm, LimitOutcome, WaitResult};
use super::maker::Maker;

/// Upper bounds in seconds of waits and of Redis' answers: none takes longer than the last but one.
const WAIT_BUCKETS_S: &[f64] = &[0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.01];
const REDIS_BUCKETS_S: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05];

pub struct LimitMetrics {
    decisions_total: Closed<LimitAlgorithm, Closed<LimitOutcome, IntCounter>>,
    waits_total: Closed<WaitResult, IntCounter>,
    wait_seconds: Histogram,
    /// Lanes of subscriptions whose limits are held in memory.
    pub slots: IntGauge,
    /// Keys that Redis was asked about: divided by the decisions, the operations of a request.
    pub redis_operations_total: IntCounter,
    /// Messages to Redis.
    pub redis_batches_total: IntCounter,
    /// Messages without an answer in time.
    pub redis_failures_total: IntCounter,
    pub redis_seconds: Histogram,
    pub redis_connected: IntGauge,
    /// Conversations that count Redis as down: their keys' policies decide.
    pub lanes_down: IntGauge,
    /// Times that a conversation began to count Redis as down.
    pub outages_total: IntCounter,
    /// Answers that missed a month's count.
    pub unseeded_total: IntCounter,
    overshoot_tokens_total: Closed<LimitAlgorithm, IntCounter>,
    overshoot_beyond_total: Closed<LimitAlgorithm, IntCounter>,
}

impl LimitMetrics {
    pub(super) fn new(make: &Maker) -> Result<LimitMetrics, Error> {
        let decisions = make.counters(
            "rate_limit_decisions_total",
            "Requests that a limit decided, by the plan's algorithm",
            &["algorithm", "outcome"],
        )?;
        let decisions_of = |algorithm: LimitAlgorithm| {
            Closed::of(|outcome: LimitOutcome| decisions.with_label_values(&[algorithm.as_str(), outcome.as_str()]))
        };
        Ok(LimitMetrics {
            decisions_total: Closed::of(decisions_of),
            waits_total: make.closed_counters(
                "rate_limit_waits_total",
                "Requests that waited for an answer of Redis",
                "result",
            )?,
            wait_seconds: make.histogram("rate_limit_wait_seconds", "How long they waited", WAIT_BUCKETS_S)?,
            slots: make.gauge("limiter_slots", "Subscriptions whose limits are held in memory")?,
            redis_operations_total: make
                .counter("rate_limit_redis_operations_total", "Keys that Redis was asked about")?,
            redis_batches_total: make.counter("rate_limit_redis_batches_total", "Messages about limits to Redis")?,
            redis_failures_total: make.counter("rate_limit_redis_failures_total", "Those without an answer in time")?,
            redis_seconds: make.histogram("rate_limit_redis_seconds", "Until Redis answered", REDIS_BUCKETS_S)?,
            redis_connected: make.gauge("rate_limit_redis_connected", "1 while there is a connection")?,
            lanes_down: make.gauge("rate_limit_lanes_down", "Conversations that count Redis as down")?,
            outages_total: make.counter("rate_limit_outages_total", "Times that Redis began to count as down")?,
            unseeded_total: make.counter("rate_limit_unseeded_total", "Answers that missed a month's count")?,
            overshoot_tokens_total: make.closed_counters(
                "rate_limit_overshoot_tokens_total",
                "Requests that this gateway had admitted, by what Redis said afterwards, beyond what was in the bucket",
                "algorithm",
            )?,
            overshoot_beyond_total: make.closed_counters(
                "rate_limit_overshoot_beyond_bound_total",
                "Those of them that were beyond N·e as well, which takes a fault",
                "algorithm",
            )?,
        })
    }

    /// Counts a request that the limits decided.
    pub fn decided(&self, algorithm: Algorithm, outcome: LimitOutcome) {
        let algorithm = match algorithm {
            Algorithm::TokenBucket => LimitAlgorithm::TokenBucket,
            Algorithm::SlidingWindow => LimitAlgorithm::SlidingWindow,
            Algorithm::FixedWindow => LimitAlgorithm::FixedWindow,
        };
        if let Some(outcomes) = self.decisions_total.get(algorithm) {
            outcomes.add(outcome, 1);
        }
    }

    /// Counts what was seen to be spent beyond the buckets.
    pub fn overshot(&self, seen: &Overshoots) {
        let add = |algorithm, Overshoot { tokens, beyond }: Overshoot| {
            self.overshoot_tokens_total.add(algorithm, tokens);
            self.overshoot_beyond_total.add(algorithm, beyond);
        };
        add(LimitAlgorithm::TokenBucket, seen.token_bucket);
        add(LimitAlgorithm::SlidingWindow, seen.sliding_window);
        add(LimitAlgorithm::FixedWindow, seen.fixed_window);
    }

    /// Tokens beyond the buckets so far, and those beyond the bound.
    pub fn overshoot_so_far(&self, algorithm: LimitAlgorithm) -> (u64, u64) {
        let of = |counters: &Closed<LimitAlgorithm, IntCounter>| counters.get(algorithm).map_or(0, IntCounter::get);
        (of(&self.overshoot_tokens_total), of(&self.overshoot_beyond_total))
    }

    pub fn waited(&self, result: WaitResult, time: Duration) {
        self.waits_total.add(result, 1);
        self.wait_seconds.observe(time.as_secs_f64());
    }

    pub fn waits_so_far(&self, result: WaitResult) -> u64 {
        self.waits_total.get(result).map_or(0, IntCounter::get)
    }
}
