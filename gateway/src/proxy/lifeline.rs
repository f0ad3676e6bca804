//! What the watch outside of a request may know of it, and how it ends one that nobody else can end: a header that never
//! comes to its end, a body that drips, a total time that is over, a stream whose key was revoked. It writes no answer.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Now, mono_us};
use crate::decide::still_admitted;
use crate::filters::entitlement::KnownSubscription;
use crate::live::Live;

/// How often a request that lasts is looked at. Shorter than the five seconds within which a revoked stream must end.
const TICK: Duration = Duration::from_secs(1);
/// How often a connection that waits for a request is looked at: there may be tens of thousands of them.
const IDLE_TICK: Duration = Duration::from_secs(2);
/// The least of a body is what its rate makes in this time.
const BODY_WINDOW: Duration = Duration::from_secs(30);
/// The answer "timed out" goes first; the cut comes only where no answer can be given any more. In microseconds.
const TOTAL_GRACE_US: u64 = 1_500_000;
/// A stream reset sooner than this after its request was never meant to be read, in microseconds.
const EARLY_RESET_US: u64 = 1_000_000;
/// Requests of one connection before its resets are judged.
const RESETS_JUDGED_FROM: u32 = 500;

tokio::task_local! {
    static LIFELINE: Arc<Lifeline>;
}

/// Why the watch ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    HeaderDeadline,
    BodyTooSlow,
    TotalTime,
    Revoked,
}

/// One HTTP/2 connection's behaviour; HTTP/1 has its own for each connection too, but nobody looks at it.
#[derive(Default)]
pub(crate) struct Connection {
    requests: AtomicU32,
    early_resets: AtomicU32,
    pub(crate) streams: AtomicU32,
    abused: Notify,
}

/// Shared by the request's context and its watch.
pub(crate) struct Lifeline {
    pub(crate) connection: Arc<Connection>,
    header_seen: AtomicBool,
    body_bytes: AtomicU64,
    /// In microseconds; 0: the body is not judged.
    body_window_us: AtomicU64,
    /// In microseconds of the monotonic clock; 0: none.
    total_deadline_us: AtomicU64,
    /// Set where request or answer go on for as long as they like: a tunnel or a stream, whichever way it flows.
    stream_of: OnceLock<KnownSubscription>,
    cut: AtomicU8,
}

/// What the watch enforces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchRules {
    pub(crate) header_timeout: Duration,
    /// The same on a connection that was already in use: there it holds from the last answer on.
    pub(crate) keepalive_timeout: Duration,
    pub(crate) body_rate_bytes_min: u64,
}

impl Lifeline {
    pub(crate) fn new(connection: Arc<Connection>) -> Lifeline {
        Lifeline {
            connection,
            header_seen: AtomicBool::new(false),
            body_bytes: AtomicU64::new(0),
            body_window_us: AtomicU64::new(0),
            total_deadline_us: AtomicU64::new(0),
            stream_of: OnceLock::new(),
            cut: AtomicU8::new(0),
        }
    }

    /// The lifeline of the request that this task serves. Outside of a watch (in tests), one that nobody holds.
    pub(crate) fn of_this_task() -> Arc<Lifeline> {
        LIFELINE.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Lifeline::new(Arc::default())))
    }

    pub(crate) fn header_seen(&self) {
        self.header_seen.store(true, Ordering::Relaxed);
    }

    /// From now on the body must come at the least rate. What its upstream does not take is not read: as long as one write may
    /// last, the client may not be to blame, and so it has at least that long for the same bytes.
    pub(crate) fn body_begins(&self, upstream_write: Duration) {
        self.body_window_us.store(micros(upstream_write.max(BODY_WINDOW)), Ordering::Relaxed);
    }

    pub(crate) fn body_came(&self, bytes: usize, is_end: bool) {
        self.body_bytes.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        if is_end {
            self.body_window_us.store(0, Ordering::Relaxed);
        }
    }

    /// Zero means without end, for streams and tunnels: only their silence is judged.
    pub(crate) fn set_total(&self, began: Now, total: Duration) {
        let deadline_us = if total.is_zero() { 0 } else { began.after(total).mono_us };
        self.total_deadline_us.store(deadline_us, Ordering::Relaxed);
    }

    /// From now on the exchange lasts as long as its key and subscription hold.
    pub(crate) fn is_now_a_stream(&self, known: &KnownSubscription) {
        self.stream_of.get_or_init(|| known.clone());
    }

    pub(crate) fn cut(&self) -> Option<Cut> {
        match self.cut.load(Ordering::Relaxed) {
            1 => Some(Cut::HeaderDeadline),
            2 => Some(Cut::BodyTooSlow),
            3 => Some(Cut::TotalTime),
            4 => Some(Cut::Revoked),
            _ => None,
        }
    }

    fn set_cut(&self, cut: Cut) {
        let code = match cut {
            Cut::HeaderDeadline => 1,
            Cut::BodyTooSlow => 2,
            Cut::TotalTime => 3,
            Cut::Revoked => 4,
        };
        self.cut.store(code, Ordering::Relaxed);
    }
}

