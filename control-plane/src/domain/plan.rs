//! A plan version: price, rate limit with its policy, monthly quota. Money is exact decimal; the policy always agrees
//! with the rate that is sold. Decides nothing about who may buy it.

use rust_decimal::Decimal;
use snapshot::record::REQUESTS_PER_MINUTE_MAX;

use super::fault::{Faults, Flaw};
use super::text::{Name, PLAN_DESCRIPTION_CHARS_MAX, Prose, Slug};

/// Digits after the point that the database keeps of an amount.
const MONEY_SCALE: u32 = 6;
/// Largest price, and largest sum that somebody pays at once, in units of its currency. The database keeps a hundred thousand times
/// that, so that many of them still add up to something that can be stored.
pub const MONEY_MAX: i64 = 1_000_000_000;
/// Largest monthly quota.
pub const INCLUDED_REQUESTS_MAX: u64 = 1_000_000_000_000;
pub const TRIAL_DAYS_MAX: u32 = 365;
/// A token bucket that names no burst holds this part of its rate, and at least 1.
const BURST_DIVISOR_DEFAULT: u32 = 10;
const STATUS_CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];

text_enum! {
    /// Where a plan version stands: editable, sold, or only serving those who bought it.
    PlanStatus { Draft = "draft", Active = "active", Archived = "archived" }
}

text_enum! {
    /// What happens when the monthly quota is used: refused, or sold as overage.
    QuotaMode { Hard = "hard", Soft = "soft" }
}

text_enum! {
    /// How the rate is counted.
    Algorithm { TokenBucket = "token_bucket", SlidingWindow = "sliding_window", FixedWindow = "fixed_window" }
}

text_enum! {
    /// What a gateway does while the shared counters are away.
    OnRedisDown { FairShare = "fair_share", Open = "open", Closed = "closed" }
}

/// Requests per minute that a policy can enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(i32);

/// A rate and the burst that goes with it under an algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAndBurst {
    pub requests_per_minute: RateLimit,
    pub burst_limit: RateLimit,
}

/// How a plan's rate is enforced, as a person gave it. What is absent has a default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyDraft {
    pub requests_per_minute: Option<u32>,
    pub burst_limit: Option<u32>,
    pub algorithm: Option<Algorithm>,
    pub on_redis_down: Option<OnRedisDown>,
    pub strict: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct PolicyTerms {
    pub rate: RateAndBurst,
    pub algorithm: Algorithm,
    pub on_redis_down: OnRedisDown,
    pub strict: bool,
}

/// A plan version as a person gave it.
#[derive(Clone, Debug)]
pub struct PlanDraft {
    pub slug: String,
    pub name: String,
    pub description: String,
    pub price: Decimal,
    pub currency: String,
    pub rate_limit: u32,
    pub included_requests: Option<u64>,
    pub quota_mode: QuotaMode,
    pub overage_price_per_1000: Option<Decimal>,
    pub trial_days: u32,
    pub billable_statuses: Vec<String>,
    pub policy: PolicyDraft,
}

/// A plan version that can be stored.
#[derive(Clone, Debug)]
pub struct PlanTerms {
    pub slug: Slug,
    pub name: Name,
    pub description: Prose,
    pub price: Decimal,
    pub currency: String,
    pub included_requests: Option<i64>,
    pub quota_mode: QuotaMode,
    pub overage_price_per_1000: Option<Decimal>,
    pub trial_days: i32,
    pub billable_statuses: Vec<String>,
    pub policy: PolicyTerms,
}

impl RateLimit {
    pub fn parse(value: u32) -> Result<RateLimit, Flaw> {
        let flaw = || Flaw::new(format!("a rate is 1 to {REQUESTS_PER_MINUTE_MAX} requests per minute"));
        if !(1..=REQUESTS_PER_MINUTE_MAX).contains(&value) {
            return Err(flaw());
        }
        i32::try_from(value).map(RateLimit).map_err(|_| flaw())
    }

    pub fn get(self) -> i32 {
        self.0
    }
}

impl RateAndBurst {
    /// A window counts up to its rate and knows no burst; a bucket's burst is its size.
    pub fn parse(
        per_minute: u32,
        burst: Option<u32>,
        algorithm: Algorithm,
        at: [&str; 2],
    ) -> Result<RateAndBurst, Faults> {
        let mut faults = Faults::default();
        let [rate_pointer, burst_pointer] = at;
        let requests_per_minute = faults.take(rate_pointer, RateLimit::parse(per_minute));
        let is_window = algorithm != Algorithm::TokenBucket;
        let default = if is_window { per_minute } else { (per_minute / BURST_DIVISOR_DEFAULT).max(1) };
        let burst = burst.unwrap_or(default);
        faults.check(burst_pointer, !is_window || burst == per_minute, || {
            Flaw::new("a window algorithm has no burst of its own")
                .mend("leave burst_limit out, or make it equal requests_per_minute")
        });
        let burst_limit = faults.take(burst_pointer, RateLimit::parse(burst));
        let whole = (|| Some(RateAndBurst { requests_per_minute: requests_per_minute?, burst_limit: burst_limit? }))();
        faults.finish(whole)
    }
}

