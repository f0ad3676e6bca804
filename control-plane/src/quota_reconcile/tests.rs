//! A count that is wrong is right a round or two later, and one that is right stays so; with the real functions in a real Redis,
//! and the billing record in Postgres.

use std::time::Duration;

use limits::wire::{QuotaLeft, Receipt, Refund};
use prometheus::Registry;

use super::*;
use crate::quota_seed::tests::World;
use crate::testing::until_blocked;

/// Beyond it a test has hung.
const PATIENCE: Duration = Duration::from_secs(30);
const AT: &str = "2026-11-20 10:00Z";

/// A subscription with 100 included requests, of which Redis counts what its gateway took.
async fn limited() -> World {
    let world = World::start().await;
    world
        .rows
        .client
        .batch_execute(
            "SET session_replication_role = replica; UPDATE plans SET included_requests = 100, quota_mode = 'hard';
             SET session_replication_role = DEFAULT",
        )
        .await
        .unwrap();
    world
}

fn reconciler(world: &World) -> Reconciler {
    Reconciler::new(Some(world.limits()), QuotaReconcileMetrics::register(&Registry::new()).unwrap()).unwrap()
}

/// As if Redis had counted this much, whatever it did count.
async fn count_in_redis(world: &World, used: u64) {
    let mut desk = Desk::new(world.limits());
    desk.connect().await.unwrap();
    let () = world.command(&["FLUSHALL"]).await;
    let one = crate::store::quota::UsedInPeriod {
        subscription: world.subscription,
        period: 202_611,
        used: i64::try_from(used).unwrap(),
    };
    assert_eq!(desk.seed(&[one]).await.unwrap(), 1);
}

