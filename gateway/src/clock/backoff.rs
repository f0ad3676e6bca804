//! How long to wait before trying a peer again: doubling, capped, with jitter, so that a fleet does not come back as one.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, max, next: first }
    }

    /// The next wait: between half of the step and the whole of it, never more than the maximum.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.next.min(self.max);
        self.next = step.saturating_mul(2).min(self.max);
        // Without randomness there is still the back-off.
        let share = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        step.mul_f64(0.5 + share / 2.0)
    }

    /// It worked: the next failure waits the shortest time again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_begin_anew_after_success() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, max);
        for step in 0..20u32 {
            let whole = first.saturating_mul(1 << step.min(6)).min(max);
            let wait = backoff.next_wait();
            assert!(wait >= whole / 2 && wait <= whole, "step {step}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }
}
