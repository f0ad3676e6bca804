//! Each domain type takes what it should and names what it refuses.

use jiff::Timestamp;
use rust_decimal::Decimal;
use snapshot::record::REQUESTS_PER_MINUTE_MAX;

use super::fault::Faults;
use super::host::HostName;
use super::key::Overlap;
use super::period::BillingPeriod;
use super::plan::{Algorithm, PlanDraft, PlanTerms, PolicyDraft, QuotaMode};
use super::product::{Cors, ProductDraft, ProductTerms};
use super::subscription::{Step, SubscriptionStatus};
use super::text::{Scope, Slug};

fn plan() -> PlanDraft {
    PlanDraft {
        slug: "basic".into(),
        name: "Basic".into(),
        description: String::new(),
        price: Decimal::new(1990, 2),
        currency: "USD".into(),
        rate_limit: 60,
        included_requests: None,
        quota_mode: QuotaMode::Hard,
        overage_price_per_1000: None,
        trial_days: 0,
        billable_statuses: vec!["2xx".into()],
        policy: PolicyDraft::default(),
    }
}

fn pointers(faults: Faults) -> Vec<String> {
    faults.into_vec().into_iter().map(|fault| fault.pointer).collect()
}

#[test]
fn a_plan_without_a_policy_gets_a_bucket_of_a_tenth_and_at_least_one() {
    for (rate, burst) in [(60, 6), (9, 1), (1, 1), (600, 60)] {
        let terms = PlanTerms::parse(&PlanDraft { rate_limit: rate, ..plan() }).unwrap();
        assert_eq!(terms.policy.algorithm, Algorithm::TokenBucket);
        assert_eq!(terms.policy.rate.burst_limit.get(), burst, "rate {rate}");
    }
}

#[test]
fn a_window_forces_its_burst_to_its_rate() {
    let window = |burst_limit| PlanDraft {
        policy: PolicyDraft { algorithm: Some(Algorithm::SlidingWindow), burst_limit, ..PolicyDraft::default() },
        ..plan()
    };
    assert_eq!(PlanTerms::parse(&window(None)).unwrap().policy.rate.burst_limit.get(), 60);
    assert!(PlanTerms::parse(&window(Some(60))).is_ok());
    assert_eq!(pointers(PlanTerms::parse(&window(Some(10))).unwrap_err()), ["/policy/burst_limit"]);
}

#[test]
fn a_rate_beyond_what_is_counted_exactly_is_refused_and_not_cut() {
    assert_eq!(REQUESTS_PER_MINUTE_MAX, limits::policy::PER_MINUTE_MAX);
    assert!(PlanTerms::parse(&PlanDraft { rate_limit: REQUESTS_PER_MINUTE_MAX, ..plan() }).is_ok());
    let faults = PlanTerms::parse(&PlanDraft { rate_limit: REQUESTS_PER_MINUTE_MAX + 1, ..plan() });
    assert_eq!(pointers(faults.unwrap_err()), ["/rate_limit"]);
    let policy = PolicyDraft { burst_limit: Some(limits::policy::BURST_MAX + 1), ..PolicyDraft::default() };
    assert_eq!(pointers(PlanTerms::parse(&PlanDraft { policy, ..plan() }).unwrap_err()), ["/policy/burst_limit"]);
}

#[test]
fn prices_leave_room_for_the_sum_of_many() {
    let priced = |price: &str| PlanTerms::parse(&PlanDraft { price: price.parse().unwrap(), ..plan() });
    assert!(priced("1000000000").is_ok());
    assert_eq!(pointers(priced("1000000000.000001").unwrap_err()), ["/price"]);
    let overage = PlanDraft {
        included_requests: Some(1),
        quota_mode: QuotaMode::Soft,
        overage_price_per_1000: Some(Decimal::from(1_000_000_001)),
        ..plan()
    };
    assert_eq!(pointers(PlanTerms::parse(&overage).unwrap_err()), ["/overage_price_per_1000"]);
}

#[test]
fn every_fault_of_a_plan_is_named_at_once() {
    let faults = PlanTerms::parse(&PlanDraft {
        slug: "Bad Slug".into(),
        price: Decimal::new(-1, 0),
        currency: "usd".into(),
        rate_limit: 0,
        overage_price_per_1000: Some(Decimal::ONE),
        billable_statuses: vec!["200".into()],
        policy: PolicyDraft { requests_per_minute: Some(5), ..PolicyDraft::default() },
        ..plan()
    });
    let expected = [
        "/slug",
        "/price",
        "/currency",
        "/overage_price_per_1000",
        "/billable_statuses",
        "/policy/requests_per_minute",
        "/rate_limit",
    ];
    assert_eq!(pointers(faults.unwrap_err()), expected);
}

