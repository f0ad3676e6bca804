//! How a lock is taken of which a panic cannot leave a half-written value: plain values are put in, or counts that only grow. It
//! outlives the thread that panicked. Refuses to be the way to any other value.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
