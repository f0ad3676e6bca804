//! The time of one request, read once and handed on. Limits are judged by the monotonic part, expiry and events by the wall
//! clock. Refuses to be asked twice: whoever decides takes a `Now`, so that tests can bring their own.

mod backoff;

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

pub use self::backoff::Backoff;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds since the machine started; never goes back.
    pub mono_us: u64,
    /// Unix time in milliseconds, as the wall clock has it.
    pub unix_ms: i64,
}

impl Now {
    pub fn read() -> Now {
        Now { mono_us: mono_us(), unix_ms: unix_ms() }
    }

    /// The same moment later on both clocks.
    pub fn after(self, time: Duration) -> Now {
        Now {
            mono_us: self.mono_us.saturating_add(clamp_u64(time.as_micros())),
            unix_ms: self.unix_ms.saturating_add(clamp_i64(time.as_millis())),
        }
    }
}

/// The monotonic part of [`Now`] alone, for who measures a time and decides nothing.
pub fn mono_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(micros(now)).unwrap_or(0)
}

/// Unix time in milliseconds; negative before 1970, so that a clock that is badly wrong is still a number. Of the kernel's last
/// tick, at most 10 ms ago: that costs a fifth of the exact time, and nothing is judged by less.
pub fn unix_ms() -> i64 {
    micros(clock_gettime(ClockId::RealtimeCoarse)).div_euclid(1_000)
}

fn micros(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
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
