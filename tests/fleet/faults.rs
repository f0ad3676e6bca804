//! The phases: each floods fresh keys and breaks one thing meanwhile, so that each is judged with the terms of its own fault.
//! One test, because every phase wants the whole machine, and a fleet takes seconds to start.

use std::time::Duration;

use limits::bound::Bound;
use limits::policy::{Algorithm, OnRedisDown};
use serde_json::json;
use servers::{Signal, send};
use tokio::time::{Instant, sleep_until};

use crate::exact::{fullest_clock_minute, fullest_minute, peak_excess};
use crate::harness::eventually;
use crate::harness::fault_proxy::{Flow, Target};
use crate::scene::Fleet;
use crate::sentinel::{RedisWithSentinel, address};
use crate::verdict::Verdicts;

/// When something breaks, from the phase's start.
const BREAK_AT: Duration = Duration::from_millis(1_000);
/// When it is mended, where it can be.
const MEND_AT: Duration = Duration::from_millis(2_500);
/// Until nodes have noticed that Redis is gone: three answers that time out, and a margin for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_millis(400);
/// How long a gateway that was killed stays away.
const KILLED_FOR: Duration = Duration::from_millis(300);
/// How long clients write to a master that Sentinel and replica see no more.
const LOST: Duration = Duration::from_millis(800);

/// A Sentinel notices, is elected, and promotes; and then some.
const FAILOVER_TAKES: Duration = Duration::from_secs(6);
/// Until a lost count is put back, a gateway has asked again, and has spent what is left.
const SEEDING_TAKES: Duration = Duration::from_secs(6);
/// Until a gateway without a count has asked again, and its leases have ended.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_millis(1_500);
/// Requests of a month.
const QUOTA: usize = 100;

/// What a limiter lets through at least of one exact bucket: one that refuses everything fails.
const CALM_PERCENT: usize = 97;
/// Phases without a fault, until none of their questions to Redis went unanswered.
const CALM_TRIES: usize = 3;
/// Where the machine has never been calm.
const BUSY_PERCENT: usize = 85;
const BROKEN_PERCENT: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_holds_its_bounds_through_every_fault() {
    let mut fleet = Fleet::start().await;
    let mut verdicts = Verdicts::default();
    fleet.settle().await;
    calm(&mut fleet, &mut verdicts).await;
    gateway_killed(&mut fleet, &mut verdicts).await;
    redis_stopped(&mut fleet, &mut verdicts).await;
    redis_killed(&mut fleet, &mut verdicts).await;
    gateway_cut_off(&mut fleet, &mut verdicts).await;
    redis_emptied(&mut fleet, &mut verdicts).await;
    month_lost(&mut fleet, &mut verdicts).await;
    redis_failed_over(&mut fleet, &mut verdicts).await;
    verdicts.finish();
    nobody_talks(&mut fleet).await;
}

/// Nothing breaks. Where the machine was too busy for Redis to answer in time, the bounds hold all the same, and there is another try
/// at letting through all that there is.
async fn calm(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    for tries_left in (0..CALM_TRIES).rev() {
        let (unanswered, outages) = (fleet.unanswered().await, fleet.outages().await);
        let bucket = fleet.bucket_buyer().await;
        let sliding = fleet.buyer(Algorithm::SlidingWindow, OnRedisDown::FairShare, json!({})).await;
        let fixed = fleet.buyer(Algorithm::FixedWindow, OnRedisDown::FairShare, json!({})).await;
        let (size, flooder, start, clock) = (fleet.size().await, fleet.flooder(), Instant::now(), unix_time());
        let (of_bucket, of_sliding, of_fixed) =
            tokio::join!(flooder.flood(&bucket, start), flooder.flood(&sliding, start), flooder.flood(&fixed, start));
        let was_calm = fleet.unanswered().await == unanswered;
        // A machine that is so busy that Redis counts as down is a fault like another, with its terms.
        let (outages, phase) = (fleet.outages().await - outages, fleet.phase);
        let alone = |bound: &Bound| outages * (bound.goes_alone() + bound.stays_alone(1, phase));
        let least_percent = match tries_left {
            _ if was_calm => CALM_PERCENT,
            0 => BUSY_PERCENT,
            _ => 0,
        };
        let bound = fleet.bound(&bucket, size, alone).await;
        verdicts.bucket("calm", &bucket, &of_bucket, bound, least_percent);
        let limit = sliding.policy.burst() as usize;
        let bound = fleet.bound(&sliding, size, alone).await;
        let counted = fullest_minute(&of_sliding.admitted);
        verdicts.count("calm, sliding window", &of_sliding, (counted, limit, bound), least_percent);
        let counted = fullest_clock_minute(&of_fixed.admitted, clock);
        // Where the minute turns within the phase, neither of the two may have had the time to fill.
        let is_one_minute = clock.as_secs() % 60 + fleet.phase.as_secs() < 59;
        let least_percent = if is_one_minute { least_percent } else { 0 };
        verdicts.count("calm, fixed window", &of_fixed, (counted, limit, bound), least_percent);
        if was_calm {
            return;
        }
        println!("{:<30} Redis did not answer in time: the machine is too busy", "");
        fleet.settle().await;
    }
}