impl Connection {
    /// A new request of this connection.
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The client took a request back `after_us` microseconds after it had sent it.
    pub(crate) fn reset(&self, after_us: u64) {
        if after_us > EARLY_RESET_US {
            return;
        }
        let early = self.early_resets.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let requests = self.requests.load(Ordering::Relaxed);
        if requests >= RESETS_JUDGED_FROM && early > requests / 2 {
            self.abused.notify_one();
        }
    }

    /// Completes when more than half of its requests were reset at once: the mark of a rapid reset attack.
    pub(crate) async fn is_abused(&self) {
        self.abused.notified().await;
    }
}

impl WatchRules {
    /// No look comes later than the shortest time-out.
    fn tick(self, tick: Duration) -> Duration {
        tick.min(self.header_timeout).min(self.keepalive_timeout)
    }
}

/// When the watch of one connection (or stream) looks next. It outlives the requests of its connection: most end before it
/// is ever due, and a timer made for each of them would cost more than all looks.
pub(crate) struct Ticker(Pin<Box<tokio::time::Sleep>>);

impl Ticker {
    pub(crate) fn new(rules: WatchRules) -> Ticker {
        Ticker(Box::pin(tokio::time::sleep(rules.tick(IDLE_TICK))))
    }

    async fn due(&mut self) {
        self.0.as_mut().await;
    }

    fn again_in(&mut self, tick: Duration) {
        self.0.as_mut().reset(tokio::time::Instant::now() + tick);
    }
}

/// Serves a request under watch. `None`: it was cut, and its connection (or stream) must be dropped.
pub(crate) async fn watch<T>(
    lifeline: Arc<Lifeline>,
    rules: WatchRules,
    is_first: bool,
    ticker: &mut Ticker,
    live: &Live,
    serve: impl Future<Output = T>,
) -> Option<T> {
    let mut serve = pin!(LIFELINE.scope(lifeline.clone(), serve));
    let began_us = mono_us();
    let patience = if is_first { rules.header_timeout } else { rules.keepalive_timeout };
    let header_by_us = began_us.saturating_add(micros(patience));
    let mut body = BodyWindow::default();
    loop {
        tokio::select! {
            biased;
            served = &mut serve => return Some(served),
            () = ticker.due() => {}
        }
        let now = Now::read();
        let (cut, tick) = if lifeline.header_seen.load(Ordering::Relaxed) {
            (judge(&lifeline, &mut body, rules, live, now), TICK)
        } else {
            ((now.mono_us >= header_by_us).then_some(Cut::HeaderDeadline), IDLE_TICK)
        };
        ticker.again_in(rules.tick(tick));
        if let Some(cut) = cut {
            lifeline.set_cut(cut);
            return None;
        }
    }
}

#[derive(Default)]
struct BodyWindow {
    since_us: Option<u64>,
    bytes: u64,
}