impl PolicyTerms {
    fn parse(rate_limit: u32, draft: &PolicyDraft) -> Result<PolicyTerms, Faults> {
        let mut faults = Faults::default();
        let algorithm = draft.algorithm.unwrap_or(Algorithm::TokenBucket);
        faults.check(
            "/policy/requests_per_minute",
            draft.requests_per_minute.is_none_or(|rate| rate == rate_limit),
            || {
                Flaw::new("the policy enforces exactly the rate that is sold")
                    .mend("leave it out, or make it equal rate_limit")
            },
        );
        let rate =
            RateAndBurst::parse(rate_limit, draft.burst_limit, algorithm, ["/rate_limit", "/policy/burst_limit"]);
        let rate = faults.absorb(rate);
        let on_redis_down = draft.on_redis_down.unwrap_or(OnRedisDown::FairShare);
        let whole = rate.map(|rate| PolicyTerms { rate, algorithm, on_redis_down, strict: draft.strict });
        faults.finish(whole)
    }
}

impl PlanTerms {
    /// Errors: every fault, each with the field's pointer.
    pub fn parse(draft: &PlanDraft) -> Result<PlanTerms, Faults> {
        let mut faults = Faults::default();
        let slug = faults.take("/slug", Slug::parse(&draft.slug));
        let name = faults.take("/name", Name::parse(&draft.name));
        let description = faults.take("/description", Prose::parse(&draft.description, PLAN_DESCRIPTION_CHARS_MAX));
        let price = faults.take("/price", money(draft.price));
        let currency = faults.take("/currency", currency(&draft.currency));
        let included_requests = faults.take("/included_requests", draft.included_requests.map(quota).transpose());
        let overage = faults.take("/overage_price_per_1000", draft.overage_price_per_1000.map(money).transpose());
        let overage_has_quota = draft.quota_mode == QuotaMode::Soft && draft.included_requests.is_some();
        faults.check("/overage_price_per_1000", draft.overage_price_per_1000.is_none() || overage_has_quota, || {
            Flaw::new("overage is sold only above a soft quota")
                .mend("set quota_mode to 'soft' and included_requests to a number")
        });
        let trial_days = faults.take("/trial_days", trial_days(draft.trial_days));
        let billable_statuses = faults.take("/billable_statuses", status_classes(&draft.billable_statuses));
        let policy = faults.absorb(PolicyTerms::parse(draft.rate_limit, &draft.policy));
        let whole = (|| {
            Some(PlanTerms {
                slug: slug?,
                name: name?,
                description: description?,
                price: price?,
                currency: currency?,
                included_requests: included_requests?,
                quota_mode: draft.quota_mode,
                overage_price_per_1000: overage?,
                trial_days: trial_days?,
                billable_statuses: billable_statuses?,
                policy: policy?,
            })
        })();
        faults.finish(whole)
    }
}

fn money(amount: Decimal) -> Result<Decimal, Flaw> {
    let fits =
        amount >= Decimal::ZERO && amount <= Decimal::from(MONEY_MAX) && amount.normalize().scale() <= MONEY_SCALE;
    let flaw = || {
        Flaw::new("this is not an amount of money")
            .mend(format!("use a decimal such as \"19.90\": 0 to {MONEY_MAX}, at most {MONEY_SCALE} decimals"))
    };
    fits.then_some(amount).ok_or_else(flaw)
}

fn currency(code: &str) -> Result<String, Flaw> {
    let fits = code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
    fits.then(|| code.to_owned())
        .ok_or_else(|| Flaw::new("this is not a currency").mend("use an ISO 4217 code such as 'USD'"))
}

fn quota(requests: u64) -> Result<i64, Flaw> {
    let flaw =
        || Flaw::new(format!("a quota is at most {INCLUDED_REQUESTS_MAX} requests")).mend("leave it out for no quota");
    if requests > INCLUDED_REQUESTS_MAX {
        return Err(flaw());
    }
    i64::try_from(requests).map_err(|_| flaw())
}

fn trial_days(days: u32) -> Result<i32, Flaw> {
    let flaw = || Flaw::new(format!("a trial has at most {TRIAL_DAYS_MAX} days"));
    if days > TRIAL_DAYS_MAX {
        return Err(flaw());
    }
    i32::try_from(days).map_err(|_| flaw())
}

fn status_classes(classes: &[String]) -> Result<Vec<String>, Flaw> {
    if let Some(unknown) = classes.iter().find(|class| !STATUS_CLASSES.contains(&class.as_str())) {
        return Err(Flaw::new(format!("'{unknown}' is not a status class")).mend("use 1xx, 2xx, 3xx, 4xx, 5xx"));
    }
    Ok(STATUS_CLASSES
        .iter()
        .filter(|class| classes.iter().any(|given| given == *class))
        .map(|class| (*class).to_owned())
        .collect())
}