async fn gateway_killed(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    let buyer = fleet.bucket_buyer().await;
    let (size, flooder, start) = (fleet.size().await, fleet.flooder(), Instant::now());
    let role = &mut fleet.world.gateways[1].role;
    let (log, ()) = tokio::join!(flooder.flood(&buyer, start), async {
        sleep_until(start + BREAK_AT).await;
        role.kill();
        tokio::time::sleep(KILLED_FOR).await;
        role.start_again();
    });
    role.ready().await;
    let bound = fleet.bound(&buyer, size, |bound| bound.crash(false)).await;
    verdicts.bucket("a gateway is killed", &buyer, &log, bound, BROKEN_PERCENT);
    fleet.settle().await;
}

/// Frozen: nothing is answered, and nothing is refused either.
async fn redis_stopped(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    let buyer = fleet.bucket_buyer().await;
    let open = fleet.buyer(Algorithm::TokenBucket, OnRedisDown::Open, json!({})).await;
    let closed = fleet.buyer(Algorithm::TokenBucket, OnRedisDown::Closed, json!({})).await;
    let (size, flooder, start) = (fleet.size().await, fleet.flooder(), Instant::now());
    let redis = &mut fleet.world.redis;
    let (log, of_open, of_closed, (broken, mended)) =
        tokio::join!(flooder.flood(&buyer, start), flooder.flood(&open, start), flooder.flood(&closed, start), async {
            sleep_until(start + BREAK_AT).await;
            send(redis.child(), Signal::STOP);
            let broken = start.elapsed();
            sleep_until(start + MEND_AT).await;
            let mended = start.elapsed();
            send(redis.child(), Signal::CONT);
            (broken, mended)
        });
    let bound = fleet.bound(&buyer, size, |bound| bound.all_alone()).await;
    verdicts.bucket("Redis is stopped", &buyer, &log, bound, BROKEN_PERCENT);
    let bound = fleet.bound(&closed, size, |bound| bound.all_alone()).await;
    verdicts.bucket("Redis is stopped, closed", &closed, &of_closed, bound, 0);
    let without: usize = (0..fleet.gateways).map(|at| of_closed.admitted_by(at, broken + closed.lease(), mended)).sum();
    verdicts.check(without == 0, || format!("closed, and {without} were admitted after the last lease ended"));
    // Nothing holds `open` while Redis is away, and the judge has to see it: else it would see nothing.
    let peak = peak_excess(&of_open.admitted, open.policy.per_minute());
    let bound = fleet.bound(&open, size, |bound| bound.all_alone()).await;
    verdicts.check_at_pace(&of_open, peak > bound, || {
        format!("open reaches only {peak:.1} of {bound:.1}: was Redis away at all?")
    });
    fleet.settle().await;
}

