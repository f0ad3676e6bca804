//! Tests of what a request's end means, in the words of the usage log.

use std::sync::Arc;

use pingora_core::{Error, ErrorType};

use super::super::context::Context;
use super::*;
use crate::usage::UsageRecorder;

fn context(status: u16, answered: bool, rejection: Option<Rejection>) -> Context {
    let metrics = Arc::new(Metrics::new("test").unwrap());
    let usage = UsageRecorder::without_rings(metrics.clone());
    let book = Arc::new(Book { metrics, usage, access: AccessLog::None });
    let mut ctx = Context::begin(book);
    (ctx.status, ctx.rejection) = (status, rejection);
    ctx.upstream.answered_us = answered.then_some(1);
    ctx
}

fn told(ctx: &Context, ending: Ending) -> (u16, &'static str, Verdict, FailedBy) {
    let outcome = outcome(ctx, ending);
    (outcome.status, outcome.label, outcome.verdict, outcome.failed_by)
}

#[test]
fn each_ending_has_its_line_in_the_usage_log() {
    use FailedBy::{Client, Gateway, Nobody, Upstream};
    use Verdict::{ClientGone, Proxied, RateLimited, Unpaid, UpstreamError};
    let limited = Rejection::RateLimited { retry_after_s: 1 };
    for (status, answered, rejection, ending, expected) in [
        (200, true, None, Ending::Complete, (200, "proxied", Proxied, Nobody)),
        (500, true, None, Ending::Complete, (500, "proxied", Proxied, Nobody)),
        (429, false, Some(limited), Ending::Complete, (429, "rate_limited", RateLimited, Nobody)),
        (402, false, Some(Rejection::PaymentRequired), Ending::Complete, (402, "payment_required", Unpaid, Nobody)),
        (
            504,
            false,
            Some(Rejection::UpstreamTimeout),
            Ending::Complete,
            (504, "upstream_timeout", UpstreamError, Upstream),
        ),
        (
            503,
            false,
            Some(Rejection::NoHealthyUpstream),
            Ending::Complete,
            (503, "no_healthy_upstream", UpstreamError, Gateway),
        ),
        (200, true, None, Ending::Broken, (200, "proxied", UpstreamError, Upstream)),
        (0, false, None, Ending::ClientGone, (499, "client_gone", ClientGone, Client)),
        (200, true, None, Ending::ClientGone, (499, "client_gone", ClientGone, Client)),
        (101, true, None, Ending::ClientGone, (101, "proxied", Proxied, Nobody)),
        (101, true, None, Ending::Cut(Cut::Revoked), (101, "proxied", Proxied, Nobody)),
        (200, true, None, Ending::Cut(Cut::Revoked), (200, "proxied", Proxied, Nobody)),
        (0, false, None, Ending::Cut(Cut::Revoked), (401, "invalid_key", Proxied, Client)),
        (0, false, None, Ending::Cut(Cut::TotalTime), (504, "upstream_timeout", UpstreamError, Upstream)),
        (200, true, None, Ending::Cut(Cut::TotalTime), (200, "proxied", UpstreamError, Upstream)),
        (200, true, None, Ending::Cut(Cut::BodyTooSlow), (200, "proxied", ClientGone, Client)),
        (
            413,
            false,
            Some(Rejection::BodyTooLarge { limit_bytes: 1 }),
            Ending::Cut(Cut::TotalTime),
            (413, "body_too_large", Proxied, Client),
        ),
        (0, false, None, Ending::Cut(Cut::BodyTooSlow), (408, "request_timeout", Proxied, Client)),
    ] {
        let ctx = context(status, answered, rejection.clone());
        assert_eq!(told(&ctx, ending), expected, "{status} {rejection:?} {ending:?}");
    }
}

#[test]
fn an_error_says_who_ended_the_exchange() {
    let down = Error::new_down(ErrorType::WriteError);
    let up = Error::new_up(ErrorType::ReadError);
    assert_eq!(Ending::of(&context(200, true, None), None), Ending::Complete);
    assert_eq!(Ending::of(&context(200, true, None), Some(&down)), Ending::ClientGone);
    assert_eq!(Ending::of(&context(200, true, None), Some(&up)), Ending::Broken);
    let answered_by_us = context(502, false, Some(Rejection::UpstreamReset));
    assert_eq!(Ending::of(&answered_by_us, Some(&up)), Ending::Complete);
}

#[test]
fn a_request_is_closed_once_and_is_in_flight_until_then() {
    let mut ctx = context(200, true, None);
    let book = ctx.book.clone();
    assert_eq!(book.metrics.http_requests_in_flight.get(), 1);
    book.close(&mut ctx, "/x", &Ending::Complete);
    ctx.is_closed = true;
    drop(ctx);
    assert_eq!(book.metrics.http_requests_in_flight.get(), 0);
    let shown = String::from_utf8(book.metrics.render().unwrap()).unwrap();
    assert!(
        shown.contains("gateway_http_requests_total{code=\"200\",method=\"GET\",verdict=\"proxied\"} 1"),
        "{shown}"
    );
}
