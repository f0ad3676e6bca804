//! A lost count comes back as Postgres knows it, once, whoever puts it back; with the real function in a real Redis.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use limits::policy::Algorithm;
use limits::script::{self, EXCHANGE, Lane};
use limits::wire::{Ask, QuotaAsk, QuotaLeft, Refund, Reply, Request, Verdict};
use limits_redis::RedisKind;
use prometheus::Registry;
use redis::aio::MultiplexedConnection;
use servers::PrivateRedis;
use settings::Secret;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::*;
use crate::publish::builder::testing_rows::Rows;

const PREFIX: &str = "rl";
const PERIOD: u32 = 202_611;
const INCLUDED: u64 = 100;
/// Beyond it a test has hung.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) rows: Rows,
    redis: PrivateRedis,
    metrics: QuotaSeedMetrics,
    pub(crate) subscription: i64,
    pub(crate) live_key: i64,
    test_key: i64,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn start() -> World {
        let dir = tempfile::Builder::new().prefix("rd").tempdir_in("/tmp").unwrap();
        let redis = PrivateRedis::start(&dir.path().join("r"), false).unwrap();
        let rows = Rows::start().await;
        let acme = rows.organization("acme").await;
        let shop = rows.product(acme, "shop").await;
        let plan = rows.plan(shop, "basic").await;
        let bought = rows.subscription(shop, plan, acme).await;
        let (live, test) = (rows.key(bought).await, test_key(&rows, bought).await);
        let number = async |sql: &str, id: Uuid| rows.client.query_one(sql, &[&id]).await.unwrap().get::<_, i64>(0);
        let subscription = number("SELECT meter_id FROM subscriptions WHERE id = $1", bought).await;
        let live_key = number("SELECT meter_id FROM api_keys WHERE id = $1", live).await;
        let test_key = number("SELECT meter_id FROM api_keys WHERE id = $1", test).await;
        let metrics = QuotaSeedMetrics::register(&Registry::new()).unwrap();
        World { rows, redis, metrics, subscription, live_key, test_key, _dir: dir }
    }

    async fn redis(&self) -> MultiplexedConnection {
        redis::Client::open(self.redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    pub(crate) async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query_async(&mut self.redis().await).await.unwrap()
    }

    /// Requests of a key in a quarter of an hour: so many admitted, so many of them failed by us.
    pub(crate) async fn use_up(&self, key: i64, quarter_hour: &str, admitted: i64, failed: i64) {
        let sql = format!(
            "INSERT INTO usage_quarter_hours AS u (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id,
                 status_class, product_meter_id, request_count, admitted_count, failed_count, limited_count, billable_count,
                 request_bytes, response_bytes, latency_us_sum, upstream_latency_us_sum)
             VALUES ($1, '{quarter_hour}', $2, 1, 1, 2, 1, $3, $3, $4, 0, 0, 0, 0, 0, 0)
             ON CONFLICT (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
             DO UPDATE SET request_count = u.request_count + $3, admitted_count = u.admitted_count + $3"
        );
        self.rows.sql(&sql, &[&self.subscription, &key, &admitted, &failed]).await;
        let mark = format!(
            "INSERT INTO usage_dirty (subscription_meter_id, product_meter_id, key_meter_id, hour, used_at)
             VALUES ($1, 1, $2, date_trunc('hour', timestamptz '{quarter_hour}', 'UTC'), '{quarter_hour}')"
        );
        self.rows.sql(&mark, &[&self.subscription, &key]).await;
    }

    pub(crate) fn limits(&self) -> LimitsRedis {
        let urls = vec![Secret::new(self.redis.url())];
        LimitsRedis { urls, kind: RedisKind::Single, ca_file: None, prefix: PREFIX.into() }
    }

    pub(crate) fn seeder(&self) -> DropGuard {
        let seeder = QuotaSeed::new(self.rows.store.clone(), Some(self.limits()), self.metrics.clone()).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(seeder.run(stop.clone()));
        stop.drop_guard()
    }

    pub(crate) fn name(&self) -> String {
        format!("{}:{PERIOD}", self.subscription * 2)
    }

    /// As a gateway that misses the count does.
    pub(crate) async fn miss(&self, name: &str) {
        let _new: u64 = self.command(&["SADD", "rl:unseeded", name]).await;
    }

    pub(crate) fn gateway(&self) -> Gateway<'_> {
        static BIRTHS: AtomicU64 = AtomicU64::new(1);
        let birth = BIRTHS.fetch_add(1, Ordering::Relaxed);
        Gateway { world: self, birth, epoch: 0, send: 0, key: u64::try_from(self.subscription).unwrap() * 2 }
    }
}

