//! Closes a request's account: one usage event where a subscription is known, the metrics, and the access log. The only place
//! that says what a request's end means; it never waits, and never writes a key or a query.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use pingora_core::{Error, ErrorSource};
use snapshot::key::Environment;
use snapshot::wire::{FailedBy, Verdict};

use super::context::Context;
use super::lifeline::Cut;
use crate::clock::Now;
use crate::filters::entitlement::KnownSubscription;
use crate::metrics::{Metrics, PROXIED, RequestSeen};
use crate::rejection::Rejection;
use crate::settings::AccessLog;
use crate::usage::{MethodCode, Record, UsageRecorder};

/// What a client that left is written down as; no such status is ever sent.
const CLIENT_GONE: u16 = 499;
/// The answer that makes a tunnel.
const SWITCHED: u16 = 101;
const GONE: &str = "client_gone";

/// Where requests are written down.
pub(crate) struct Book {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) usage: UsageRecorder,
    pub(crate) access: AccessLog,
}

/// How a request ended, beside what the context knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer was written to its end, be it the upstream's or ours.
    Complete,
    ClientGone,
    /// The upstream failed after its answer had begun.
    Broken,
    /// The watch ended it.
    Cut(Cut),
}

impl Ending {
    pub(super) fn of(ctx: &Context, error: Option<&Error>) -> Ending {
        match error.map(Error::esource) {
            None => Ending::Complete,
            Some(ErrorSource::Downstream) if ctx.rejection.is_none() => Ending::ClientGone,
            Some(_) if ctx.status > 0 && ctx.upstream.answered_us.is_some() => Ending::Broken,
            Some(_) => Ending::Complete,
        }
    }

    /// The task was dropped: by the watch, or because the client's connection ended with it.
    pub(super) fn torn(cut: Option<Cut>) -> Ending {
        cut.map_or(Ending::ClientGone, Ending::Cut)
    }
}

/// What an ending comes to.
struct Outcome {
    status: u16,
    label: &'static str,
    verdict: Verdict,
    failed_by: FailedBy,
}

impl Book {
    /// Once for each request.
    pub(super) fn close(&self, ctx: &mut Context, path: &str, ending: &Ending) {
        let now = Now::read();
        let outcome = outcome(ctx, *ending);
        let total_us = now.mono_us.saturating_sub(ctx.began.mono_us);
        if *ending == Ending::ClientGone && ctx.is_http2 {
            ctx.lifeline.connection.reset(total_us);
        }
        if !ctx.is_usage_recorded {
            self.record(ctx, &outcome, now);
        }
        self.metrics.observe_request(&RequestSeen {
            method: &ctx.method,
            status: outcome.status,
            verdict: outcome.label,
            total: Duration::from_micros(total_us),
            upstream: upstream_time(ctx, now),
            request_bytes: ctx.request_bytes,
            response_bytes: ctx.response_bytes,
        });
        self.log(ctx, path, &outcome, total_us);
    }

    /// Called before the last byte of an answer goes out: whoever has all of it was counted, even if the process dies in the
    /// next instant. The other way round, an answer that was counted may be lost on its last steps.
    pub(super) fn record_answer(&self, ctx: &mut Context) {
        if ctx.is_usage_recorded {
            return;
        }
        let now = ctx
            .upstream
            .ended_us
            .map_or_else(Now::read, |us| ctx.began.after(Duration::from_micros(us.saturating_sub(ctx.began.mono_us))));
        let outcome = outcome(ctx, Ending::Complete);
        self.record(ctx, &outcome, now);
    }

    /// A tunnel is counted at its beginning: its end may be days away.
    pub(super) fn record_tunnel(&self, ctx: &mut Context) {
        let outcome =
            Outcome { status: SWITCHED, label: PROXIED, verdict: Verdict::Proxied, failed_by: FailedBy::Nobody };
        self.record(ctx, &outcome, Now::read());
    }

    fn record(&self, ctx: &mut Context, outcome: &Outcome, now: Now) {
        let known = ctx.admitted.as_ref().map(|admitted| &admitted.known).or(ctx.refused.as_ref());
        if let Some(known) = known {
            self.usage.record(&record(ctx, known, outcome, now));
            ctx.is_usage_recorded = true;
        }
    }

    fn log(&self, ctx: &Context, path: &str, outcome: &Outcome, total_us: u64) {
        let is_wanted = match self.access {
            AccessLog::All => true,
            AccessLog::Errors => outcome.status >= 500 || matches!(outcome.failed_by, FailedBy::Upstream),
            AccessLog::None => false,
        };
        if !is_wanted {
            return;
        }
        let known = ctx.admitted.as_ref().map(|admitted| &admitted.known).or(ctx.refused.as_ref());
        tracing::info!(
            target: "access",
            request_id = %ctx.request_id,
            method = %ctx.method,
            path,
            status = outcome.status,
            verdict = outcome.label,
            client = ctx.admitted.as_ref().map(|admitted| tracing::field::display(admitted.client)),
            product = known.map(|known| tracing::field::display(known.product.id)),
            subscription = known.map(|known| tracing::field::display(known.subscription.id)),
            upstream = ctx.upstream.address.map(tracing::field::display),
            request_bytes = ctx.request_bytes,
            response_bytes = ctx.response_bytes,
            duration_us = total_us,
        );
    }
}

