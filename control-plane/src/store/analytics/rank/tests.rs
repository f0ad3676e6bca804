//! Days are cut into whole weeks and what is left of them at both ends.

use jiff::civil::date;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::domain::analytics::{Step, Zone};

fn weeks(from: &str, to: &str, step: Step) -> [Date; 4] {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let window = Window::around(at(from), at(to), step, Zone::utc()).unwrap();
    let Weeks { first_day, first_week, end_week, end_day } = Weeks::of(&window);
    [first_day, first_week, end_week, end_day]
}

#[test]
fn a_month_is_its_whole_weeks_and_the_days_at_its_ends() {
    let found = weeks("2026-10-23T00:00:00Z", "2026-11-21T10:00:00Z", Step::Day);
    assert_eq!(found, [date(2026, 10, 23), date(2026, 10, 26), date(2026, 11, 16), date(2026, 11, 22)]);
    // From a Monday to a Monday there is nothing left.
    let found = weeks("2026-11-02T00:00:00Z", "2026-11-16T00:00:00Z", Step::Day);
    assert_eq!(found, [date(2026, 11, 2), date(2026, 11, 2), date(2026, 11, 16), date(2026, 11, 16)]);
}

#[test]
fn a_time_without_a_whole_week_is_days_alone_also_where_it_ends_within_one() {
    let found = weeks("2026-11-17T00:00:00Z", "2026-11-22T10:30:00Z", Step::Hour);
    assert_eq!(found, [date(2026, 11, 17), date(2026, 11, 23), date(2026, 11, 23), date(2026, 11, 23)]);
    let found = weeks("2026-11-18T05:00:00Z", "2026-11-19T00:00:00Z", Step::Hour);
    assert_eq!(found, [date(2026, 11, 18), date(2026, 11, 19), date(2026, 11, 19), date(2026, 11, 19)]);
}

#[test]
fn every_day_of_a_window_is_in_exactly_one_part() {
    let start = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap();
    for first in 0..14 {
        for length in 1..40 {
            let from = start + SignedDuration::from_hours(24 * first);
            let to = from + SignedDuration::from_hours(24 * length);
            let Weeks { first_day, first_week, end_week, end_day } =
                Weeks::of(&Window::around(from, to, Step::Day, Zone::utc()).unwrap());
            assert!(first_day <= first_week && first_week <= end_week && end_week <= end_day, "{first} {length}");
            let days = |from: Date, to: Date| from.until(to).unwrap().get_days();
            assert_eq!(i64::from(days(first_day, end_day)), length);
            assert_eq!(days(first_week, end_week) % 7, 0);
            assert!(days(first_day, first_week) < 7 || first_week == end_day);
        }
    }
}