/// It writes what it is told to a file before it answers, so a new process on the same files knows all of it.
async fn redis_killed(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    let buyer = fleet.bucket_buyer().await;
    let (size, flooder, start) = (fleet.size().await, fleet.flooder(), Instant::now());
    let redis = &mut fleet.world.redis;
    let (log, ()) = tokio::join!(flooder.flood(&buyer, start), async {
        sleep_until(start + BREAK_AT).await;
        send(redis.child(), Signal::KILL);
        sleep_until(start + MEND_AT).await;
        redis.restart().unwrap();
    });
    let bound = fleet.bound(&buyer, size, |bound| bound.all_alone()).await;
    verdicts.bucket("Redis is killed", &buyer, &log, bound, BROKEN_PERCENT);
    fleet.settle().await;
}

/// The one that most of the traffic goes to, while the others go on leasing.
async fn gateway_cut_off(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    let buyer = fleet.bucket_buyer().await;
    let closed = fleet.buyer(Algorithm::TokenBucket, OnRedisDown::Closed, json!({})).await;
    let (size, flooder, start) = (fleet.size().await, fleet.flooder(), Instant::now());
    let (scene, link) = (&*fleet, &fleet.world.redis_links[0]);
    let (log, of_closed, (broken, mended, back)) =
        tokio::join!(flooder.flood(&buyer, start), flooder.flood(&closed, start), async {
            sleep_until(start + BREAK_AT).await;
            let broken = start.elapsed();
            link.set(Flow::Silent);
            sleep_until(start + MEND_AT).await;
            let mended = start.elapsed();
            link.set(Flow::Open);
            (broken, mended, scene.is_back(0).await - start)
        });
    let alone_for = back - broken;
    let bound = fleet.bound(&buyer, size, |bound| bound.goes_alone() + bound.stays_alone(1, alone_for)).await;
    verdicts.bucket("a gateway is cut off", &buyer, &log, bound, BROKEN_PERCENT);
    let bound = fleet.bound(&closed, size, |_| 0.0).await;
    // Where Redis cannot answer in time, `closed` admits nothing, as it says.
    let least_percent = if of_closed.keeps_pace() { BROKEN_PERCENT / 2 } else { 0 };
    verdicts.bucket("a gateway is cut off, closed", &closed, &of_closed, bound, least_percent);
    let without = of_closed.admitted_by(0, broken + closed.lease(), mended);
    verdicts.check(without == 0, || format!("closed, cut off, and {without} were admitted after the last lease ended"));
    let during = of_closed.admitted_by(1, broken + NOTICED_WITHIN, mended);
    verdicts.check_at_pace(&of_closed, during > 0, || "the other gateways have to go on".to_owned());
    fleet.settle().await;
}

async fn redis_emptied(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    let buyer = fleet.bucket_buyer().await;
    let (size, flooder, start) = (fleet.size().await, fleet.flooder(), Instant::now());
    let (log, ()) = tokio::join!(flooder.flood(&buyer, start), async {
        sleep_until(start + BREAK_AT).await;
        fleet.world.flush_redis().await;
    });
    let bound = fleet.bound(&buyer, size, |bound| bound.wipe()).await;
    verdicts.bucket("Redis is emptied", &buyer, &log, bound, BROKEN_PERCENT);
    fleet.settle().await;
}

