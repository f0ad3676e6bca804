//! The limits as answer headers: one item per window in `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-
//! headers), and `X-RateLimit-*` for the tightest window. Counts nothing.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

use crate::limiter::LimitAnswers;
use crate::settings::RateLimitHeaders;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATELIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Room for two windows with their largest figures.
const ITEMS_BYTES: usize = 96;

/// For every answer whose request was counted or refused by a limit.
pub fn limit_headers(answers: &LimitAnswers, form: RateLimitHeaders) -> Vec<(HeaderName, HeaderValue)> {
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
    write_item: impl Fn(&crate::limiter::LimitItem, &mut String) -> std::fmt::Result,
) -> HeaderValue {
    let mut text = String::with_capacity(ITEMS_BYTES);
    for item in answers.items() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a String cannot fail.
        let _ = write_item(item, &mut text);
    }
    // Names and numbers in ASCII: always a valid value, taken over without a copy.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::LimitItem;

    fn lines(form: RateLimitHeaders) -> String {
        let answers = LimitAnswers {
            rate: LimitItem { name: "minute", limit: 600, remaining: 599, reset_s: 1, window_s: 60 },
            quota: Some(LimitItem { name: "month", limit: 10_000, remaining: 5, reset_s: 86_400, window_s: 2_592_000 }),
        };
        let line = |(name, value): &(HeaderName, HeaderValue)| format!("{name}: {}\n", value.to_str().unwrap());
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
