//! The time of one request, read once and handed on. Limits are judged by the monotonic part, expiry and events by the wall
//! clock. Refuses to be asked twice: whoever decides takes a `Now`, so that tests can bring their own.

mod backoff;

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::backoff::Backoff;

/// Where the monotonic clock of this process begins.
static START: OnceLock<Instant> = OnceLock::new();

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds since this process first asked; never goes back.
    pub mono_us: u64,
    /// Unix time in milliseconds, as the wall clock has it.
    pub unix_ms: i64,
}

impl Now {
    pub fn read() -> Now {
        let elapsed = START.get_or_init(Instant::now).elapsed();
        Now { mono_us: clamp_u64(elapsed.as_micros()), unix_ms: unix_ms() }
    }

    /// The same moment later on both clocks.
    pub fn after(self, time: Duration) -> Now {
        Now {
            mono_us: self.mono_us.saturating_add(clamp_u64(time.as_micros())),
            unix_ms: self.unix_ms.saturating_add(clamp_i64(time.as_millis())),
        }
    }
}

/// Unix time in milliseconds; negative before 1970, so that a clock that is badly wrong is still a number.
pub fn unix_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => clamp_i64(since.as_millis()),
        Err(before) => clamp_i64(before.duration().as_millis()).saturating_neg(),
    }
}

fn clamp_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn clamp_i64(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back_and_the_wall_clock_is_plausible() {
        let mut last = Now::read();
        for _ in 0..10_000 {
            let now = Now::read();
            assert!(now.mono_us >= last.mono_us);
            last = now;
        }
        assert!(last.unix_ms > 1_700_000_000_000);
    }

    #[test]
    fn later_moves_both_clocks() {
        let now = Now { mono_us: 5, unix_ms: 7 };
        assert_eq!(now.after(Duration::from_millis(2)), Now { mono_us: 2_005, unix_ms: 9 });
    }
}