/// A hard quota of which a half is used, and in Postgres, when Redis loses the count. Until it is put back each gateway spends its
/// part of what it last heard was left, and no faster than the rate; from then on the quota holds as if nothing had happened.
async fn month_lost(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    // The month has begun already: of its whole quota the subscription gets about QUOTA.
    let whole = format!(
        "SELECT ceil({QUOTA} * extract(epoch FROM ends - starts) / extract(epoch FROM ends - now()))::bigint
         FROM (SELECT date_trunc('month', now(), 'UTC') AS starts, date_trunc('month', now(), 'UTC') + interval '1 month' AS ends) m"
    );
    let whole = fleet.world.count(&whole).await;
    let buyer =
        fleet.buyer(Algorithm::TokenBucket, OnRedisDown::FairShare, json!({ "included_requests": whole })).await;
    let bought = buyer.catalog.subscription.clone();
    let sql =
        format!("SELECT included_in_period(id, period_start, period_end) FROM subscriptions WHERE id = '{bought}'");
    let quota = usize::try_from(fleet.world.count(&sql).await).unwrap();
    let size = fleet.size().await;
    let mut used = 0;
    for url in buyer.urls.iter().cycle().take(quota / 2) {
        let answer = fleet.world.client.get(url).bearer_auth(&buyer.catalog.key).send().await.unwrap();
        used += usize::from(answer.status() == 200);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    fleet.wait_until_counted(&buyer, used).await;
    let seeded_before = fleet.seeded().await;
    fleet.world.flush_redis().await;
    let (flooder, start) = (fleet.flooder().lasting(SEEDING_TAKES), Instant::now());
    let (log, without) = tokio::join!(flooder.flood(&buyer, start), async {
        eventually("the count is put back", || async { (fleet.seeded().await > seeded_before).then_some(()) }).await;
        start.elapsed()
    });
    let counted = used + log.admitted.len();
    let lost = fleet.bound(&buyer, size, |bound| bound.wipe() + bound.rate(without + ASKED_AGAIN_WITHIN)).await;
    verdicts.count("the month's count is lost", &log, (counted, quota, quota as f64 + lost), CALM_PERCENT);
    println!("{:<30} put back after {without:.1?}", "");
    let after = fleet.flooder().briefly().flood(&buyer, Instant::now()).await;
    let left = quota.saturating_sub(counted);
    // Usage that is late in Postgres is late in what is put back.
    verdicts.check_at_pace(&log, after.admitted.len() <= left, || {
        format!("the count is back, {left} were left, and {} were admitted", after.admitted.len())
    });
    fleet.settle().await;
}

/// The address that the gateways know moves to the replica, which lacks what was written since it was parted from its master.
async fn redis_failed_over(fleet: &mut Fleet, verdicts: &mut Verdicts) {
    let place = fleet.world.dir().join("sentinel");
    std::fs::create_dir_all(&place).unwrap();
    let mut servers = RedisWithSentinel::start(&place).await;
    fleet.world.redis_links.iter().for_each(|link| link.lead_to(Target::Tcp(address(&servers.master))));
    fleet.settle().await;
    let buyer = fleet.bucket_buyer().await;
    let (size, flooder, start) = (fleet.size().await, fleet.flooder().lasting(FAILOVER_TAKES), Instant::now());
    let links = &fleet.world.redis_links;
    let (log, lost) = tokio::join!(flooder.flood(&buyer, start), async {
        sleep_until(start + BREAK_AT).await;
        servers.part();
        let parted = Instant::now();
        tokio::time::sleep(LOST).await;
        servers.wait_for_failover().await;
        let lost = parted.elapsed();
        links.iter().for_each(|link| link.lead_to(Target::Tcp(address(&servers.replica))));
        lost
    });
    let bound = fleet.bound(&buyer, size, |bound| bound.failover(lost) + bound.all_alone()).await;
    verdicts.bucket("Redis fails over", &buyer, &log, bound, BROKEN_PERCENT);
    println!("{:<30} {lost:.1?} of writes were lost", "");
}

/// The control: limiters that each count for themselves, as so many do. A judge that lets them pass would let everything pass.
async fn nobody_talks(fleet: &mut Fleet) {
    fleet.stop_talking().await;
    let buyer = fleet.bucket_buyer().await;
    let (size, flooder) = (fleet.size().await, fleet.flooder());
    let log = flooder.flood(&buyer, Instant::now()).await;
    let bound = fleet.bound(&buyer, size, |_| 0.0).await;
    let mut verdicts = Verdicts::default();
    verdicts.bucket("the control: nobody talks", &buyer, &log, bound, 0);
    let is_found_out = verdicts.count_of_offences() == 1;
    if !is_found_out {
        println!("{:<30} not found out; does the machine keep pace? {}", "", log.keeps_pace());
    }
    assert!(is_found_out || !log.keeps_pace(), "gateways that do not talk have to be found out");
}

fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}