#[test]
fn slugs_scopes_and_hosts_refuse_what_an_address_cannot_hold() {
    for good in ["ab", "weather-api", "a1-b2"] {
        assert!(Slug::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "a", "-ab", "ab-", "a--b", "Ab", "a b", &"x".repeat(41)] {
        assert!(Slug::parse(bad).is_err(), "{bad}");
    }
    assert!(Scope::parse("orders:read").is_ok() && Scope::parse("two words").is_err() && Scope::parse("").is_err());
    assert_eq!(HostName::parse("API.Example.com").unwrap().as_str(), "api.example.com");
    for bad in ["localhost", "127.0.0.1", "https://a.b", "a..b", "-a.b", "a.b:80", "a_b.c", ""] {
        assert!(HostName::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn credentials_never_go_to_every_origin() {
    let cors = |origins: &[&str], credentials| ProductDraft {
        slug: "weather".into(),
        name: "Weather".into(),
        description: String::new(),
        category: None,
        visibility: super::product::Visibility::Public,
        approval: super::product::Approval::Auto,
        key_in_query: false,
        body_bytes_max: 0,
        cors: Some(Cors {
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            headers: vec![],
            exposed_headers: vec![],
            credentials,
            max_age_s: 60,
        }),
    };
    assert!(ProductTerms::parse(&cors(&["*"], false)).is_ok());
    assert!(ProductTerms::parse(&cors(&["https://app.example.com", "http://localhost:3000"], true)).is_ok());
    for (origins, credentials) in
        [(&["*"][..], true), (&[][..], false), (&["*", "https://a.b"][..], false), (&["https://a.b/x"][..], false)]
    {
        assert_eq!(pointers(ProductTerms::parse(&cors(origins, credentials)).unwrap_err()), ["/cors"], "{origins:?}");
    }
}

#[test]
fn a_period_is_the_calendar_month_of_the_publishers_zone() {
    let at: Timestamp = "2026-12-31T23:30:00Z".parse().unwrap();
    let utc = BillingPeriod::around(at, "UTC").unwrap();
    assert_eq!(
        (utc.id, utc.starts_at.to_string(), utc.ends_at.to_string()),
        (202612, "2026-12-01T00:00:00Z".into(), "2027-01-01T00:00:00Z".into())
    );
    let berlin = BillingPeriod::around(at, "Europe/Berlin").unwrap();
    assert_eq!((berlin.id, berlin.starts_at.to_string()), (202701, "2026-12-31T23:00:00Z".into()));
    assert!(BillingPeriod::around(at, "Nowhere/Land").is_err());
}

#[test]
fn an_old_key_never_outlives_its_own_expiry() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let day = Overlap::parse(None).unwrap();
    assert_eq!(day.end_of_old(None, now).to_string(), "2026-01-02T00:00:00Z");
    assert_eq!(day.end_of_old(Some("2026-01-01T01:00:00Z".parse().unwrap()), now).to_string(), "2026-01-01T01:00:00Z");
    assert_eq!(Overlap::parse(Some(0)).unwrap().end_of_old(None, now), now);
    assert!(Overlap::parse(Some(604_801)).is_err());
}

#[test]
fn a_cancelled_subscription_takes_no_step() {
    for step in [Step::Approve, Step::Reject, Step::Suspend, Step::Resume, Step::Cancel] {
        assert!(!step.allowed_from(SubscriptionStatus::Cancelled), "{}", step.as_str());
    }
    assert!(
        Step::Approve.allowed_from(SubscriptionStatus::Pending)
            && !Step::Suspend.allowed_from(SubscriptionStatus::Pending)
    );
}

#[test]
fn months_follow_each_other_without_gap_or_overlap_in_every_kind_of_zone() {
    let start = "2027-01-15T12:00:00Z".parse().unwrap();
    // Whole hours with and without summer time, :30, :45, both sides of the date line, and one that changes at midnight.
    for zone in [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Chatham",
        "Pacific/Kiritimati",
        "Pacific/Pago_Pago",
        "Africa/Cairo",
    ] {
        let mut month = BillingPeriod::around(start, zone).unwrap();
        for _ in 0..48 {
            let next = month.following(zone).unwrap();
            assert_eq!(next.starts_at, month.ends_at, "{zone}");
            assert_eq!(next, BillingPeriod::around(next.starts_at, zone).unwrap(), "{zone}: the same as from within");
            assert_eq!(next.starts_at.as_second() % 900, 0, "{zone} {}: begins on a quarter of an hour", next.id);
            month = next;
        }
        assert_eq!(month.id, 203_101, "{zone}");
    }
}

#[test]
fn a_leap_february_has_a_day_more_and_a_month_of_summer_time_an_hour_less() {
    let seconds = |at: &str, zone: &str| {
        let month = BillingPeriod::around(at.parse().unwrap(), zone).unwrap();
        month.ends_at.as_second() - month.starts_at.as_second()
    };
    assert_eq!(seconds("2028-02-10T00:00:00Z", "Asia/Kathmandu"), 29 * 86_400);
    assert_eq!(seconds("2027-02-10T00:00:00Z", "Asia/Kathmandu"), 28 * 86_400);
    assert_eq!(seconds("2027-03-10T00:00:00Z", "America/New_York"), 31 * 86_400 - 3_600);
    assert_eq!(seconds("2027-11-10T00:00:00Z", "America/New_York"), 30 * 86_400 + 3_600);
    assert_eq!(seconds("2027-10-10T00:00:00Z", "Australia/Lord_Howe"), 31 * 86_400 - 1_800);
}

#[test]
fn a_publisher_who_moves_to_another_zone_has_one_longer_or_shorter_month() {
    let november = BillingPeriod::around("2026-11-22T00:00:00Z".parse().unwrap(), "UTC").unwrap();
    let west = november.following("America/New_York").unwrap();
    assert_eq!((west.id, west.starts_at), (202_612, november.ends_at));
    assert_eq!(west.ends_at, "2027-01-01T05:00:00Z".parse().unwrap());
    let east = november.following("Asia/Tokyo").unwrap();
    assert_eq!((east.id, east.ends_at), (202_612, "2026-12-31T15:00:00Z".parse().unwrap()));
    assert_eq!(november.month(), jiff::civil::date(2026, 11, 1));
}
