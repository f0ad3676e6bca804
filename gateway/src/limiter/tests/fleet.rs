//! Gateways that share one real Redis: the bound across them, and what happens when Redis is away, back, or has forgotten.

use std::sync::Arc;
use std::time::Instant;

use limits::script;
use limits_redis::{LimitsRedis, RedisKind};
use servers::{PrivateRedis, Signal, send};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::metrics::Metrics;
use crate::metrics::labels::{LimitOutcome, WaitResult};

/// How long anything here may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFIX: &str = "test";

struct Redis {
    server: PrivateRedis,
    _directory: TempDir,
}

impl Redis {
    fn start() -> Redis {
        let directory = tempfile::tempdir().unwrap();
        Redis { server: PrivateRedis::start(directory.path(), false).unwrap(), _directory: directory }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        command.query_async(&mut client.get_multiplexed_async_connection().await.unwrap()).await.unwrap()
    }

    async fn seed(&self, key: u64, period: u32, used: u64) {
        let call = script::seed(PREFIX, key, period, used);
        let mut command = redis::cmd("FCALL");
        command.arg(script::SEED).arg(call.keys.len()).arg(&call.keys).arg(&call.argument);
        let _seeded: u64 = self.ask(&command).await;
    }
}

/// One gateway's limits.
struct Node {
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    _stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Ready when Redis has admitted it: then a fresh key is decided at once.
    async fn start(redis: &Redis) -> Node {
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let urls = vec![::settings::Secret::new(redis.server.url())];
        let settings = LimitsRedis { urls, kind: RedisKind::Single, ca_file: None, prefix: PREFIX.to_owned() };
        let (limiter, driver) = Limiter::start(Some(settings), metrics.clone());
        let (stop, stopped) = watch::channel(false);
        let node = Node { limiter, metrics, _stop: stop, driver: tokio::spawn(driver.run(stopped)) };
        let warm = terms(9_998, bucket(60_000, 60_000));
        eventually("Redis admits the node", || async { node.ask(&warm).await.ok() }).await;
        node
    }

    async fn ask(&self, terms: &Terms) -> Result<LimitAnswers, LimitRefusal> {
        match self.limiter.check(terms, Now::read()) {
            Checked::Admitted(answers) => Ok(answers),
            Checked::Refused(refusal) => Err(refusal),
            Checked::Unknown(pending, _) => pending.settle(&self.metrics).await,
        }
    }

    async fn admitted_of(&self, terms: &Terms, tries: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..tries {
            admitted += usize::from(self.ask(terms).await.is_ok());
        }
        admitted
    }

    async fn is_down(&self) {
        let down = || async { (self.metrics.limits.lanes_down.get() == 1).then_some(()) };
        eventually("the node notices that Redis is away", down).await;
    }

    async fn is_up(&self) {
        let up = || async { (self.metrics.limits.lanes_down.get() == 0).then_some(()) };
        eventually("the node notices that Redis is back", up).await;
    }

