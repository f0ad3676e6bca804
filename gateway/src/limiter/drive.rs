//! The tasks behind the limiter: one for each conversation with Redis, which says what the slots have to say and hands the answers
//! out. Sleeps as long as nothing is due; a slot's call waits for company, a waiting request does not. Refuses to decide anything.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use limits::ledger::Reach;
use limits::link::TIMEOUT_NS;
use limits::script;
use limits::terms::BATCH_GAP_NS;
use limits::wire::{QuotaLeft, Reply, Request};
use limits_redis::LimitsRedis;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Limiter;
use super::fleet::Fleet;
use super::lane::{Lane, State};
use super::redis_link::RedisLink;
use super::terms::mono_ns;
use crate::clock::Now;
use crate::metrics::Metrics;

/// How long calls gather before they are looked at; what a request waits for is not kept back.
const GATHER: Duration = Duration::from_nanos(BATCH_GAP_NS);
/// An answer that takes longer counts as none.
const ANSWER_TIMEOUT: Duration = Duration::from_nanos(TIMEOUT_NS);
/// How long the first attempt to connect is waited for. With three answers that time out after it still within the second for
/// which the gate stays closed.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(800);
/// How often idle slots are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// Slots that are looked at in one step, and the time between the steps of a lane with more: a million within a minute.
const SWEEP_ENTRIES_MAX: usize = 4_096;
const SWEEP_STEP: Duration = Duration::from_millis(250);
/// How long a process that ends gives back what it holds, for all conversations together. What is not told by then counts as that
/// of a process that was killed.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// What has to run beside the requests.
pub struct Driver {
    work: Work,
    metrics: Arc<Metrics>,
}

enum Work {
    Sweep(Arc<Limiter>),
    Talk { fleet: Arc<Fleet>, lanes: mpsc::UnboundedReceiver<Arc<Lane>>, redis: LimitsRedis },
}

/// What one lane's task works with.
struct Talk {
    lane: Arc<Lane>,
    fleet: Arc<Fleet>,
    redis: Arc<RedisLink>,
    metrics: Arc<Metrics>,
    /// As it was noted last.
    reach: Reach,
    sweep_at: Instant,
}

impl Driver {
    pub(super) fn sweeping(limiter: Arc<Limiter>, metrics: Arc<Metrics>) -> Driver {
        Driver { work: Work::Sweep(limiter), metrics }
    }

    pub(super) fn talking(
        fleet: Arc<Fleet>,
        lanes: mpsc::UnboundedReceiver<Arc<Lane>>,
        redis: LimitsRedis,
        metrics: Arc<Metrics>,
    ) -> Driver {
        Driver { work: Work::Talk { fleet, lanes, redis }, metrics }
    }

    /// Runs until told to stop.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        match self.work {
            Work::Sweep(limiter) => until(stop, sweep_alone(&limiter, &self.metrics)).await,
            Work::Talk { fleet, lanes, redis } => talk(fleet, lanes, redis, self.metrics, stop).await,
        }
    }
}

async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = work => {}
    }
}

async fn sweep_alone(limiter: &Limiter, metrics: &Metrics) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        limiter.sweep(Now::read());
        metrics.limits.slots.set(i64::try_from(limiter.slots()).unwrap_or(i64::MAX));
    }
}

async fn talk(
    fleet: Arc<Fleet>,
    mut lanes: mpsc::UnboundedReceiver<Arc<Lane>>,
    redis: LimitsRedis,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) {
    let redis = Arc::new(RedisLink::new(redis, Arc::clone(&metrics)));
    // Ends with this function, however that ends.
    let mut connecting = JoinSet::new();
    let connected = Arc::clone(&redis);
    connecting.spawn(async move { connected.keep_connected().await });
    let mut tasks = JoinSet::new();
    let each = async {
        while let Some(lane) = lanes.recv().await {
            let (fleet, redis, metrics) = (Arc::clone(&fleet), Arc::clone(&redis), Arc::clone(&metrics));
            let sweep_at = Instant::now() + SWEEP_INTERVAL;
            tasks.spawn(Talk { lane, fleet, redis, metrics, reach: Reach::Up, sweep_at }.run(stop.clone()));
        }
    };
    until(stop.clone(), each).await;
    let farewell = async { while tasks.join_next().await.is_some() {} };
    let _late = timeout(FAREWELL_MAX, farewell).await;
}

impl Talk {
    /// Until told to stop; then gives back what is held. A message under way is waited for: whether it was carried out matters.
    async fn run(mut self, stop: watch::Receiver<bool>) {
        until(stop.clone(), self.redis.wait_tried(CONNECT_WAIT_MAX)).await;
        while !*stop.borrow() {
            let (request, wake_at_ns) = self.gather();
            match request {
                Some(request) => self.exchange(&request).await,
                None => until(stop.clone(), self.rest(wake_at_ns)).await,
            }
        }
        self.take_leave().await;
    }

    /// Whoever runs it sets the time. Nothing can be told to a Redis that is down.
    async fn take_leave(&mut self) {
        self.lane.lock().syncer.leave();
        while !self.is_down() {
            let (request, wake_at_ns) = self.gather();
            match request {
                Some(request) => self.exchange(&request).await,
                None if self.lane.lock().syncer.is_at_rest() => return,
                None => sleep_until(self.due(wake_at_ns)).await,
            }
        }
    }

