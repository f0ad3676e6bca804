//! Each job runs once however many control planes there are, whatever happens to Redis and to who holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use parking::Times;
use prometheus::Registry;
use redis::AsyncCommands as _;
use servers::PrivateRedis;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::publish::builder::testing_rows::{Rows, store_of};
use crate::store::jobs::{begin_job, end_job, list_jobs};

const HOUR: Duration = Duration::from_secs(3_600);
/// Beyond it a test has hung.
const PATIENCE: Duration = Duration::from_secs(30);

mod parking {
    //! When something happened, for whoever looks later.

    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    #[derive(Clone, Default)]
    pub(super) struct Times(Arc<Mutex<Vec<Instant>>>);

    impl Times {
        pub(super) fn note(&self) {
            self.0.lock().unwrap().push(Instant::now());
        }

        pub(super) fn all(&self) -> Vec<Instant> {
            self.0.lock().unwrap().clone()
        }

        pub(super) fn count(&self) -> usize {
            self.all().len()
        }
    }
}

struct World {
    rows: Rows,
    redis: PrivateRedis,
    _dir: TempDir,
}

impl World {
    async fn start() -> World {
        let dir = tempfile::Builder::new().prefix("rd").tempdir_in("/tmp").unwrap();
        let redis = PrivateRedis::start(&dir.path().join("r"), false).unwrap();
        World { rows: Rows::start().await, redis, _dir: dir }
    }

    /// A control plane with a store and a connection of its own.
    async fn control_plane(&self, redis_url: Option<&str>, jobs: Vec<Job>) -> DropGuard {
        let stop = CancellationToken::new();
        let metrics = JobMetrics::register(&Registry::new()).unwrap();
        let holder = uuid::Uuid::now_v7().to_string();
        let store = store_of(&self.rows.url).await;
        let scheduler = Scheduler::new(store, Queue::new(redis_url).unwrap(), jobs, holder, metrics);
        tokio::spawn(scheduler.run(stop.clone()));
        stop.drop_guard()
    }

    async fn wait_until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let reached = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn runs_of(&self, name: &str) -> i64 {
        let jobs = list_jobs(&self.rows.store).await.unwrap();
        jobs.iter().find(|job| job.name == name).map_or(0, |job| job.runs)
    }
}

