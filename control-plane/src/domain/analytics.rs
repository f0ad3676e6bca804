//! What is asked of usage: whose, over which time, in which steps, by what; and what its sums say. Reads no clock and no
//! table.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use uuid::Uuid;

pub mod sums;

#[cfg(test)]
mod tests;

/// Points of one series.
pub const STEPS_MAX: usize = 1_500;

text_enum! {
    /// On which side of a subscription the organization is looked at.
    Side {
        Publisher = "publisher",
        Consumer = "consumer",
    }
}

text_enum! {
    /// The time from one point to the next.
    Step {
        Minute = "minute",
        QuarterHour = "quarter_hour",
        Hour = "hour",
        Day = "day",
    }
}

text_enum! {
    /// What a series or a row of a list stands for.
    GroupBy {
        Product = "product",
        Endpoint = "endpoint",
        Plan = "plan",
        Subscription = "subscription",
        Key = "key",
        StatusClass = "status_class",
    }
}

text_enum! {
    /// By what a list is ordered, largest first.
    TopBy {
        Requests = "requests",
        Errors = "errors",
        RateLimited = "rate_limited",
        Latency = "latency",
        Bytes = "bytes",
    }
}

/// The first digit of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusClass(pub i16);

/// Whose usage is looked at; every statement is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Platform,
    /// What was called of its products.
    Publisher(Uuid),
    /// What it called.
    Consumer(Uuid),
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub product: Option<Uuid>,
    pub endpoint: Option<Uuid>,
    pub plan: Option<Uuid>,
    pub subscription: Option<Uuid>,
    pub key: Option<Uuid>,
    pub status_class: Option<StatusClass>,
}

/// A time in whole steps: `at` are the beginnings, `to` the end of the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: Timestamp,
    pub to: Timestamp,
    pub step: Step,
    pub zone: Zone,
    pub at: Vec<Timestamp>,
}

/// Where days begin, and whether each does so on a whole hour of UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    rules: TimeZone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowFault {
    #[error("there is no time between them")]
    Empty,
    #[error("it makes more than {STEPS_MAX} points")]
    TooManySteps,
    #[error("it is beyond what a calendar can say")]
    Beyond,
}

impl StatusClass {
    pub fn parse(text: &str) -> Option<StatusClass> {
        let class = text.strip_suffix("xx")?.parse().ok()?;
        (1..=5).contains(&class).then_some(StatusClass(class))
    }
}

impl Step {
    /// Of a step that is always as long.
    pub fn fixed(self) -> Option<SignedDuration> {
        match self {
            Step::Minute => Some(SignedDuration::from_mins(1)),
            Step::QuarterHour => Some(SignedDuration::from_mins(15)),
            Step::Hour => Some(SignedDuration::from_hours(1)),
            Step::Day => None,
        }
    }

    /// The finest that suits a chart of this time.
    pub fn that_suits(range: SignedDuration) -> Step {
        match range.as_hours() {
            ..=6 => Step::Minute,
            7..=96 => Step::QuarterHour,
            97..=800 => Step::Hour,
            _ => Step::Day,
        }
    }

    pub fn next_coarser(self) -> Option<Step> {
        match self {
            Step::Minute => Some(Step::QuarterHour),
            Step::QuarterHour => Some(Step::Hour),
            Step::Hour => Some(Step::Day),
            Step::Day => None,
        }
    }
}

impl Zone {
    pub fn utc() -> Zone {
        Zone { name: "UTC".to_owned(), rules: TimeZone::UTC }
    }

    /// `None`: this machine knows no such zone.
    pub fn get(name: &str) -> Option<Zone> {
        Some(Zone { name: name.to_owned(), rules: TimeZone::get(name).ok()? })
    }

    pub fn is_utc(&self) -> bool {
        self.name == "UTC"
    }

    /// Whether every midnight in the time is a whole hour of UTC, so that days can be added up from hours.
    pub fn has_whole_hours(&self, from: Timestamp, to: Timestamp) -> bool {
        let is_whole = |seconds: i32| seconds % 3_600 == 0;
        let mut changes = self.rules.following(from).take_while(|change| change.timestamp() <= to);
        is_whole(self.rules.to_offset(from).seconds()) && changes.all(|change| is_whole(change.offset().seconds()))
    }

    fn midnight_of(&self, at: Timestamp, days_later: i32) -> Result<Timestamp, WindowFault> {
        let day = at.to_zoned(self.rules.clone()).date();
        let day = day.checked_add(days_later.days()).map_err(|_| WindowFault::Beyond)?;
        day.to_zoned(self.rules.clone()).map(|zoned| zoned.timestamp()).map_err(|_| WindowFault::Beyond)
    }
}

impl Window {
    /// The steps that touch the time from `from` to `to`.
    pub fn around(from: Timestamp, to: Timestamp, step: Step, zone: Zone) -> Result<Window, WindowFault> {
        if from >= to {
            return Err(WindowFault::Empty);
        }
        let (mut at, mut next) = (Vec::new(), begin(from, step, &zone)?);
        while next < to {
            if at.len() >= STEPS_MAX {
                return Err(WindowFault::TooManySteps);
            }
            at.push(next);
            next = after(next, step, &zone)?;
        }
        let from = at.first().copied().ok_or(WindowFault::Empty)?;
        Ok(Window { from, to: next, step, zone, at })
    }
}

fn begin(at: Timestamp, step: Step, zone: &Zone) -> Result<Timestamp, WindowFault> {
    let Some(fixed) = step.fixed() else { return zone.midnight_of(at, 0) };
    let second = at.as_second();
    Timestamp::from_second(second - second.rem_euclid(fixed.as_secs())).map_err(|_| WindowFault::Beyond)
}

fn after(at: Timestamp, step: Step, zone: &Zone) -> Result<Timestamp, WindowFault> {
    match step.fixed() {
        Some(fixed) => at.checked_add(fixed).map_err(|_| WindowFault::Beyond),
        None => zone.midnight_of(at, 1),
    }
}
