//! Windows in whole steps, days of zones, and percentiles that know how exact they are.

use super::sums::{BUCKETS, Sums};
use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_window_holds_every_step_that_the_time_touches() {
    let window =
        Window::around(time("2026-11-22T10:07:31Z"), time("2026-11-22T10:31:00Z"), Step::QuarterHour, Zone::utc());
    let window = window.unwrap();
    assert_eq!(window.at, ["10:00", "10:15", "10:30"].map(|at| time(&format!("2026-11-22T{at}:00Z"))));
    assert_eq!(window.to, time("2026-11-22T10:45:00Z"));
}

#[test]
fn days_begin_at_the_zones_midnight_also_when_the_clock_is_put_back() {
    let zone = Zone::get("Europe/Berlin").unwrap();
    let window =
        Window::around(time("2026-10-24T12:00:00Z"), time("2026-10-26T12:00:00Z"), Step::Day, zone.clone()).unwrap();
    assert_eq!(window.at, ["23T22", "24T22", "25T23"].map(|at| time(&format!("2026-10-{at}:00:00Z"))));
    assert!(zone.has_whole_hours(window.from, window.to));
    let half = Zone::get("Asia/Kolkata").unwrap();
    assert!(!half.has_whole_hours(window.from, window.to));
}

#[test]
fn a_window_has_a_bound_and_some_time_in_it() {
    let (from, to) = (time("2026-01-01T00:00:00Z"), time("2026-02-01T00:00:00Z"));
    assert_eq!(Window::around(from, to, Step::Minute, Zone::utc()), Err(WindowFault::TooManySteps));
    assert_eq!(Window::around(to, from, Step::Day, Zone::utc()), Err(WindowFault::Empty));
    assert_eq!(Window::around(from, to, Step::Hour, Zone::utc()).unwrap().at.len(), 31 * 24);
}

#[test]
fn percentiles_lie_in_their_bucket_and_rise() {
    let mut histogram = vec![0; BUCKETS];
    // 90 between 1 and 2 ms, 9 between 16 and 32 ms, 1 beyond what is told apart.
    (histogram[3], histogram[7], histogram[19]) = (90, 9, 1);
    let sums = Sums { requests: 100, latency_us: 1_000_000, histogram, ..Sums::default() };
    let p = |of: f64| sums.latency_percentile_ms(of).unwrap();
    assert!((1.0..=2.0).contains(&p(0.5)), "{}", p(0.5));
    assert!((16.0..=32.0).contains(&p(0.95)), "{}", p(0.95));
    assert!((p(0.9) - 2.0).abs() < 0.001, "{}", p(0.9));
    assert!((p(1.0) - 65_536.0).abs() < 0.001, "{}", p(1.0));
    assert_eq!(sums.latency_mean_ms(), Some(10.0));
    assert_eq!(Sums::default().latency_percentile_ms(0.5), None);
    assert_eq!(Sums::default().error_ratio(), None);
}

#[test]
fn what_remains_of_a_whole_is_never_negative() {
    let mut whole = Sums { requests: 3, admitted: 3, histogram: vec![1, 2], ..Sums::default() };
    whole.remove(&Sums { requests: 5, admitted: 1, histogram: vec![0, 3], ..Sums::default() });
    assert_eq!((whole.requests, whole.admitted, whole.histogram.as_slice()), (0, 2, [1, 0].as_slice()));
}