fn noting(name: &'static str, interval: Duration, times: &Times) -> Job {
    let times = times.clone();
    Job::new(name, interval, move |_| {
        times.note();
        async { Ok(()) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_run_each_job_once() {
    let world = World::start().await;
    let url = world.redis.url();
    let rare: Vec<Times> = (0..8).map(|_| Times::default()).collect();
    let (often, end) = (Times::default(), Times::default());
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let jobs = || {
        let mut jobs: Vec<Job> = names.iter().zip(&rare).map(|(name, times)| noting(name, HOUR, times)).collect();
        jobs.push(noting("often", Duration::from_millis(700), &often));
        jobs.push(noting("end", HOUR, &end));
        jobs
    };
    let _planes = [world.control_plane(Some(&url), jobs()).await, world.control_plane(Some(&url), jobs()).await];
    world.wait_until("it runs often", async || often.count() >= 4 && end.count() >= 1).await;
    for (name, times) in names.iter().zip(&rare) {
        assert_eq!((times.count(), world.runs_of(name).await), (1, 1), "{name}");
    }
    for pair in often.all().windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(690), "one run each interval");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_run_lasts_nobody_else_begins_one() {
    let world = World::start().await;
    let url = world.redis.url();
    let (at_once, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let job = || {
        let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
        Job::new("long", Duration::from_millis(1), move |_| {
            let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
            async move {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
    };
    let _planes = [
        world.control_plane(Some(&url), vec![job()]).await,
        world.control_plane(Some(&url), vec![job()]).await,
        world.control_plane(Some(&url), vec![job()]).await,
    ];
    world.wait_until("it runs", async || world.runs_of("long").await >= 10).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holders_job_is_run_by_another_when_its_lease_ends() {
    let world = World::start().await;
    let url = world.redis.url();
    let (held, heirs) = (Times::default(), Times::default());
    let stuck = held.clone();
    let forever = Job::new("job", HOUR, move |_| {
        stuck.note();
        std::future::pending()
    });
    let dead = world.control_plane(Some(&url), vec![forever]).await;
    world.wait_until("the first has it", async || held.count() == 1).await;
    drop(dead);
    let _heir = world.control_plane(Some(&url), vec![noting("job", HOUR, &heirs)]).await;
    let mut redis = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let due: f64 = redis.zscore("{apihub:jobs}:due", "job").await.unwrap();
    let now = jiff::Timestamp::now().as_duration().as_secs_f64() * 1_000.0;
    assert!(due > now && due <= now + 60_500.0, "it is held by a lease of a minute");
    assert_eq!(heirs.count(), 0);
    // A minute passes.
    let () = redis.zadd("{apihub:jobs}:due", "job", 1).await.unwrap();
    world.wait_until("the heir runs it", async || heirs.count() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_everything_makes_each_job_due_and_nothing_worse() {
    let world = World::start().await;
    let url = world.redis.url();
    let times = Times::default();
    let _planes = [
        world.control_plane(Some(&url), vec![noting("job", HOUR, &times)]).await,
        world.control_plane(Some(&url), vec![noting("job", HOUR, &times)]).await,
    ];
    world.wait_until("it ran", async || world.runs_of("job").await == 1).await;
    let mut redis = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    world.wait_until("it ran again", async || world.runs_of("job").await == 2).await;
    let settled = Instant::now();
    world.wait_until("nobody ran it a third time", async || settled.elapsed() > Duration::from_secs(2)).await;
    assert_eq!((times.count(), world.runs_of("job").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_while_redis_is_away_and_where_there_is_none() {
    let mut world = World::start().await;
    let url = world.redis.url();
    let (with, without) = (Times::default(), Times::default());
    let interval = Duration::from_millis(300);
    let _planes = [
        world.control_plane(Some(&url), vec![noting("with", interval, &with)]).await,
        world.control_plane(Some(&url), vec![noting("with", interval, &with)]).await,
        world.control_plane(None, vec![noting("without", HOUR, &without)]).await,
        world.control_plane(None, vec![noting("without", HOUR, &without)]).await,
    ];
    world.wait_until("it runs", async || with.count() >= 2 && without.count() >= 1).await;
    world.redis.stop();
    let before = with.count();
    world.wait_until("it runs without Redis", async || with.count() >= before + 3).await;
    world.redis.restart().unwrap();
    let before = with.count();
    world.wait_until("it runs with Redis again", async || with.count() >= before + 3).await;
    assert_eq!(without.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_and_a_panic_are_noted_and_tried_again() {
    let world = World::start().await;
    let url = world.redis.url();
    let times = Times::default();
    let failing = {
        let times = times.clone();
        Job::new("failing", Duration::from_millis(200), move |_| {
            times.note();
            let count = times.count();
            async move {
                match count {
                    1 => bail!("the first time"),
                    _ => Ok(()),
                }
            }
        })
    };
    let other = Times::default();
    let panicking = Job::new("panicking", HOUR, |_| async { panic!("on purpose") });
    let jobs = vec![panicking, failing, noting("other", Duration::from_millis(200), &other)];
    let _plane = world.control_plane(Some(&url), jobs).await;
    world.wait_until("it is tried again", async || times.count() >= 2 && other.count() >= 3).await;
    world
        .wait_until("the outcome is noted", async || {
            let jobs = list_jobs(&world.rows.store).await.unwrap();
            jobs.iter().any(|job| job.name == "failing" && job.failures == 1 && job.error.is_none())
        })
        .await;
}

#[tokio::test]
async fn an_older_run_can_neither_begin_nor_note_its_end() {
    let world = World::start().await;
    let store = &world.rows.store;
    assert_eq!(begin_job(store, "job", 10, "one").await.unwrap(), None);
    assert_eq!(begin_job(store, "job", 12, "other").await.unwrap(), None);
    assert_eq!(begin_job(store, "job", 11, "one").await.unwrap(), Some(12));
    end_job(store, "job", 10, HOUR, Some("too late")).await.unwrap();
    assert_eq!(list_jobs(store).await.unwrap()[0].error, None);
    end_job(store, "job", 12, HOUR, Some("in time")).await.unwrap();
    assert_eq!(list_jobs(store).await.unwrap()[0].error.as_deref(), Some("in time"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_clock_is_behind_does_not_stop_a_job() {
    let world = World::start().await;
    let future = jiff::Timestamp::now().as_millisecond() + 3_600_000;
    begin_job(&world.rows.store, "job", future, "of the future").await.unwrap();
    let times = Times::default();
    let _plane = world.control_plane(Some(&world.redis.url()), vec![noting("job", HOUR, &times)]).await;
    world.wait_until("it runs", async || times.count() == 1).await;
}

#[tokio::test]
async fn every_job_of_ours_succeeds_on_a_new_database() {
    let world = World::start().await;
    let retention = crate::settings::Retention {
        usage_log_days: 30,
        usage_minute_days: 7,
        usage_quarter_hour_days: 460,
        usage_hour_days: 400,
        ingest_failure_days: 90,
        config_change_days: 7,
    };
    let billing = crate::settings::Billing {
        fee_percent: rust_decimal::Decimal::ZERO,
        due_days: 14,
        grace_days: 7,
        simulation_clock: false,
    };
    for job in all(&retention, billing, None) {
        (job.work)(world.rows.store.clone()).await.unwrap_or_else(|error| panic!("{}: {error:#}", job.name));
    }
}
