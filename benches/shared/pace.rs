//! Requests at a pace, for programs that are counted under callgrind: its slowness does not matter as long as the pace is kept.

use std::time::{Duration, Instant};

/// How often requests come in a bunch.
const STEP: Duration = Duration::from_millis(1);

/// Makes `per_second` requests a second for so many seconds; how many that were.
pub(crate) fn paced(per_second: u64, seconds: u64, mut request: impl FnMut()) -> u64 {
    let (began, all, mut made) = (Instant::now(), per_second * seconds, 0);
    while made < all {
        let due = began.elapsed().as_micros() * u128::from(per_second) / 1_000_000;
        while made < all && u128::from(made) < due {
            request();
            made += 1;
        }
        std::thread::sleep(STEP);
    }
    made
}