fn judge(lifeline: &Lifeline, body: &mut BodyWindow, rules: WatchRules, live: &Live, now: Now) -> Option<Cut> {
    let deadline = lifeline.total_deadline_us.load(Ordering::Relaxed);
    if deadline > 0 && now.mono_us >= deadline.saturating_add(TOTAL_GRACE_US) {
        return Some(Cut::TotalTime);
    }
    if lifeline.stream_of.get().is_some_and(|known| still_admitted(known, &live.load(), now).is_err()) {
        return Some(Cut::Revoked);
    }
    let window_us = lifeline.body_window_us.load(Ordering::Relaxed);
    if window_us == 0 {
        body.since_us = None;
        return None;
    }
    let came = lifeline.body_bytes.load(Ordering::Relaxed);
    let since = *body.since_us.get_or_insert_with(|| {
        body.bytes = came;
        now.mono_us
    });
    if now.mono_us.saturating_sub(since) < window_us {
        return None;
    }
    let least = rules.body_rate_bytes_min.saturating_mul(BODY_WINDOW.as_secs());
    let is_too_slow = came.saturating_sub(body.bytes) < least;
    (body.since_us, body.bytes) = (Some(now.mono_us), came);
    is_too_slow.then_some(Cut::BodyTooSlow)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Snapshot;

    const RULES: WatchRules = WatchRules {
        header_timeout: Duration::from_millis(50),
        keepalive_timeout: Duration::from_secs(60),
        body_rate_bytes_min: 500,
    };

    fn now(seconds: u64) -> Now {
        Now { mono_us: seconds * 1_000_000, unix_ms: 0 }
    }

    #[tokio::test]
    async fn a_header_that_never_ends_is_cut_at_its_deadline() {
        let lifeline = Arc::new(Lifeline::new(Arc::default()));
        let live = Live::new(Snapshot::empty());
        let mut ticker = Ticker::new(RULES);
        let served = watch(lifeline.clone(), RULES, true, &mut ticker, &live, std::future::pending::<()>()).await;
        assert_eq!((served, lifeline.cut()), (None, Some(Cut::HeaderDeadline)));
    }

    #[tokio::test]
    async fn the_request_finds_its_lifeline_and_its_answer_comes_through() {
        let lifeline = Arc::new(Lifeline::new(Arc::default()));
        let live = Live::new(Snapshot::empty());
        let serve = async { Arc::ptr_eq(&Lifeline::of_this_task(), &lifeline) };
        let mut ticker = Ticker::new(RULES);
        assert_eq!(watch(lifeline.clone(), RULES, true, &mut ticker, &live, serve).await, Some(true));
    }

    #[test]
    fn a_dripping_body_is_cut_and_a_steady_one_is_not() {
        let live = Live::new(Snapshot::empty());
        for (bytes_per_second, expected) in [(499, Some(Cut::BodyTooSlow)), (500, None)] {
            let lifeline = Lifeline::new(Arc::default());
            let mut body = BodyWindow::default();
            lifeline.body_begins(Duration::ZERO);
            let mut verdict = None;
            for second in 0..=30 {
                verdict = judge(&lifeline, &mut body, RULES, &live, now(second));
                lifeline.body_came(bytes_per_second, false);
            }
            assert_eq!(verdict, expected);
        }
    }

    #[test]
    fn a_client_is_not_cut_for_as_long_as_its_upstream_may_let_a_write_wait() {
        let live = Live::new(Snapshot::empty());
        let lifeline = Lifeline::new(Arc::default());
        let mut body = BodyWindow::default();
        lifeline.body_begins(Duration::from_secs(60));
        let verdicts: Vec<_> = (0..=60).map(|second| judge(&lifeline, &mut body, RULES, &live, now(second))).collect();
        assert!(verdicts[..60].iter().all(Option::is_none));
        assert_eq!(verdicts[60], Some(Cut::BodyTooSlow));
    }

    #[test]
    fn a_body_that_has_come_is_not_judged_any_more() {
        let live = Live::new(Snapshot::empty());
        let lifeline = Lifeline::new(Arc::default());
        let mut body = BodyWindow::default();
        lifeline.body_begins(Duration::ZERO);
        lifeline.body_came(1, true);
        assert!((0..100).all(|second| judge(&lifeline, &mut body, RULES, &live, now(second)).is_none()));
    }

    #[test]
    fn the_total_time_is_cut_only_after_its_answer_had_its_chance() {
        let live = Live::new(Snapshot::empty());
        let lifeline = Lifeline::new(Arc::default());
        lifeline.set_total(now(0), Duration::from_secs(2));
        assert_eq!(judge(&lifeline, &mut BodyWindow::default(), RULES, &live, now(3)), None);
        assert_eq!(judge(&lifeline, &mut BodyWindow::default(), RULES, &live, now(4)), Some(Cut::TotalTime));
    }

    #[tokio::test]
    async fn a_connection_that_resets_most_of_its_requests_at_once_is_abused() {
        let connection = Connection::default();
        for _ in 0..RESETS_JUDGED_FROM {
            connection.request();
            connection.reset(EARLY_RESET_US + 1);
        }
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, connection.is_abused()).await.is_err(), "late resets are a client's right");
        for _ in 0..=RESETS_JUDGED_FROM {
            connection.request();
            connection.reset(10);
        }
        assert!(tokio::time::timeout(soon, connection.is_abused()).await.is_ok());
    }
}
