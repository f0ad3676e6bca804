//! Gateways that share one real Redis: the bound across them, and what happens when Redis is away, back, or has forgotten.

use std::time::Instant;

use servers::{Signal, send};
use tokio::time::sleep;

use super::nodes::{Node, PATIENCE, PREFIX, Redis, eventually, peak, saturate};
use super::*;
use crate::metrics::labels::{LimitAlgorithm, LimitOutcome, WaitResult};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_just_begun_decides_its_first_request_at_once() {
    let redis = Redis::start();
    for key in (14..34).step_by(2) {
        let node = Node::start(&redis).await;
        // Nothing was said before anybody could hear it, which would cost a time-out.
        assert_eq!(node.metrics.limits.redis_failures_total.get(), 0);
        let answer = node.ask(&terms(key, bucket(6_000, 100)).fleet(2)).await;
        assert!(node.decided(LimitOutcome::Overdraft, &answer), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_begins_without_redis_soon_decides_alone() {
    let mut redis = Redis::start();
    redis.server.kill();
    let node = Node::start(&redis).await;
    node.is_down().await;
    let open = terms(14, Policy { on_redis_down: OnRedisDown::Open, ..bucket(6_000, 100) });
    let answer = node.ask(&open).await;
    assert!(node.decided(LimitOutcome::Share, &answer), "{answer:?}");
    let monthly = Terms { key: 16, ..open.with_month(hard(1, 6, crate::clock::unix_ms() + 3_600_000)).fleet(3) };
    assert_eq!(node.admitted_of(&monthly, 5).await, 2, "a third of a month of which nobody has heard");
    let refusal = node.ask(&monthly).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after_s), (LimitKind::Quota, 1), "nobody knows that it is used up");
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
    for _ in 0..2 {
        let by_any = || async {
            for node in &nodes {
                if node.ask(&terms).await.is_ok() {
                    return Some(());
                }
            }
            None
        };
        eventually("the whole bucket is used", by_any).await;
    }
    for node in &nodes {
        assert_eq!(node.admitted_of(&terms, 5).await, 0);
    }
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
        eventually("it is let in", || async { node.ask(terms).await.ok() }).await;
    }
    redis.server.kill();
    node.is_down().await;
    // Leases end within half a second.
    sleep(Duration::from_millis(600)).await;
    let waits = || [WaitResult::Answered, WaitResult::TimedOut].map(|result| node.metrics.limits.waits_so_far(result));
    let (before, began) = (waits(), Instant::now());
    let (mut counts, mut asked) = ([0u64; 3], 0u64);
    // Of a share of half of a hundred a second, what is let in at least at these very moments, had nothing gathered before.
    let (mut share, mut looked, mut least) = (0.0f64, began, 0u64);
    while began.elapsed() < Duration::from_secs(2) {
        let now = Instant::now();
        share = (share + 50.0 * (now - looked).as_secs_f64()).min(50.0);
        looked = now;
        if share >= 1.0 {
            share -= 1.0;
            least += 1;
        }
        asked += 1;
        for (terms, count) in [&fair, &open, &closed].into_iter().zip(&mut counts) {
            let answer = node.ask(terms).await;
            *count += u64::from(answer.is_ok());
            let known = [LimitOutcome::Share, LimitOutcome::Overdraft, LimitOutcome::OverRate];
            assert!(known.into_iter().any(|outcome| node.decided(outcome, &answer)), "{answer:?}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    let (took, [fair_count, open_count, closed_count]) = (began.elapsed(), counts);
    // The share, what had gathered before (B/N at most), and e = ⌊B/2N⌋ of overdraft.
    let most = u64::try_from(took.as_millis()).unwrap() * 50 / 1_000 + 50 + 25 + 10;
    let least = least * 9 / 10;
    assert!((least..=most).contains(&fair_count), "fair share: {fair_count}, of {asked} in {took:?}");
    assert_eq!(open_count, asked);
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
    // On a busy machine Redis may take longer than a request waits.
    eventually("Redis is heard", || async { node.ask(&strict(14)).await.ok() }).await;
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
    assert!(took >= Duration::from_millis(4) && took < Duration::from_secs(1), "{took:?}");
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
    let (began, mut admitted) = (Instant::now(), 0);
    while admitted < 95 && began.elapsed() < PATIENCE {
        admitted += saturate(&nodes, &terms, Duration::from_secs(1)).await.len();
    }
    admitted += saturate(&nodes, &terms, Duration::from_secs(1)).await.len();
    // The month and N·e with e = ⌊B/2N⌋.
    assert!((95..=100 + 2 * 10).contains(&admitted), "{admitted}");
    let of_the_month = |refusal: &LimitRefusal| refusal.kind == LimitKind::Quota;
    let refusal = eventually("it is used up", || async { nodes[0].ask(&terms).await.err().filter(of_the_month) }).await;
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
    let refusal = node.ask(&terms).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after_s), (LimitKind::Quota, 1), "the count may be back in a moment");
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
    // On a busy machine Redis may take longer than a request waits.
    eventually("Redis is heard", || async { node.ask(&strict(14)).await.ok() }).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_gives_back_what_it_holds_and_tells_what_it_owes() {
    let redis = Redis::start();
    let (mut leaving, staying) = (Node::start(&redis).await, Node::start(&redis).await);
    // One a minute: nothing to speak of flows in.
    let terms = terms(14, bucket(1, 1_000)).fleet(2);
    let mut admitted = 0;
    for _ in 0..6 {
        admitted += leaving.admitted_of(&terms, 40).await;
        sleep(Duration::from_millis(10)).await;
    }
    assert!(admitted > 200, "{admitted}");
    leaving.leave().await;
    assert!(staying.ask(&terms).await.is_ok());
    let left = u64::try_from(1_000 - admitted - 1).unwrap();
    eventually("all that was not used is there, and no more", || async {
        let remaining = staying.limiter.peek(&terms, Now::read()).rate.remaining;
        (left..=left + 1).contains(&remaining).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_spent_beyond_a_bucket_is_seen_and_counted_once() {
    let redis = Redis::start();
    let nodes = [Node::start(&redis).await, Node::start(&redis).await, Node::start(&redis).await];
    // One token of overdraft for each of three.
    let terms = terms(14, bucket(6, 6)).fleet(3);
    nodes[0].admitted_of(&terms, 20).await;
    eventually("the bucket is known to be empty", || async {
        let answer = nodes[0].ask(&terms).await;
        nodes[0].decided(LimitOutcome::OverRate, &answer).then_some(())
    })
    .await;
    // Two that have heard nothing of it.
    for node in &nodes[1..] {
        let answer = node.ask(&terms).await;
        assert!(node.decided(LimitOutcome::Overdraft, &answer), "{answer:?}");
    }
    let seen = || {
        let each = nodes.iter().map(|node| node.metrics.limits.overshoot_so_far(LimitAlgorithm::TokenBucket));
        each.fold((0, 0), |(tokens, beyond), one| (tokens + one.0, beyond + one.1))
    };
    eventually("their debts are told", || async { (seen().0 == 2).then_some(()) }).await;
    assert_eq!(seen(), (2, 0), "within N·e, so nothing beyond the bound");
}
