//! The time of one request, read once and handed on. Limits are judged by the monotonic part, which goes on while the machine
//! sleeps, for leases do not wait; expiry and events by the wall clock. Refuses to be asked twice: whoever decides takes a `Now`, so that tests can bring their own.

mod backoff;

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

pub use self::backoff::Backoff;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds since the machine started, those in which it was suspended among them; never goes back.
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
    // As cheap as CLOCK_MONOTONIC: the kernel serves both without a system call.
    let now = clock_gettime(ClockId::Boottime);
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

    /// Run by the test below on a machine that has slept.
    #[test]
    #[ignore = "prints what another test reads"]
    fn tell_the_time() {
        println!("mono_us={}", mono_us());
    }

    /// A time namespace tells a process that the machine was suspended for a day.
    #[test]
    fn time_passes_while_the_machine_sleeps() {
        const ASLEEP: Duration = Duration::from_secs(86_400);
        let asleep = |program: &std::path::Path, arguments: &[&str]| {
            let day = ASLEEP.as_secs().to_string();
            let told = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--time", "--boottime", &day, "--fork"])
                .arg(program)
                .args(arguments)
                .output();
            told.ok().filter(|told| told.status.success()).map(|told| String::from_utf8(told.stdout).unwrap())
        };
        if asleep(std::path::Path::new("true"), &[]).is_none() {
            eprintln!("not tried: no time namespaces here");
            return;
        }
        let before = Now::read().after(ASLEEP).mono_us;
        let tell = ["--ignored", "--exact", "--nocapture", "clock::tests::tell_the_time"];
        let told = asleep(&std::env::current_exe().unwrap(), &tell).unwrap();
        let told = told.split("mono_us=").nth(1).unwrap().lines().next().unwrap();
        assert!(told.parse::<u64>().unwrap() >= before, "{told}");
    }

    #[test]
    fn later_moves_both_clocks() {
        let now = Now { mono_us: 5, unix_ms: 7 };
        assert_eq!(now.after(Duration::from_millis(2)), Now { mono_us: 2_005, unix_ms: 9 });
    }
}
