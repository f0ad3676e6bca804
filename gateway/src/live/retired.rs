//! Where snapshots go when others took their place: a thread of their own frees them once no request holds them any more, so
//! that no request pays for gigabytes. Holds nothing that anybody still reads for longer than he does.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::Duration;

/// How often the thread looks for snapshots that nobody holds any more, while it has some.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Bounded by the requests in flight: each holds one snapshot at most.
pub(super) struct Retired<T> {
    thread: OnceLock<Option<Sender<Arc<T>>>>,
}

impl<T: Send + Sync + 'static> Retired<T> {
    pub(super) fn new() -> Retired<T> {
        Retired { thread: OnceLock::new() }
    }

    /// From here on the thread has a copy, so no other is ever the last one.
    pub(super) fn add(&self, value: Arc<T>) {
        let thread = self.thread.get_or_init(start);
        // Without a thread it is freed here, or by the last request that holds it.
        let _freed_here = thread.as_ref().map(|thread| thread.send(value));
    }
}

/// The thread ends with what feeds it.
fn start<T: Send + Sync + 'static>() -> Option<Sender<Arc<T>>> {
    let (sender, receiver) = channel();
    Builder::new().name("free-snapshots".to_owned()).spawn(move || free(&receiver)).ok().map(|_| sender)
}

fn free<T>(retired: &Receiver<Arc<T>>) {
    let mut held: Vec<Arc<T>> = Vec::new();
    loop {
        let next = if held.is_empty() {
            retired.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            retired.recv_timeout(LOOK_INTERVAL)
        };
        match next {
            Ok(value) => held.push(value),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        held.extend(retired.try_iter());
        // Only this one is left, and nobody can make another of it.
        held.retain(|value| Arc::strong_count(value) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current, sleep};
    use std::time::Instant;

    use super::*;

    struct TellsItsEnd(Sender<ThreadId>);

    impl Drop for TellsItsEnd {
        fn drop(&mut self) {
            self.0.send(current().id()).unwrap();
        }
    }

    #[test]
    fn what_a_request_holds_last_is_freed_by_another_thread_and_only_then() {
        let (sender, ended) = channel();
        let retired = Retired::new();
        let value = Arc::new(TellsItsEnd(sender));
        let request = Arc::clone(&value);
        retired.add(value);
        let began = Instant::now();
        while began.elapsed() < 3 * LOOK_INTERVAL {
            assert!(ended.try_recv().is_err(), "a request holds it");
            sleep(Duration::from_millis(5));
        }
        drop(request);
        let by = ended.recv_timeout(Duration::from_secs(20)).expect("it is freed in time");
        assert_ne!(by, current().id());
    }
}