/// A node's side of the real function, without its own limits: it takes whatever Redis grants.
pub(crate) struct Gateway<'a> {
    world: &'a World,
    birth: u64,
    epoch: u64,
    send: u64,
    key: u64,
}

impl Gateway<'_> {
    pub(crate) async fn exchange(&mut self, asks: Vec<Ask>) -> Reply {
        self.send += 1;
        let request = Request { node: 9, epoch: self.epoch, birth: self.birth, send: self.send, debts: 0, asks };
        let call = script::exchange(PREFIX, Lane::Whole, &request);
        let mut redis = self.world.redis().await;
        let mut load = redis::cmd("FUNCTION");
        let _name: String =
            load.arg("LOAD").arg("REPLACE").arg(script::library()).query_async(&mut redis).await.unwrap();
        let mut command = redis::cmd("FCALL");
        command.arg(EXCHANGE).arg(call.keys.len()).arg(&call.keys).arg(call.argument.as_slice());
        let bytes: Vec<u8> = command.query_async(&mut redis).await.unwrap();
        script::read_reply(&bytes).unwrap()
    }

    /// Asks for tokens against a hard quota; answers how many came, and what is left of the month.
    pub(crate) async fn take(&mut self, want: u32) -> (u32, QuotaLeft) {
        let reply = self.say(want, None).await;
        (reply.grants[0].tokens, reply.grants[0].quota.unwrap())
    }

    pub(crate) async fn say(&mut self, want: u32, refund: Option<Refund>) -> Reply {
        let ask = Ask {
            key: self.key,
            revision: 1,
            algorithm: Algorithm::TokenBucket,
            per_minute: 60_000,
            burst: 60_000,
            debt: 0,
            want,
            refund,
            quota: Some(QuotaAsk { period: PERIOD, included: INCLUDED, hard: true }),
        };
        loop {
            let reply = self.exchange(if self.epoch == 0 { vec![] } else { vec![ask] }).await;
            match reply.verdict {
                Verdict::Done => return reply,
                Verdict::Admitted { epoch } => self.epoch = epoch,
                Verdict::Superseded => self.epoch = 0,
                Verdict::Stale => panic!("nothing was repeated"),
            }
        }
    }

    pub(crate) async fn wait_until_seeded(&mut self) -> QuotaLeft {
        let seeded = async {
            loop {
                match self.take(0).await.1 {
                    QuotaLeft::Unseeded => tokio::time::sleep(Duration::from_millis(50)).await,
                    left => return left,
                }
            }
        };
        tokio::time::timeout(PATIENCE, seeded).await.expect("the count comes back")
    }
}

