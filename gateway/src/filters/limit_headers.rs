//! The limits as answer headers: one item per window in `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-
//! headers), and `X-RateLimit-*` for the tightest window. Counts nothing.

use http::HeaderName;

use crate::header_texts::{HeaderTexts, Piece};
use crate::limiter::{LimitAnswers, LimitItem};
use crate::settings::RateLimitHeaders;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATELIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Every name that only the gateway may use in an answer, whichever form it speaks itself.
pub const LIMIT_HEADERS: [HeaderName; 8] = [
    RATELIMIT_POLICY,
    RATELIMIT,
    RATELIMIT_LIMIT,
    RATELIMIT_REMAINING,
    RATELIMIT_RESET,
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
];

/// For every answer to a known subscription, whether its request was counted or not.
pub fn limit_headers(
    answers: &LimitAnswers,
    form: RateLimitHeaders,
    texts: &mut HeaderTexts,
) -> Vec<(HeaderName, Piece)> {
    let tightest = answers.tightest();
    let limit = texts.number(tightest.limit);
    let remaining = texts.number(tightest.left());
    let reset = texts.number(tightest.reset_s);
    let mut headers = Vec::with_capacity(6);
    match form {
        RateLimitHeaders::Structured => {
            headers.push((RATELIMIT_POLICY, items(answers, texts, policy_item)));
            headers.push((RATELIMIT, items(answers, texts, state_item)));
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

fn policy_item(item: &LimitItem, texts: &mut HeaderTexts) {
    texts.push("\";q=");
    texts.push_number(item.limit);
    texts.push(";w=");
    texts.push_number(item.window_s);
}

fn state_item(item: &LimitItem, texts: &mut HeaderTexts) {
    texts.push("\";r=");
    texts.push_number(item.left());
    texts.push(";t=");
    texts.push_number(item.reset_s);
}

fn items(answers: &LimitAnswers, texts: &mut HeaderTexts, write_rest: fn(&LimitItem, &mut HeaderTexts)) -> Piece {
    let start = texts.here();
    for item in answers.items() {
        texts.push(if texts.here() == start { "\"" } else { ", \"" });
        texts.push(item.name);
        write_rest(item, texts);
    }
    texts.since(start)
}

#[cfg(test)]
mod tests {
    use snapshot::record::Algorithm;

    use super::*;

    const MINUTE: LimitItem = LimitItem { name: "minute", limit: 600, remaining: 599, reset_s: 1, window_s: 60 };

    fn lines(form: RateLimitHeaders) -> String {
        let month = LimitItem { name: "month", limit: 10_000, remaining: 5, reset_s: 86_400, window_s: 2_592_000 };
        lines_of(MINUTE, Some(month), form)
    }

    fn lines_of(rate: LimitItem, quota: Option<LimitItem>, form: RateLimitHeaders) -> String {
        let answers = LimitAnswers { rate, quota, algorithm: Algorithm::TokenBucket, outcome: None };
        let mut texts = HeaderTexts::with_capacity(0);
        let pieces = limit_headers(&answers, form, &mut texts);
        let ready = texts.ready();
        pieces.iter().map(|(name, piece)| format!("{name}: {}\n", ready.value(piece).to_str().unwrap())).collect()
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

    #[test]
    fn no_more_is_ever_left_than_the_limit_though_a_larger_burst_would_be_admitted() {
        let burst = LimitItem { limit: 6, remaining: 99, reset_s: 10, ..MINUTE };
        insta::assert_snapshot!(lines_of(burst, None, RateLimitHeaders::Structured), @r#"
        ratelimit-policy: "minute";q=6;w=60
        ratelimit: "minute";r=6;t=10
        x-ratelimit-limit: 6
        x-ratelimit-remaining: 6
        x-ratelimit-reset: 10
        "#);
    }
}
