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
        Ok(BillingPeriod { id: id_of(first), starts_at: midnight(first)?, ends_at: midnight(next)? })
    }

    /// The month after this one. It begins where this one ends, whatever became of the publisher's zone meanwhile, and ends with
    /// its calendar month in `zone`: months have no gap and no overlap. Errors: as `around`.
    pub fn following(&self, zone: &str) -> Result<BillingPeriod, PeriodFault> {
        let fault =
            |error: jiff::Error| PeriodFault { at: self.ends_at, zone: zone.to_owned(), reason: error.to_string() };
        let time_zone = TimeZone::get(zone).map_err(fault)?;
        let first = self.month().checked_add(1.month()).map_err(fault)?;
        let next = first.checked_add(1.month()).map_err(fault)?;
        let ends_at = next.to_zoned(time_zone).map_err(fault)?.timestamp();
        Ok(BillingPeriod { id: id_of(first), starts_at: self.ends_at, ends_at })
    }

    /// The first day of the month that the id names.
    pub fn month(&self) -> Date {
        let (year, month) = (self.id / 100, self.id % 100);
        let narrow = i16::try_from(year).ok().zip(i8::try_from(month).ok());
        narrow.and_then(|(year, month)| Date::new(year, month, 1).ok()).unwrap_or(Date::ZERO)
    }
}

/// The id of the month that `first` is in.
pub fn id_of(first: Date) -> i32 {
    i32::from(first.year()) * 100 + i32::from(first.month())
}
