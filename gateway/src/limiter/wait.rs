//! The wait for an answer under way: woken by it, bounded, counted. Refuses to wait longer than a client would notice.

use std::sync::Arc;
use std::time::Duration;

use limits::terms::WAIT_MAX_NS;
use tokio::time::{Instant, timeout_at};

use super::arena::Seat;
use super::lane::Lane;
use super::terms::Terms;
use super::{Checked, LimitAnswers, LimitRefusal};
use crate::clock::Now;
use crate::metrics::Metrics;
use crate::metrics::labels::WaitResult;

/// The longest wait of one request.
const WAIT_MAX: Duration = Duration::from_nanos(WAIT_MAX_NS);

/// A request that only Redis can decide.
#[derive(Debug)]
pub struct Pending {
    pub(super) seat: Seat,
    pub(super) lane: Arc<Lane>,
    pub(super) terms: Terms,
}

impl Pending {
    /// Waits for Redis' word, 5 ms at most, and decides. Without it the request is refused.
    pub async fn settle(&self, metrics: &Metrics) -> Result<LimitAnswers, LimitRefusal> {
        let began = Instant::now();
        let waiting = Waiting::begin(self);
        let decided = self.decide(began + WAIT_MAX).await;
        drop(waiting);
        let result = if decided.is_some() { WaitResult::Answered } else { WaitResult::TimedOut };
        metrics.limits.waited(result, began.elapsed());
        decided.unwrap_or_else(|| Err(self.seat.unanswered(&self.terms, Now::read())))
    }

    async fn decide(&self, deadline: Instant) -> Option<Result<LimitAnswers, LimitRefusal>> {
        loop {
            // Asked for before the look, so that no answer is missed in between.
            let answered = self.lane.answered();
            // None hardly ever happens: an entry on which somebody waits is not given up before its answer, nor soon after it.
            match self.seat.check_slowly(&self.lane, &self.terms, Now::read())? {
                Checked::Admitted(answers) => return Some(Ok(answers)),
                Checked::Refused(refusal) => return Some(Err(refusal)),
                Checked::Unknown(..) => {}
            }
            timeout_at(deadline, answered).await.ok()?;
        }
    }
}

/// Counts among those who wait until it is dropped, for a client may leave meanwhile.
struct Waiting<'a>(&'a Pending);

impl Waiting<'_> {
    fn begin(pending: &Pending) -> Waiting<'_> {
        pending.seat.begin_waiting();
        Waiting(pending)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.seat.end_waiting(&self.0.lane, self.0.terms.key);
    }
}