    fn decided(&self, outcome: LimitOutcome, answers: &Result<LimitAnswers, LimitRefusal>) -> bool {
        let answers = answers.as_ref().unwrap_or_else(|refusal| &refusal.answers);
        answers.outcome == Some(outcome)
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Asks at every node about once a millisecond, for so long. When requests were admitted, in microseconds.
async fn saturate(nodes: &[Node], terms: &Terms, time: Duration) -> Vec<u64> {
    let each = nodes.iter().map(|node| async move {
        let (began, mut admitted) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            if node.ask(terms).await.is_ok() {
                admitted.push(Now::read().mono_us);
            }
            sleep(Duration::from_millis(1)).await;
        }
        admitted
    });
    let mut all: Vec<u64> = futures_of(each).await.concat();
    all.sort_unstable();
    all
}

async fn futures_of<T>(each: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = each.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in waiting.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// The largest A(t) − r·t over all intervals, in tokens, rounded up.
fn peak(times_us: &[u64], per_minute: u64) -> u64 {
    let (mut fullest, mut level, mut last) = (0u64, 0u64, times_us.first().copied().unwrap_or(0));
    for time in times_us {
        level = level.saturating_sub((time - last) * per_minute);
        level += 60_000_000;
        last = *time;
        fullest = fullest.max(level);
    }
    fullest.div_ceil(60_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_together_hold_the_bound_of_one_bucket_and_use_it() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await, Node::start(&redis).await];
    let terms = terms(14, bucket(6_000, 100)).fleet(3);
    let admitted = saturate(&nodes, &terms, Duration::from_secs(3)).await;
    let seconds = (admitted.last().unwrap() - admitted[0]) / 1_000_000;
    // B + N·e + r·H with e = ⌊B/2N⌋ and H = 500 ms.
    let bound = 100 + 3 * 16 + 50;
    let peak = peak(&admitted, 6_000);
    assert!(peak <= bound, "{peak} above r·t, {bound} are promised");
    let least = (100 + 100 * usize::try_from(seconds).unwrap()) * 9 / 10;
    assert!(admitted.len() >= least, "{} of {least}", admitted.len());
    let operations: u64 = nodes.iter().map(|node| node.metrics.limits.redis_operations_total.get()).sum();
    println!("{} admitted, peak {peak} of {bound}, {operations} key operations", admitted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_too_hold_their_bound_across_nodes() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await];
    // A fixed window ends with Redis' minute; the test must not straddle it.
    eventually("the minute is young", || async { (crate::clock::unix_ms() % 60_000 < 50_000).then_some(()) }).await;
    for (key, policy) in [(14, sliding(60)), (16, fixed(60))] {
        let admitted = saturate(&nodes, &terms(key, policy).fleet(2), Duration::from_secs(2)).await.len();
        // L + N·e with e = ⌊L/2N⌋.
        assert!((55..=60 + 2 * 15).contains(&admitted), "{admitted} of {policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_smaller_than_the_fleet_is_exact() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await, Node::start(&redis).await];
    let terms = terms(14, bucket(1, 2)).fleet(3);
    let mut admitted = 0;
    for node in &nodes {
        admitted += node.admitted_of(&terms, 5).await;
    }
    assert_eq!(admitted, 2);
    let waits: u64 = nodes.iter().map(|node| node.metrics.limits.waits_so_far(WaitResult::Answered)).sum();
    assert!(waits >= 2, "only Redis knew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_each_policy_does_what_it_says_and_nobody_waits() {
    let mut redis = Redis::start();
    let node = Node::start(&redis).await;
    let down = |key, on_redis_down| terms(key, Policy { on_redis_down, ..bucket(6_000, 100) }).fleet(2);
    let (fair, open, closed) =
        (down(14, OnRedisDown::FairShare), down(16, OnRedisDown::Open), down(18, OnRedisDown::Closed));
    for terms in [&fair, &open, &closed] {
        assert!(node.ask(terms).await.is_ok());
    }
    redis.server.child().kill().unwrap();
    redis.server.child().wait().unwrap();
    node.is_down().await;
    // Leases end within half a second.
    sleep(Duration::from_millis(600)).await;
    let waits = || [WaitResult::Answered, WaitResult::TimedOut].map(|result| node.metrics.limits.waits_so_far(result));
    let (before, began) = (waits(), Instant::now());
    let mut counts = [0u64; 3];
    while began.elapsed() < Duration::from_secs(2) {
        for (terms, count) in [&fair, &open, &closed].into_iter().zip(&mut counts) {
            let answer = node.ask(terms).await;
            *count += u64::from(answer.is_ok());
            let known = [LimitOutcome::Share, LimitOutcome::Overdraft, LimitOutcome::OverRate];
            assert!(known.into_iter().any(|outcome| node.decided(outcome, &answer)), "{answer:?}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    let [fair_count, open_count, closed_count] = counts;
    // Half of a hundred a second for two seconds, what had gathered before (B/N at most), and e = ⌊B/2N⌋ of overdraft.
    assert!((80..=100 + 50 + 25 + 10).contains(&fair_count), "fair share: {fair_count}");
    assert!(open_count >= 200, "open: {open_count}");
    assert_eq!(closed_count, 0);
    assert_eq!(waits(), before, "nobody waits for a Redis that is known to be away");

    redis.server.restart().unwrap();
    node.is_up().await;
    eventually("a closed policy admits again", || async { node.ask(&closed).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_redis_that_is_silent_ends_after_five_milliseconds_and_is_counted() {
    let mut redis = Redis::start();
    let node = Node::start(&redis).await;
    let strict = |key| terms(key, Policy { strict: true, ..bucket(600, 100) });
    assert!(node.ask(&strict(14)).await.is_ok());
    let before = node.metrics.limits.waits_so_far(WaitResult::TimedOut);
    send(redis.server.child(), Signal::STOP);
    let began = Instant::now();
    let answer = node.ask(&strict(16)).await;
    let took = began.elapsed();
    send(redis.server.child(), Signal::CONT);
    let refusal = answer.unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after_s), (LimitKind::Rate, 1));
    assert_eq!(refusal.answers.outcome, Some(LimitOutcome::Unanswered));
    // The timer's grain and a busy machine come on top.
    assert!(took >= Duration::from_millis(4) && took < Duration::from_millis(40), "{took:?}");
    assert_eq!(node.metrics.limits.waits_so_far(WaitResult::TimedOut), before + 1);
    eventually("Redis' word is heard again", || async { node.ask(&strict(16)).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_change_holds_with_the_next_request_on_every_node() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await];
    let small = terms(14, bucket(60, 4)).fleet(2);
    for node in &nodes {
        node.admitted_of(&small, 20).await;
        assert!(node.ask(&small).await.is_err());
    }
    let large = terms(14, bucket(60_000, 6_000)).fleet(2).at_revision(2);
    for node in &nodes {
        // Nearly nothing of the small bucket was left, and of the large one as much: it fills with a thousand a second.
        eventually("the new rate is enforced", || async { node.ask(&large).await.ok() }).await;
        eventually("and its rate shows", || async { (node.admitted_of(&large, 50).await == 50).then_some(()) }).await;
    }
    let again = small.at_revision(3);
    for node in &nodes {
        node.admitted_of(&again, 20).await;
        eventually("a lower limit is enforced", || async { node.ask(&again).await.err() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_quota_holds_across_nodes_and_says_when_it_begins_anew() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await];
    redis.seed(14, 1, 0).await;
    let ends_at_ms = crate::clock::unix_ms() + 3_600_000;
    let terms = terms(14, bucket(60_000, 40)).with_month(hard(1, 100, ends_at_ms)).fleet(2);
    let admitted = saturate(&nodes, &terms, Duration::from_secs(2)).await.len();
    // The month and N·e with e = ⌊B/2N⌋.
    assert!((95..=100 + 2 * 10).contains(&admitted), "{admitted}");
    let refusal = nodes[0].ask(&terms).await.unwrap_err();
    assert_eq!(refusal.kind, LimitKind::Quota);
    assert!((3_500..=3_600).contains(&refusal.retry_after_s), "{}", refusal.retry_after_s);
    let month = refusal.answers.quota.unwrap();
    assert_eq!((month.limit, month.remaining), (100, 0));
    let larger = terms.with_month(hard(1, 200, ends_at_ms)).at_revision(2);
    eventually("more included requests hold at once", || async { nodes[0].ask(&larger).await.ok() }).await;
    let next = terms.with_month(hard(2, 100, ends_at_ms + 3_600_000)).at_revision(3);
    eventually("the next period begins with a whole quota", || async { nodes[0].ask(&next).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_count_is_asked_for_and_until_it_is_back_a_node_spends_its_part() {
    let redis = Redis::start();
    let node = Node::start(&redis).await;
    let ends_at_ms = crate::clock::unix_ms() + 3_600_000;
    let terms = terms(14, bucket(60_000, 1_000)).with_month(hard(7, 60, ends_at_ms)).fleet(3);
    let one = std::slice::from_ref(&node);
    let admitted = saturate(one, &terms, Duration::from_secs(1)).await.len();
    // A third of the month, and e = 166 at most, of which nothing is owed once Redis has answered.
    assert!((20..=20 + 166).contains(&admitted), "{admitted}");
    let told: Vec<String> = redis.ask(redis::cmd("SMEMBERS").arg(format!("{PREFIX}:unseeded"))).await;
    assert_eq!(told, ["14:7"]);
    assert!(node.metrics.limits.unseeded_total.get() >= 1);
    redis.seed(14, 7, 10).await;
    eventually("the count is back", || async { node.ask(&terms).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_its_functions_and_all_data_gets_them_again() {
    let redis = Redis::start();
    let node = Node::start(&redis).await;
    let strict = |key| terms(key, Policy { strict: true, ..bucket(600, 100) });
    assert!(node.ask(&strict(14)).await.is_ok());
    let _ok: String = redis.ask(redis::cmd("FUNCTION").arg("FLUSH")).await;
    let _ok: String = redis.ask(&redis::cmd("FLUSHALL")).await;
    eventually("a key is decided by Redis again", || async { node.ask(&strict(16)).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_an_answer_are_those_of_the_fleet() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await];
    let terms = terms(14, bucket(6, 100)).fleet(2);
    let first = nodes[0].ask(&terms).await.unwrap();
    assert_eq!((first.rate.limit, first.rate.remaining, first.rate.window_s), (6, 99, 60));
    assert_eq!(nodes[0].limiter.peek(&terms, Now::read()).rate.remaining, 99);
    nodes[0].admitted_of(&terms, 39).await;
    eventually("the other node sees what is left", || async {
        let remaining = nodes[1].ask(&terms).await.ok()?.rate.remaining;
        (remaining <= 60).then_some(())
    })
    .await;
    assert_eq!(nodes[0].limiter.peek(&super::terms(22, bucket(6, 100)), Now::read()).rate.remaining, 100);
}