fn outcome(ctx: &Context, ending: Ending) -> Outcome {
    let gone = Outcome { status: CLIENT_GONE, label: GONE, verdict: Verdict::ClientGone, failed_by: FailedBy::Client };
    let own = |rejection: &Rejection| {
        let (verdict, failed_by) = verdict(rejection);
        Outcome { status: rejection.status(), label: rejection.code(), verdict, failed_by }
    };
    let answered = |verdict, failed_by| Outcome { status: ctx.status, label: PROXIED, verdict, failed_by };
    match ending {
        // However a tunnel ends, it was one.
        _ if ctx.status == SWITCHED => answered(Verdict::Proxied, FailedBy::Nobody),
        Ending::ClientGone => gone,
        // What the client has seen stays the status.
        Ending::Cut(cut) if ctx.status > 0 => match (&ctx.rejection, cut) {
            (Some(rejection), _) => own(rejection),
            (None, Cut::TotalTime) => answered(Verdict::UpstreamError, FailedBy::Upstream),
            // It could have had the rest: as one that left, or dripping would be a way not to pay.
            (None, Cut::BodyTooSlow) => answered(Verdict::ClientGone, FailedBy::Client),
            (None, Cut::HeaderDeadline | Cut::Revoked) => answered(Verdict::Proxied, FailedBy::Nobody),
        },
        Ending::Cut(Cut::BodyTooSlow) => own(&Rejection::RequestTimeout),
        Ending::Cut(Cut::TotalTime) => own(&Rejection::UpstreamTimeout),
        // Nobody was answered, and it was not the client who ended it: as its next request will be told.
        Ending::Cut(Cut::Revoked) => own(&Rejection::InvalidKey),
        Ending::Cut(Cut::HeaderDeadline) => gone,
        Ending::Broken => answered(Verdict::UpstreamError, FailedBy::Upstream),
        Ending::Complete => match &ctx.rejection {
            Some(rejection) => own(rejection),
            None => answered(Verdict::Proxied, FailedBy::Nobody),
        },
    }
}

/// What a rejection is called in the usage log.
fn verdict(rejection: &Rejection) -> (Verdict, FailedBy) {
    match rejection {
        Rejection::PaymentRequired => (Verdict::Unpaid, FailedBy::Nobody),
        Rejection::RateLimited { .. } => (Verdict::RateLimited, FailedBy::Nobody),
        Rejection::QuotaExceeded { .. } => (Verdict::QuotaExceeded, FailedBy::Nobody),
        Rejection::UpstreamUnreachable
        | Rejection::UpstreamBadResponse
        | Rejection::UpstreamReset
        | Rejection::UpstreamTimeout => (Verdict::UpstreamError, FailedBy::Upstream),
        _ if rejection.is_server_fault() => (Verdict::UpstreamError, FailedBy::Gateway),
        _ if rejection.status() == 403 => (Verdict::Forbidden, FailedBy::Nobody),
        // Admitted, and then at fault itself: a body beyond its limit, or one that never came. Never billed.
        _ => (Verdict::Proxied, FailedBy::Client),
    }
}

fn record(ctx: &Context, known: &KnownSubscription, outcome: &Outcome, now: Now) -> Record {
    let total_us = now.mono_us.saturating_sub(ctx.began.mono_us);
    Record {
        at_ms: now.unix_ms,
        request_id: ctx.request_id,
        key: known.key.meter_id,
        subscription: known.subscription.meter_id,
        product: known.product.meter_id,
        endpoint: known.endpoint.meter_id,
        plan: known.plan.meter_id,
        method: MethodCode::of(&ctx.method),
        status: outcome.status,
        verdict: outcome.verdict,
        failed_by: outcome.failed_by,
        request_bytes: ctx.request_bytes,
        response_bytes: ctx.response_bytes,
        latency_us: clamp_u32(total_us),
        upstream_latency_us: upstream_time(ctx, now).map_or(0, |time| clamp_u32(micros(time))),
        upstream_contacted: ctx.upstream.is_contacted,
        test_key: known.key.environment == Environment::Test,
    }
}

/// From the choice of an address to the last byte that came; `None` where there was no upstream.
fn upstream_time(ctx: &Context, now: Now) -> Option<Duration> {
    let began = ctx.upstream.began_us?;
    let ended = ctx.upstream.ended_us.unwrap_or(now.mono_us);
    Some(Duration::from_micros(ended.saturating_sub(began)))
}

fn clamp_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
