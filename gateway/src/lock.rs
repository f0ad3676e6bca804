//! How a lock is taken that outlives a thread that panicked: whoever holds one leaves a state that is true at every step. Refuses to
//! be the way to a value of which that is not so.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
