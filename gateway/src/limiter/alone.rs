//! Limits of a gateway without a Redis for them: it is the whole fleet, and the core's model of Redis' side counts right here,
//! exactly and in memory. Refuses to share anything with another gateway, and forgets its counts when the process ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use limits::answer::{figures, retry_after_s};
use limits::central::Group;
use limits::terms::{UNITS, US_NS};
use limits::wire::{Ask, Grant, QuotaAsk, QuotaLeft};

use super::Checked;
use super::answer::{LimitAnswers, LimitKind, LimitRefusal};
use super::terms::Terms;
use crate::clock::Now;
use crate::lock::lock;
use crate::metrics::labels::LimitOutcome;

/// Parts with a lock each, which is held for the nanoseconds of a decision. A power of two.
const PARTS: usize = 256;
/// How long after a period's end its count is kept: a clock that is set back by an hour finds it.
const KEEP_AFTER_END_MS: i64 = 2 * 3_600 * 1_000;
/// Threads read the clock and come here in another order; time that went back by more was set back.
const READ_APART_MAX_US: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Alone {
    parts: Box<[Mutex<Part>]>,
}

#[derive(Debug, Default)]
struct Part {
    group: Group,
    now_us: u64,
    /// When each key's month ends.
    month_ends_ms: HashMap<u64, i64>,
}

impl Alone {
    pub(super) fn new() -> Alone {
        Alone { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }

    /// Takes one request from the minute and from the month, or from neither.
    pub(super) fn check(&self, terms: &Terms, now: Now) -> Checked {
        let grant = self.ask(terms, now);
        if grant.tokens > 0 {
            return Checked::Admitted(answers(terms, &grant, LimitOutcome::Counted, now));
        }
        if grant.level < UNITS {
            let answers = answers(terms, &grant, LimitOutcome::OverRate, now);
            let retry_after_s = retry_after_s(grant.wait_us.saturating_mul(US_NS));
            return Checked::Refused(LimitRefusal { kind: LimitKind::Rate, retry_after_s, answers });
        }
        let answers = answers(terms, &grant, LimitOutcome::OverQuota, now);
        let retry_after_s = answers.quota.map_or(1, |quota| quota.reset_s.max(1));
        Checked::Refused(LimitRefusal { kind: LimitKind::Quota, retry_after_s, answers })
    }

    /// Takes nothing and leaves no trace.
    pub(super) fn peek(&self, terms: &Terms, now: Now) -> LimitAnswers {
        let mut part = self.part(terms.key);
        let now_us = part.advance(now);
        let grant = part.group.peek(&one(terms), now_us);
        LimitAnswers { outcome: None, ..answers(terms, &grant, LimitOutcome::Counted, now) }
    }

    pub(super) fn slots(&self) -> usize {
        self.parts.iter().map(|part| lock(part).group.keys()).sum()
    }

    /// Forgets what would change no answer: full buckets, empty windows, months that are over.
    pub(super) fn sweep(&self, now: Now) {
        for part in &self.parts {
            let mut part = lock(part);
            let now_us = part.advance(now);
            let Part { group, month_ends_ms, .. } = &mut *part;
            group.forget_full(now_us);
            month_ends_ms.retain(|key, ends_ms| {
                let keep = ends_ms.saturating_add(KEEP_AFTER_END_MS) >= now.unix_ms;
                if !keep {
                    group.forget_quota(*key);
                }
                keep
            });
        }
    }

    fn ask(&self, terms: &Terms, now: Now) -> Grant {
        let mut part = self.part(terms.key);
        let now_us = part.advance(now);
        if let Some(month) = terms.month {
            // Nobody else counts, so a month that is not known has not been used.
            part.group.seed_quota(terms.key, month.period, 0, now_us);
            part.month_ends_ms.insert(terms.key, month.ends_at_ms);
        }
        part.group.ask(&one(terms), now_us)
    }

    fn part(&self, key: u64) -> MutexGuard<'_, Part> {
        /// 2⁶⁴ / φ, odd.
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let place = key.wrapping_mul(GOLDEN) >> (u64::BITS - PARTS.trailing_zeros());
        // The number has as many bits as there are parts.
        let place = usize::try_from(place).unwrap_or(0) % PARTS;
        #[allow(clippy::indexing_slicing)]
        lock(&self.parts[place])
    }
}

impl Part {
    /// The time that this part counts by.
    fn advance(&mut self, now: Now) -> u64 {
        let behind = self.now_us.saturating_sub(now.mono_us);
        if behind == 0 || behind > READ_APART_MAX_US {
            self.now_us = now.mono_us;
        }
        self.now_us
    }
}

/// Asks for one token.
fn one(terms: &Terms) -> Ask {
    let policy = terms.core_policy(terms.origin.revision);
    Ask {
        key: terms.key,
        revision: policy.revision(),
        algorithm: policy.algorithm(),
        per_minute: policy.per_minute(),
        burst: policy.burst(),
        debt: 0,
        want: 1,
        refund: None,
        quota: terms.month.map(|month| QuotaAsk { period: month.period, included: month.included, hard: month.hard }),
    }
}

fn answers(terms: &Terms, grant: &Grant, outcome: LimitOutcome, now: Now) -> LimitAnswers {
    let figures = figures(&terms.core_policy(0), grant.level.div_euclid(UNITS), grant.grows_us.saturating_mul(US_NS));
    let month_left = match grant.quota {
        Some(QuotaLeft::Left(left)) => left,
        Some(QuotaLeft::Unseeded) | None => {
            terms.month.map_or(0, |month| i64::try_from(month.included).unwrap_or(i64::MAX))
        }
    };
    terms.answers((figures.remaining, figures.grows_s), month_left, Some(outcome), now)
}
