//! The last minute, so that who begins to watch sees at once what just happened. Bounded in age, rows and counts; what falls
//! out is forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::moment::{Moment, Row, Sums};
use super::topic::Scope;

/// How far back a snapshot reaches.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Rows kept of all topics together.
const ROWS_MAX: usize = 20_000;
/// Counts kept of all topics together.
const COUNTS_MAX: usize = 200_000;
/// Rows of one snapshot: the newest.
pub(super) const SNAPSHOT_ROWS_MAX: usize = 200;
/// A second, in milliseconds.
const SECOND_MS: i64 = 1_000;

#[derive(Default)]
pub(super) struct Recent {
    moments: VecDeque<(Instant, Arc<Moment>)>,
    rows: usize,
    counts: usize,
}

/// Sums by second.
pub(super) type Seconds = BTreeMap<i64, Sums>;

pub(super) fn second_of(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(SECOND_MS)
}

impl Recent {
    pub(super) fn add(&mut self, moment: Arc<Moment>, now: Instant) {
        self.rows += moment.rows.len();
        self.counts += moment.counts.len();
        self.moments.push_back((now, moment));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |at: &Instant| now.duration_since(*at) > WINDOW;
        while self.moments.front().is_some_and(|(at, _)| is_old(at) || self.rows > ROWS_MAX || self.counts > COUNTS_MAX)
        {
            if let Some((_, gone)) = self.moments.pop_front() {
                self.rows -= gone.rows.len();
                self.counts -= gone.counts.len();
            }
        }
    }

    /// The newest rows of a scope, oldest first.
    pub(super) fn rows_of(&mut self, scope: Scope, now: Instant) -> Vec<Arc<Row>> {
        self.forget(now);
        let newest_first = self.moments.iter().rev().flat_map(|(_, moment)| moment.rows.iter().rev());
        let mut rows: Vec<_> =
            newest_first.filter(|row| row.place.is_in(scope)).take(SNAPSHOT_ROWS_MAX).cloned().collect();
        rows.reverse();
        rows
    }

    pub(super) fn seconds_of(&mut self, scope: Scope, now: Instant) -> Seconds {
        self.forget(now);
        let mut seconds = Seconds::new();
        for (_, moment) in &self.moments {
            for count in moment.counts.iter().filter(|count| count.place.is_in(scope)) {
                seconds.entry(second_of(moment.at_ms)).or_default().add(&count.sums);
            }
        }
        seconds
    }
}
