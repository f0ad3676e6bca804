//! Billing periods: calendar months in the publisher's time zone. A period's id is YYYYMM. Reads no clock itself.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};

/// One month of a subscription, from its first instant to the next month's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    /// As in 202611.
    pub id: i32,
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
}

#[derive(Debug, thiserror::Error)]
#[error("no billing period around {at} in the time zone '{zone}': {reason}")]
pub struct PeriodFault {
    at: Timestamp,
    zone: String,
    reason: String,
}

impl BillingPeriod {
    /// The calendar month that holds `at` in `zone`. Errors: a zone that this machine does not know.
    pub fn around(at: Timestamp, zone: &str) -> Result<BillingPeriod, PeriodFault> {
        let fault = |error: jiff::Error| PeriodFault { at, zone: zone.to_owned(), reason: error.to_string() };
        let time_zone = TimeZone::get(zone).map_err(fault)?;
        let first = at.to_zoned(time_zone.clone()).date().first_of_month();
        let next = first.checked_add(1.month()).map_err(fault)?;
        let midnight = |date: Date| date.to_zoned(time_zone.clone()).map(|zoned| zoned.timestamp()).map_err(fault);
        Ok(BillingPeriod {
            id: i32::from(first.year()) * 100 + i32::from(first.month()),
            starts_at: midnight(first)?,
            ends_at: midnight(next)?,
        })
    }
}
