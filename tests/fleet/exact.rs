//! What an exact bucket says of a log of admissions, afterwards. Each admission happened at some moment between its request's
//! sending and its answer's arrival; only what is certain is held against the fleet. Shares no code with the limiter.

use std::time::Duration;

/// One request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub sent: Duration,
    pub answered: Duration,
}

/// The largest A(t) − r·t over all intervals: admissions that lie in it for certain, less what flows in meanwhile.
pub fn peak_excess(admitted: &[Admission], per_minute: u32) -> f64 {
    let per_second = f64::from(per_minute) / 60.0;
    let mut starts: Vec<f64> = admitted.iter().map(|one| one.sent.as_secs_f64()).collect();
    starts.sort_by(f64::total_cmp);
    let mut by_end: Vec<&Admission> = admitted.iter().collect();
    by_end.sort_by_key(|one| one.answered);
    let mut tree = PrefixMax::new(starts.len());
    let (mut begun, mut peak) = (0, 0.0_f64);
    for one in by_end {
        let end = one.answered.as_secs_f64();
        // An interval that ends now may begin at any sending so far.
        while begun < starts.len() && starts[begun] <= end {
            tree.add_to_first(begun, begun + 1, per_second * starts[begun] - PrefixMax::NOTHING);
            begun += 1;
        }
        let at_or_before = starts.partition_point(|start| *start <= one.sent.as_secs_f64());
        tree.add_to_first(0, at_or_before, 1.0);
        peak = peak.max(tree.max() - per_second * end);
    }
    peak
}

/// The most in any true minute, for certain.
pub fn fullest_minute(admitted: &[Admission]) -> usize {
    let minute = Duration::from_secs(60);
    let within =
        |from: Duration| admitted.iter().filter(|one| one.sent >= from && one.answered <= from + minute).count();
    admitted.iter().map(|one| within(one.sent)).max().unwrap_or(0)
}

/// The most in any minute of the clock, for certain. `start`: when the log begins, on that clock.
pub fn fullest_clock_minute(admitted: &[Admission], start: Duration) -> usize {
    let minute = |at: Duration| (start + at).as_secs() / 60;
    let of = |one: &Admission| (minute(one.sent) == minute(one.answered)).then(|| minute(one.sent));
    let mut minutes: Vec<u64> = admitted.iter().filter_map(of).collect();
    minutes.sort_unstable();
    minutes.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or(0)
}

/// How many of these requests one exact bucket lets through.
pub fn admitted_by_one_bucket(offered: &[Duration], per_minute: u32, burst: u32) -> usize {
    let per_second = f64::from(per_minute) / 60.0;
    let (mut level, mut at, mut admitted) = (f64::from(burst), Duration::ZERO, 0);
    let mut offered = offered.to_vec();
    offered.sort_unstable();
    for moment in offered {
        level = (level + (moment - at).as_secs_f64() * per_second).min(f64::from(burst));
        at = moment;
        if level >= 1.0 {
            level -= 1.0;
            admitted += 1;
        }
    }
    admitted
}

/// Sums with the largest at hand: a tree of which each node adds to all below it.
struct PrefixMax {
    size: usize,
    add: Vec<f64>,
    max: Vec<f64>,
}

impl PrefixMax {
    /// Where no interval begins yet.
    const NOTHING: f64 = -1e7;

    fn new(count: usize) -> PrefixMax {
        let size = count.max(1).next_power_of_two();
        PrefixMax { size, add: vec![0.0; 2 * size], max: vec![PrefixMax::NOTHING; 2 * size] }
    }

    fn max(&self) -> f64 {
        self.max[1]
    }

    fn add_to_first(&mut self, from: usize, to: usize, value: f64) {
        self.descend(1, (0, self.size), (from, to), value);
    }

    fn descend(&mut self, node: usize, (low, high): (usize, usize), (from, to): (usize, usize), value: f64) {
        if to <= low || high <= from {
            return;
        }
        if from <= low && high <= to {
            self.add[node] += value;
            self.max[node] += value;
            return;
        }
        let middle = low.midpoint(high);
        self.descend(2 * node, (low, middle), (from, to), value);
        self.descend(2 * node + 1, (middle, high), (from, to), value);
        self.max[node] = self.add[node] + self.max[2 * node].max(self.max[2 * node + 1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, took_ms: u64) -> Admission {
        Admission { sent: Duration::from_millis(ms), answered: Duration::from_millis(ms + took_ms) }
    }

    /// Every interval tried.
    fn peak_by_hand(admitted: &[Admission], per_minute: u32) -> f64 {
        let per_second = f64::from(per_minute) / 60.0;
        let mut peak = 0.0_f64;
        for from in admitted.iter().map(|one| one.sent) {
            for to in admitted.iter().map(|one| one.answered).filter(|to| *to >= from) {
                let inside = admitted.iter().filter(|one| one.sent >= from && one.answered <= to).count();
                peak = peak.max(inside as f64 - per_second * (to - from).as_secs_f64());
            }
        }
        peak
    }

    #[test]
    fn the_peak_is_that_of_the_worst_interval() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..40 {
            let log: Vec<_> = (0..60).map(|_| at(next(1_000 + 40 * round), next(80))).collect();
            let (got, wanted) = (peak_excess(&log, 1_200), peak_by_hand(&log, 1_200));
            assert!((got - wanted).abs() < 1e-6, "{got} and {wanted}");
        }
    }

    #[test]
    fn a_burst_counts_whole_and_a_late_answer_is_no_proof() {
        let burst: Vec<_> = (0..50).map(|index| at(1_000 + index / 10, 1)).collect();
        assert!(peak_excess(&burst, 60) > 49.9);
        // Sent over ten seconds at the rate, answered together: that says nothing against the limiter.
        let slow: Vec<_> = (0..100).map(|index| at(index * 100, 10_000 - index * 100)).collect();
        assert!(peak_excess(&slow, 600) <= 1.0 + 1e-6);
    }

    #[test]
    fn three_limiters_that_do_not_talk_are_found_out() {
        let offered: Vec<Duration> = (0..2_000).map(|index| Duration::from_millis(index * 5)).collect();
        let mut log = Vec::new();
        for gateway in 0..3 {
            let (mut level, mut last) = (30.0_f64, Duration::ZERO);
            for moment in offered.iter().skip(gateway).step_by(3) {
                level = (level + (*moment - last).as_secs_f64() * 20.0).min(30.0);
                last = *moment;
                if level >= 1.0 {
                    level -= 1.0;
                    log.push(Admission { sent: *moment, answered: *moment + Duration::from_millis(3) });
                }
            }
        }
        let peak = peak_excess(&log, 1_200);
        assert!(peak > 3.0 * 30.0, "{peak}");
        assert!(log.len() > 2 * admitted_by_one_bucket(&offered, 1_200, 30));
    }

    #[test]
    fn minutes_are_counted_for_certain_only() {
        let log = [at(0, 1), at(59_000, 500), at(59_900, 200), at(61_000, 1)];
        assert_eq!(fullest_minute(&log), 3);
        assert_eq!(fullest_clock_minute(&log, Duration::ZERO), 2, "one of them straddles the turn");
        assert_eq!(fullest_clock_minute(&log, Duration::from_secs(30)), 3);
    }
}
