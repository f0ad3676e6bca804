//! What a query asks, checked: whose usage, over which time, of what. Every refusal names the parameter and says the mend.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::api::usage_access::to_organization_usage;
use crate::domain::accounts::TimeZoneName;
use crate::domain::analytics::{Filter, GroupBy, STEPS_MAX, Scope, Side, StatusClass, Step, Window, WindowFault, Zone};
use crate::domain::fault::{Faults, Flaw};

/// Without a time: the last day.
const RANGE_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
/// The longest time of a chart or list.
const RANGE_MAX: SignedDuration = SignedDuration::from_hours(24 * 366 * 4);
/// Hours before this one are made in full; a batch may still be on its way to the younger ones.
const FRESH_HOURS: SignedDuration = SignedDuration::from_hours(1);

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    Json,
    Csv,
}

/// As in `5xx`.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatusClassText(pub(super) StatusClass);

impl<'de> Deserialize<'de> for StatusClassText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatusClassText, D::Error> {
        let text = String::deserialize(deserializer)?;
        let class = StatusClass::parse(&text).map(StatusClassText);
        class.ok_or_else(|| serde::de::Error::custom("invalid value, expected 1xx, 2xx, 3xx, 4xx or 5xx"))
    }
}

/// A status from 100 to 599.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status(pub(super) i16);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
        let status = i32::deserialize(deserializer)?;
        let status = i16::try_from(status).ok().filter(|status| (100..=599).contains(status)).map(Status);
        status.ok_or_else(|| serde::de::Error::custom("invalid value, expected a status from 100 to 599"))
    }
}

/// Of the organization in the address, if the caller may look at it. Errors: 404.
pub(super) async fn scope_of_organization(
    state: &AppState,
    caller: &Caller,
    organization: Uuid,
    side: Option<Side>,
) -> Result<Scope, ApiError> {
    to_organization_usage(state, caller, organization).await?;
    Ok(match side.unwrap_or(Side::Consumer) {
        Side::Publisher => Scope::Publisher(organization),
        Side::Consumer => Scope::Consumer(organization),
    })
}

/// Of everybody, for operators. Errors: 403; 422 where a side is named.
pub(super) fn scope_of_platform(caller: &Caller, side: Option<Side>) -> Result<Scope, ApiError> {
    caller.require_admin()?;
    if side.is_some() {
        let flaw = Flaw::new("is a side of an organization").mend("leave it out, or ask for an organization's usage");
        return Err(ApiError::field("/side", flaw));
    }
    Ok(Scope::Platform)
}

/// Keys are the consumer's; operators may look at those of one subscription at a time.
pub(super) fn check_keys(faults: &mut Faults, scope: Scope, filter: Filter, group: Option<GroupBy>) {
    let is_grouped = group == Some(GroupBy::Key);
    match scope {
        Scope::Consumer(_) => {}
        Scope::Publisher(_) => {
            let flaw = || Flaw::new("is the consumer's alone").mend("ask by subscription");
            faults.check("/key_id", filter.key.is_none(), flaw);
            faults.check("/group_by", !is_grouped, flaw);
        }
        Scope::Platform => {
            let is_narrow = filter.subscription.is_some();
            let flaw = || Flaw::new("goes through the keys of everybody").mend("name a subscription_id too");
            faults.check("/key_id", filter.key.is_none() || is_narrow, flaw);
            faults.check("/group_by", !is_grouped || is_narrow, flaw);
        }
    }
}

/// From when to when; what is left out is the last day.
pub(super) fn parse_range(
    faults: &mut Faults,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    now: Timestamp,
) -> Option<(Timestamp, Timestamp)> {
    let to = to.unwrap_or(now);
    let from = from.or_else(|| to.checked_sub(RANGE_DEFAULT).ok())?;
    if from >= to {
        faults.add("/from", Flaw::new("is not before `to`").mend("give an earlier time"));
        return None;
    }
    if to.duration_since(from) > RANGE_MAX {
        let days = RANGE_MAX.as_hours() / 24;
        faults.add("/from", Flaw::new(format!("is more than {days} days before `to`")).mend("ask for less"));
        return None;
    }
    Some((from, to))
}

pub(super) fn parse_zone(faults: &mut Faults, name: Option<&str>) -> Option<Zone> {
    let Some(name) = name else { return Some(Zone::utc()) };
    let known = TimeZoneName::parse(name).and_then(|name| Zone::get(name.as_str()).ok_or_else(TimeZoneName::unknown));
    faults.take("/time_zone", known)
}

/// The window in whole steps. A finer step than is kept, or than makes a chart, is refused with the step that would do.
pub(super) fn parse_window(
    faults: &mut Faults,
    state: &AppState,
    (from, to): (Timestamp, Timestamp),
    step: Option<Step>,
    zone: Zone,
    now: Timestamp,
) -> Option<Window> {
    let step = step.unwrap_or_else(|| Step::that_suits(to.duration_since(from)));
    let kept_days = state.settings.retention.usage_minute_days;
    let kept = SignedDuration::from_hours(24 * i64::from(kept_days));
    if step == Step::Minute && now.duration_since(from) > kept {
        let flaw = Flaw::new(format!("is kept for {kept_days} days")).mend("ask for the step `quarter_hour`");
        faults.add("/step", flaw);
        return None;
    }
    match Window::around(from, to, step, zone.clone()) {
        Ok(window) => Some(window),
        Err(WindowFault::TooManySteps) => {
            let flaw = Flaw::new(format!("makes more than {STEPS_MAX} points of this time"));
            faults.add("/step", flaw.mend(mend_of_step(from, to, step, &zone)));
            None
        }
        Err(fault @ (WindowFault::Empty | WindowFault::Beyond)) => {
            faults.add("/from", Flaw::new(fault.to_string()).mend("ask for another time"));
            None
        }
    }
}

/// The finest step that would do.
fn mend_of_step(from: Timestamp, to: Timestamp, step: Step, zone: &Zone) -> String {
    let mut coarser = step.next_coarser();
    while let Some(step) = coarser {
        if Window::around(from, to, step, zone.clone()).is_ok() {
            return format!("ask for the step `{}`, or for less time", step.as_str());
        }
        coarser = step.next_coarser();
    }
    "ask for less time".to_owned()
}

/// Hours from here on are read from the finer rollup.
pub(super) fn fresh_from(now: Timestamp) -> Timestamp {
    let second = now.as_second() - now.as_second().rem_euclid(3_600);
    let hour = Timestamp::from_second(second).unwrap_or(now);
    hour.checked_sub(FRESH_HOURS).unwrap_or(hour)
}
