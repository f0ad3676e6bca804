//! Bounds are hours where they must not matter, and milliseconds where they are what opens the gate.

use std::time::Instant;

use pingora_core::server::Fds;

use super::*;

const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(30);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gate that waits, the metrics that it waits for, and when it began.
struct Waiting {
    metrics: Metrics,
    gate: tokio::task::JoinHandle<()>,
    began: Instant,
}

impl Waiting {
    fn with(state: PartState, bounds: Bounds) -> Waiting {
        let metrics = Metrics::new("test").unwrap();
        metrics.status.set_feed(state);
        let began = Instant::now();
        let gate = tokio::spawn(wait_until_current(metrics.status.watch_feed(), bounds));
        Waiting { metrics, gate, began }
    }

    /// How long it took to open.
    async fn opened(self) -> Duration {
        timeout(PATIENCE, self.gate).await.expect("it opens").unwrap();
        self.began.elapsed()
    }
}

#[tokio::test]
async fn it_opens_when_the_feed_has_caught_up_and_a_connection_alone_does_not_open_it() {
    let waiting = Waiting::with(PartState::Unknown, Bounds { answer: NEVER, catch_up: NEVER });
    waiting.metrics.status.set_feed(PartState::Up);
    sleep(SOON).await;
    assert!(!waiting.gate.is_finished());
    waiting.metrics.status.set_caught_up();
    waiting.opened().await;
}

#[tokio::test]
async fn it_opens_after_its_bound_when_no_control_plane_answers() {
    for state in [PartState::Unknown, PartState::Down] {
        let took = Waiting::with(state, Bounds { answer: SOON, catch_up: NEVER }).opened().await;
        assert!(took >= SOON, "{took:?}");
    }
}

#[tokio::test]
async fn a_control_plane_that_answered_has_longer_but_not_for_ever() {
    let took = Waiting::with(PartState::Up, Bounds { answer: SOON, catch_up: SOON }).opened().await;
    assert!(took >= SOON * 2, "{took:?}");
}

#[tokio::test]
async fn it_opens_when_the_control_plane_that_answered_goes_away_past_the_first_bound() {
    let waiting = Waiting::with(PartState::Up, Bounds { answer: SOON, catch_up: NEVER });
    sleep(SOON * 2).await;
    assert!(!waiting.gate.is_finished());
    waiting.metrics.status.set_feed(PartState::Down);
    waiting.opened().await;
}

#[tokio::test]
async fn it_is_open_only_when_all_listeners_listen() {
    let metrics = Metrics::new("test").unwrap();
    let fds: ListenFds = Arc::new(Fds::new().into());
    fds.lock().add("127.0.0.1:1".to_owned(), 3);
    let addresses = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
    let bound = async {
        sleep(LISTEN_POLL_INTERVAL * 3).await;
        assert!(!metrics.status.is_open());
        fds.lock().add("127.0.0.1:2".to_owned(), 4);
    };
    tokio::join!(note_open(&metrics, Some(fds.clone()), &addresses), bound);
    assert!(metrics.status.is_open());
}

#[test]
fn with_everything_down_the_gateway_serves_within_five_seconds() {
    assert!(BOUNDS.answer + BOUNDS.catch_up < Duration::from_secs(5));
}
