//! How many live connections there may be: of one user, and of this process. A seat is given back when it is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

/// Live connections of one user: tabs of a browser, and a few programs.
const CONNECTIONS_PER_USER_MAX: usize = 8;
/// Live connections of this process.
const CONNECTIONS_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSeat {
    #[error("you hold {CONNECTIONS_PER_USER_MAX} live connections already: close one of them")]
    User,
    #[error("this control plane holds {CONNECTIONS_MAX} live connections already: try again")]
    Everybody,
}

#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<Taken>,
    /// Everybody who holds a seat, for a stop that lets them say farewell.
    held: TaskTracker,
}

#[derive(Default)]
struct Taken {
    by_user: HashMap<Uuid, usize>,
    all: usize,
}

/// One connection's place.
pub struct Seat {
    seats: Arc<Seats>,
    user: Uuid,
    gauge: IntGauge,
    _held: TaskTrackerToken,
}

impl Seats {
    pub(super) fn take(seats: &Arc<Seats>, user: Uuid, gauge: IntGauge) -> Result<Seat, NoSeat> {
        let mut taken = seats.lock();
        if taken.all >= CONNECTIONS_MAX {
            return Err(NoSeat::Everybody);
        }
        let own = taken.by_user.entry(user).or_default();
        if *own >= CONNECTIONS_PER_USER_MAX {
            return Err(NoSeat::User);
        }
        *own += 1;
        taken.all += 1;
        gauge.inc();
        Ok(Seat { seats: Arc::clone(seats), user, gauge, _held: seats.held.token() })
    }

    /// Ends when nobody holds a seat.
    pub(super) async fn all_given_back(&self) {
        self.held.close();
        self.held.wait().await;
    }

    /// A panic of another holder leaves numbers that are still numbers.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_user.get_mut(&self.user) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_user.remove(&self.user);
            }
        }
        self.gauge.dec();
    }
}