async fn test_key(rows: &Rows, subscription: Uuid) -> Uuid {
    let id = Uuid::now_v7();
    let digest = [id.as_bytes().as_slice(), id.as_bytes().as_slice()].concat();
    let sql = "INSERT INTO api_keys (id, subscription_id, name, key_digest, prefix, last_four, environment, created_by)
        VALUES ($1, $2, 'key', $3, 'hub_test_', 'abcd', 'test', $4)";
    rows.sql(sql, &[&id, &subscription, &digest, &rows.user]).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_was_emptied_the_count_comes_back_and_a_hard_quota_still_holds() {
    let world = World::start().await;
    world.use_up(world.live_key, "2026-11-20 10:00Z", 70, 5).await;
    let mut gateway = world.gateway();
    let _seeders = [world.seeder(), world.seeder()];
    world.miss(&world.name()).await;
    assert_eq!(gateway.wait_until_seeded().await, QuotaLeft::Left(35), "100 included, 70 admitted, 5 failed by us");
    let (first, _) = gateway.take(20).await;
    world.use_up(world.live_key, "2026-11-20 10:15Z", i64::from(first), 0).await;

    let () = world.command(&["FLUSHALL"]).await;
    assert_eq!(gateway.take(10).await.1, QuotaLeft::Unseeded, "nobody guesses");
    world.miss(&world.name()).await;
    let left = gateway.wait_until_seeded().await;
    assert_eq!(left, QuotaLeft::Left(35 - i64::from(first)), "as Postgres has it");
    let mut taken = first;
    while let (granted @ 1.., _) = gateway.take(50).await {
        taken += granted;
    }
    assert_eq!(taken, 35, "all that was left, and no more");
    assert_eq!(world.command::<u64>(&["SCARD", "rl:unseeded"]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_live_requests_of_the_publishers_month_count() {
    let world = World::start().await;
    world.rows.sql("UPDATE organizations SET time_zone = 'Asia/Tokyo'", &[]).await;
    let tokyo = "UPDATE subscriptions SET period_start = '2026-10-31 15:00Z', period_end = '2026-11-30 15:00Z'";
    world.rows.sql(tokyo, &[]).await;
    world.use_up(world.test_key, "2026-11-20 10:00Z", 1_000, 0).await;
    for (minute, admitted) in
        [("2026-10-31 14:45Z", 100), ("2026-10-31 15:00Z", 1), ("2026-11-30 14:45Z", 2), ("2026-11-30 15:00Z", 200)]
    {
        world.use_up(world.live_key, minute, admitted, 0).await;
    }
    let of = async |period| {
        let wanted = [PeriodOf { subscription: world.subscription, period }];
        used_in_periods(&world.rows.store, &wanted).await.unwrap()[0].used
    };
    assert_eq!(of(202_611).await, 3);
    assert_eq!(
        (of(202_610).await, of(202_612).await, of(202_701).await),
        (100, 200, 0),
        "other months by the calendar"
    );
    let stranger = [PeriodOf { subscription: 987_654, period: 202_611 }];
    assert_eq!(used_in_periods(&world.rows.store, &stranger).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_just_before_the_loss_is_waited_for_and_nonsense_is_put_aside() {
    let world = World::start().await;
    let mut gateway = world.gateway();
    gateway.take(1).await;
    for name in [world.name(), "nonsense".to_owned(), "1975308:202611".to_owned()] {
        world.miss(&name).await;
    }
    let _seeder = world.seeder();
    let noticed = async {
        while world.command::<Option<u64>>(&["GET", "rl:whole_since"]).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("the seeder sees that this Redis is new");
    // Still on its way when Redis was emptied.
    world.use_up(world.live_key, "2026-11-20 10:00Z", 40, 0).await;
    assert_eq!(gateway.wait_until_seeded().await, QuotaLeft::Left(60));
    let refused = async {
        while world.metrics.refused.get() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("both are counted");
    assert_eq!((world.metrics.seeded.get(), world.metrics.up.get()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_being_away_only_delays_it() {
    let mut world = World::start().await;
    let _seeder = world.seeder();
    servers::send(world.redis.child(), servers::Signal::KILL);
    let failed = async {
        while world.metrics.failures.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, failed).await.expect("it notices");
    world.redis.restart().unwrap();
    world.miss(&world.name()).await;
    assert_eq!(world.gateway().wait_until_seeded().await, QuotaLeft::Left(100));
}