    /// What there is to say, and when to look again though nobody calls.
    fn gather(&mut self) -> (Option<Request>, Option<u64>) {
        let lane = Arc::clone(&self.lane);
        let now = Now::read();
        let mut state = lane.lock();
        lane.take_calls(&mut state);
        if Instant::now() >= self.sweep_at {
            self.sweep(&mut state, now);
        }
        let request = state.syncer.poll(mono_ns(now));
        self.note_reach(state.syncer.reach());
        (request, state.syncer.wake_at_ns())
    }

    async fn exchange(&mut self, request: &Request) {
        let asks = u64::try_from(request.asks.len()).unwrap_or(u64::MAX);
        self.metrics.limits.redis_batches_total.inc();
        self.metrics.limits.redis_operations_total.inc_by(asks);
        let call = script::exchange(self.redis.prefix(), self.lane.keys, request);
        let began = Instant::now();
        let mut line = self.redis.line();
        let reply = match &mut line {
            Ok(line) => timeout(ANSWER_TIMEOUT, self.redis.call(line, script::EXCHANGE, &call)).await.ok(),
            Err(_) => None,
        };
        let Some(reply) = reply.and_then(Result::ok).and_then(|bytes| script::read_reply(&bytes).ok()) else {
            self.metrics.limits.redis_failures_total.inc();
            if let Ok(line) = line
                && self.is_down()
            {
                // A connection that answers nothing may be dead without knowing.
                self.redis.doubt(line.number, self.lane.keys);
            }
            return;
        };
        self.metrics.limits.redis_seconds.observe(began.elapsed().as_secs_f64());
        self.hear(request, &reply);
        self.tell_unseeded(request, &reply).await;
    }

    fn hear(&mut self, request: &Request, reply: &Reply) {
        let lane = Arc::clone(&self.lane);
        let mut state = lane.lock();
        state.syncer.hear(reply, mono_ns(Now::read()));
        for ask in request.asks.iter().filter(|ask| ask.quota.is_some()) {
            self.fleet.tell_month(&state, ask.key);
        }
        self.metrics.limits.overshot(&state.syncer.take_overshoots());
        self.note_reach(state.syncer.reach());
        drop(state);
        lane.tell_answered();
    }

    fn note_reach(&mut self, reach: Reach) {
        let before = std::mem::replace(&mut self.reach, reach);
        if std::mem::discriminant(&before) == std::mem::discriminant(&reach) {
            return;
        }
        let is_down = |reach: &Reach| matches!(reach, Reach::Down { .. });
        match (is_down(&before), is_down(&reach)) {
            (false, true) => {
                self.metrics.limits.lanes_down.inc();
                self.metrics.limits.outages_total.inc();
            }
            (true, false) => self.metrics.limits.lanes_down.dec(),
            _ => {}
        }
        // Whoever waits need not: from now on its policy decides.
        self.lane.tell_answered();
    }

    fn is_down(&self) -> bool {
        matches!(self.lane.lock().syncer.reach(), Reach::Down { .. })
    }

    /// The control plane puts lost counts back. Told with every answer that misses one, so a failure is made up for.
    async fn tell_unseeded(&self, request: &Request, reply: &Reply) {
        let is_lost = |quota| quota == Some(QuotaLeft::Unseeded);
        let asked = request.asks.iter().zip(&reply.grants).filter(|(_, grant)| is_lost(grant.quota));
        let members: Vec<String> =
            asked.filter_map(|(ask, _)| Some(format!("{}:{}", ask.key, ask.quota?.period))).collect();
        if members.is_empty() {
            return;
        }
        self.metrics.limits.unseeded_total.inc_by(u64::try_from(members.len()).unwrap_or(u64::MAX));
        let told = timeout(ANSWER_TIMEOUT, self.redis.tell_unseeded(&members)).await;
        if !matches!(told, Ok(Ok(()))) {
            self.metrics.limits.redis_failures_total.inc();
        }
    }

    /// A large lane is swept in small steps, a small one seldom.
    fn sweep(&mut self, state: &mut State, now: Now) {
        self.fleet.sweep(state, SWEEP_ENTRIES_MAX, now);
        self.metrics.limits.slots.set(i64::try_from(self.fleet.slots()).unwrap_or(i64::MAX));
        let is_large = state.seats.len() > SWEEP_ENTRIES_MAX;
        self.sweep_at = Instant::now() + if is_large { SWEEP_STEP } else { SWEEP_INTERVAL };
    }

    /// When to look again though nobody calls.
    fn due(&self, wake_at_ns: Option<u64>) -> Instant {
        let now_ns = mono_ns(Now::read());
        let due = wake_at_ns.map(|at| Instant::now() + Duration::from_nanos(at.saturating_sub(now_ns)));
        due.map_or(self.sweep_at, |due| due.min(self.sweep_at))
    }

    /// First lets calls gather, then sleeps until one comes.
    async fn rest(&self, wake_at_ns: Option<u64>) {
        let wake_at = self.due(wake_at_ns);
        tokio::select! {
            () = self.lane.hurried() => return,
            () = sleep_until(wake_at.min(Instant::now() + GATHER)) => {}
        }
        tokio::select! {
            () = self.lane.called() => {}
            () = sleep_until(wake_at) => {}
        }
    }
}
