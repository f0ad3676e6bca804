//! The limits as answer headers: one item per window in `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-
//! headers), and `X-RateLimit-*` for the tightest window. Counts nothing.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::limiter::{LimitAnswers, LimitItem};
use crate::settings::RateLimitHeaders;
use crate::stack_text::StackText;

const RATELIMIT_POLICY: &str = "RateLimit-Policy";
const RATELIMIT: &str = "RateLimit";
const RATELIMIT_LIMIT: &str = "RateLimit-Limit";
const RATELIMIT_REMAINING: &str = "RateLimit-Remaining";
const RATELIMIT_RESET: &str = "RateLimit-Reset";
const X_RATELIMIT_LIMIT: &str = "X-RateLimit-Limit";
const X_RATELIMIT_REMAINING: &str = "X-RateLimit-Remaining";
const X_RATELIMIT_RESET: &str = "X-RateLimit-Reset";
/// Room for two windows with their largest figures.
const ITEMS_BYTES: usize = 128;

/// For every answer to a known subscription, whether its request was counted or not.
pub fn limit_headers(answers: &LimitAnswers, form: RateLimitHeaders) -> Vec<(&'static str, HeaderValue)> {
    let tightest = answers.tightest();
    let (limit, remaining, reset) =
        (HeaderValue::from(tightest.limit), HeaderValue::from(tightest.remaining), HeaderValue::from(tightest.reset_s));
    let mut headers = Vec::with_capacity(6);
    match form {
        RateLimitHeaders::Structured => {
            headers.push((RATELIMIT_POLICY, policy_items(answers)));
            headers.push((RATELIMIT, state_items(answers)));
        }
        RateLimitHeaders::Fields => {
            headers.push((RATELIMIT_LIMIT, limit.clone()));
            headers.push((RATELIMIT_REMAINING, remaining.clone()));
            headers.push((RATELIMIT_RESET, reset.clone()));
        }
        RateLimitHeaders::None => {}
    }
    headers.push((X_RATELIMIT_LIMIT, limit));
    headers.push((X_RATELIMIT_REMAINING, remaining));
    headers.push((X_RATELIMIT_RESET, reset));
    headers
}

fn policy_items(answers: &LimitAnswers) -> HeaderValue {
    items(answers, |item, text| write!(text, "\"{}\";q={};w={}", item.name, item.limit, item.window_s))
}

fn state_items(answers: &LimitAnswers) -> HeaderValue {
    items(answers, |item, text| write!(text, "\"{}\";r={};t={}", item.name, item.remaining, item.reset_s))
}

fn items(
    answers: &LimitAnswers,
    write_item: impl Fn(&LimitItem, &mut StackText<ITEMS_BYTES>) -> std::fmt::Result,
) -> HeaderValue {
    let mut text = StackText::new();
    for item in answers.items() {
        let separator = if text.is_empty() { "" } else { ", " };
        // Two windows with their largest figures fit.
        let _ = text.write_str(separator).and_then(|()| write_item(item, &mut text));
    }
    text.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(form: RateLimitHeaders) -> String {
        let answers = LimitAnswers {
            rate: LimitItem { name: "minute", limit: 600, remaining: 599, reset_s: 1, window_s: 60 },
            quota: Some(LimitItem { name: "month", limit: 10_000, remaining: 5, reset_s: 86_400, window_s: 2_592_000 }),
        };
        let line = |(name, value): &(&'static str, HeaderValue)| {
            format!("{}: {}\n", name.to_lowercase(), value.to_str().unwrap())
        };
        limit_headers(&answers, form).iter().map(line).collect()
    }

    #[test]
    fn each_window_is_an_item_and_the_tightest_one_is_told_in_the_old_form() {
        insta::assert_snapshot!(lines(RateLimitHeaders::Structured), @r#"
        ratelimit-policy: "minute";q=600;w=60, "month";q=10000;w=2592000
        ratelimit: "minute";r=599;t=1, "month";r=5;t=86400
        x-ratelimit-limit: 10000
        x-ratelimit-remaining: 5
        x-ratelimit-reset: 86400
        "#);
        assert!(lines(RateLimitHeaders::Fields).starts_with("ratelimit-limit: 10000\nratelimit-remaining: 5\n"));
        assert!(lines(RateLimitHeaders::None).starts_with("x-ratelimit-limit"));
    }
}