/// Rounds until the gateway is told so.
async fn until_left(world: &World, reconciler: &Reconciler, wanted: i64) {
    let mut gateway = world.gateway();
    let rounds = async {
        loop {
            reconciler.run(&world.rows.store).await.unwrap();
            if gateway.take(0).await.1 == QuotaLeft::Left(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, rounds).await.expect("the count is set right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_lost_writes_is_raised_in_one_round_and_one_that_is_too_high_comes_down() {
    let world = limited().await;
    world.use_up(world.live_key, AT, 45, 5).await;
    let reconciler = reconciler(&world);
    count_in_redis(&world, 10).await;
    reconciler.run(&world.rows.store).await.unwrap();
    assert_eq!(world.gateway().take(0).await.1, QuotaLeft::Left(60), "45 admitted, 5 of them failed by us");
    assert_eq!((reconciler.metrics.too_low.get(), reconciler.metrics.raised.get()), (30, 30));

    count_in_redis(&world, 90).await;
    until_left(&world, &reconciler, 60).await;
    assert_eq!((reconciler.metrics.lowered.get(), reconciler.metrics.waiting.get()), (50, 0));
    for _ in 0..3 {
        reconciler.run(&world.rows.store).await.unwrap();
    }
    assert_eq!(world.gateway().take(0).await.1, QuotaLeft::Left(60), "and stays");
    assert_eq!((reconciler.metrics.too_low.get(), reconciler.metrics.too_high.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_died_with_a_gateway_and_failed_requests_come_back_and_those_given_back_do_so_once() {
    let world = limited().await;
    let reconciler = reconciler(&world);
    count_in_redis(&world, 0).await;
    let mut gateway = world.gateway();
    // Thirty: ten are used, of which four fail by us; ten are given back after the sample; ten die.
    let granted = gateway.say(30, None).await;
    assert_eq!(granted.grants[0].tokens, 30);
    reconciler.run(&world.rows.store).await.unwrap();
    let (level, credited) = (granted.grants[0].level, granted.grants[0].credited);
    let receipt = Receipt { granted_us: granted.now_us, level, credited };
    gateway.say(0, Some(Refund { tokens: 10, receipt })).await;
    world.use_up(world.live_key, AT, 10, 4).await;
    until_left(&world, &reconciler, 94).await;
    for _ in 0..3 {
        reconciler.run(&world.rows.store).await.unwrap();
    }
    assert_eq!(gateway.take(0).await.1, QuotaLeft::Left(94), "six were used, and nobody gets more back");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_back_while_usage_may_still_come() {
    let world = limited().await;
    let reconciler = reconciler(&world);
    count_in_redis(&world, 40).await;
    let epoch = "INSERT INTO ingest_watermarks (node_id, epoch, contiguous_seq, highest_seq, low_watermark)
        VALUES (gen_random_uuid(), gen_random_uuid(), 0, 0, now() - interval '1 minute')";
    world.rows.sql(epoch, &[]).await;
    reconciler.run(&world.rows.store).await.unwrap();
    tokio::time::sleep(TOKENS_LIVE.unsigned_abs()).await;
    reconciler.run(&world.rows.store).await.unwrap();
    assert_eq!((reconciler.metrics.waiting.get(), reconciler.metrics.too_high.get()), (1, 40));
    assert_eq!(world.gateway().take(0).await.1, QuotaLeft::Left(60), "the gateway may have used them");
    // It had used thirty.
    world.use_up(world.live_key, AT, 30, 0).await;
    world.rows.sql("UPDATE ingest_watermarks SET low_watermark = now()", &[]).await;
    until_left(&world, &reconciler, 70).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_give_back_once() {
    let world = limited().await;
    let (one, other) = (reconciler(&world), reconciler(&world));
    world.use_up(world.live_key, AT, 20, 0).await;
    count_in_redis(&world, 50).await;
    let store = &world.rows.store;
    let both = async || tokio::try_join!(one.run(store), other.run(store)).unwrap();
    both().await;
    tokio::time::sleep(TOKENS_LIVE.unsigned_abs()).await;
    both().await;
    assert_eq!(world.gateway().take(0).await.1, QuotaLeft::Left(80));
    assert_eq!(one.metrics.lowered.get() + other.metrics.lowered.get(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_count_comes_back_by_the_seeder_and_is_not_made_by_the_reconciler() {
    let world = limited().await;
    world.use_up(world.live_key, AT, 20, 0).await;
    let reconciler = reconciler(&world);
    reconciler.run(&world.rows.store).await.unwrap();
    let mut gateway = world.gateway();
    assert_eq!(gateway.take(0).await.1, QuotaLeft::Unseeded);
    let _seeder = world.seeder();
    world.miss(&world.name()).await;
    assert_eq!(gateway.wait_until_seeded().await, QuotaLeft::Left(80));
    reconciler.run(&world.rows.store).await.unwrap();
    assert_eq!(gateway.take(0).await.1, QuotaLeft::Left(80));
}

/// FCALLs, and reads from sockets, that Redis has seen.
async fn seen_by_redis(world: &World) -> (i64, i64) {
    let info: String = world.command(&["INFO", "everything"]).await;
    let number = |before: &str| {
        let rest = info.split(before).nth(1).unwrap_or_default();
        rest.split(|after: char| !after.is_ascii_digit()).next().unwrap().parse().unwrap_or(0)
    };
    (number("cmdstat_fcall:calls="), number("total_reads_processed:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_cut_off_goes_on_where_it_was_and_asks_for_a_batch_in_one_go() {
    const MORE: i64 = 250;
    let world = limited().await;
    let others = format!(
        "INSERT INTO organizations (id, slug, name) SELECT gen_random_uuid(), 'other-' || n, 'Other' FROM generate_series(1, {MORE}) n;
         INSERT INTO subscriptions (id, product_id, plan_id, user_id, organization_id, status, activated_at, period_start, period_end, period_id)
         SELECT gen_random_uuid(), s.product_id, s.plan_id, s.user_id, o.id, 'active', s.activated_at, s.period_start, s.period_end, s.period_id
         FROM subscriptions s, organizations o WHERE o.slug LIKE 'other-%'"
    );
    world.rows.client.batch_execute(&others).await.unwrap();
    let last = world.rows.client.query_one("SELECT max(meter_id) FROM subscriptions", &[]).await.unwrap().get(0);
    let mut desk = Desk::new(world.limits());
    desk.connect().await.unwrap();
    desk.seed(&[crate::store::quota::UsedInPeriod { subscription: last, period: 202_611, used: 40 }]).await.unwrap();
    let (reconciler, store) = (Arc::new(reconciler(&world)), &world.rows.store);
    // Only the second batch, with the count, has to look into the billing record; and that is held.
    let holding = store.connection().await.unwrap();
    holding.batch_execute("BEGIN; LOCK TABLE usage_dirty IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let before = seen_by_redis(&world).await;
    let (running, at) = (Arc::clone(&reconciler), store.clone());
    let running = tokio::spawn(async move { running.run(&at).await });
    until_blocked(store, 1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    holding.batch_execute("COMMIT").await.unwrap();
    let cut_off = seen_by_redis(&world).await;
    assert_eq!(cut_off.0 - before.0, MORE + 1);
    assert!(cut_off.1 - before.1 < MORE / 2, "{} reads: one after the other", cut_off.1 - before.1);

    reconciler.run(store).await.unwrap();
    let whole = seen_by_redis(&world).await;
    assert_eq!(whole.0 - cut_off.0, MORE + 1 - i64::try_from(BATCH_MAX).unwrap(), "the second batch alone");
    assert_eq!((reconciler.metrics.compared.get(), reconciler.metrics.too_low.get()), (1, 0));
    assert_eq!(reconciler.memory.lock().await.past.rounds, 1);
}

/// What happens to a key between rounds, in tokens.
#[derive(Clone, Copy, Debug)]
enum Event {
    Granted(u64),
    Used(u64),
    /// Admitted, and failed by us.
    Failed(u64),
    GivenBack(u64),
    /// A gateway dies with all that it holds.
    Died,
    Round,
}

/// A key as it is, and as Redis has it. Postgres has at a round what was used until then.
#[derive(Debug, Default)]
struct Key {
    used: u64,
    out: u64,
    count: u64,
    credited: u64,
    sample: Option<Mended>,
}

impl Key {
    fn told(&self) -> Mended {
        Mended { before: self.count, after: self.count, credited: self.credited, born_us: 1, since_us: 1 }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Granted(tokens) => (self.out, self.count) = (self.out + tokens, self.count + tokens),
            Event::Used(tokens) => (self.out, self.used) = self.taken(tokens, tokens.min(self.out)),
            Event::Failed(tokens) => (self.out, self.used) = self.taken(tokens, 0),
            Event::GivenBack(tokens) => {
                let tokens = tokens.min(self.out);
                (self.out, self.count, self.credited) =
                    (self.out - tokens, self.count - tokens, self.credited + tokens);
            }
            Event::Died => self.out = 0,
            Event::Round => {
                // Tokens live for less than a round: what was out at the sample is used, given back or dead by now.
                let excess = self.sample.map_or(0, |sample| super::excess(&sample, &self.told(), self.used));
                self.count = (self.count - excess).max(self.used);
                self.sample = Some(self.told());
            }
        }
    }

    fn taken(&self, tokens: u64, used: u64) -> (u64, u64) {
        (self.out - tokens.min(self.out), self.used + used)
    }
}

fn any_event() -> impl proptest::strategy::Strategy<Value = Event> {
    use proptest::prelude::*;
    prop_oneof![
        3 => (1_u64..50).prop_map(Event::Granted),
        4 => (1_u64..50).prop_map(Event::Used),
        2 => (1_u64..50).prop_map(Event::Failed),
        3 => (1_u64..50).prop_map(Event::GivenBack),
        1 => Just(Event::Died),
    ]
}

proptest::proptest! {
    #[test]
    fn a_round_never_takes_back_what_was_used_or_is_out_and_in_quiet_it_is_exact(
        between in proptest::collection::vec(proptest::collection::vec(any_event(), 0..20), 1..12),
        refunded_late in proptest::bool::ANY,
    ) {
        let mut key = Key::default();
        for events in between {
            events.into_iter().for_each(|event| key.happen(event));
            // What is still out belongs to the time before the next round.
            if refunded_late {
                key.happen(Event::Round);
                key.happen(Event::GivenBack(u64::MAX));
            } else {
                key.happen(Event::Died);
                key.happen(Event::Round);
            }
            proptest::prop_assert!(key.count >= key.used + key.out, "{key:?}");
        }
        key.happen(Event::Died);
        key.happen(Event::Round);
        key.happen(Event::Round);
        proptest::prop_assert_eq!(key.count, key.used);
    }
}
