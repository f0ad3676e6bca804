//! The snapshot is a function of the database at a revision, however it was reached.

mod scale;

use prometheus::Registry;
use uuid::Uuid;

use super::testing_rows::Rows;
use super::*;
use crate::publish::book::Next;
use crate::store::changes::replace_lost_epoch;

fn builder(rows: &Rows) -> (Builder, Arc<Book>) {
    let book = Arc::new(Book::default());
    let metrics = BuilderMetrics::register(&Registry::new()).unwrap();
    (Builder::new(rows.store.clone(), Arc::clone(&book), metrics), book)
}

fn entity(kind: RecordKind, id: Uuid) -> EntityRef {
    EntityRef { kind, id }
}

fn product(book: &Book, id: Uuid) -> Option<wire::Product> {
    match book.record(&entity(RecordKind::Product, id))?.record {
        Some(wire::record::Record::Product(product)) => Some(product),
        _ => None,
    }
}

fn subscription(book: &Book, id: Uuid) -> Option<wire::Subscription> {
    match book.record(&entity(RecordKind::Subscription, id))?.record {
        Some(wire::record::Record::Subscription(subscription)) => Some(subscription),
        _ => None,
    }
}

fn has(book: &Book, kind: RecordKind, id: Uuid) -> bool {
    book.record(&entity(kind, id)).is_some()
}

async fn advance(rows: &Rows, builder: &mut Builder) {
    rows.number().await;
    builder.step().await.unwrap();
}

#[tokio::test]
async fn a_period_of_several_plans_includes_each_by_its_seconds_and_a_whole_one_what_the_plan_says() {
    let rows = Rows::start().await;
    let (publisher, consumer) = (rows.organization("acme").await, rows.organization("buyer").await);
    let shop = rows.product(publisher, "shop").await;
    let (basic, pro) = (rows.plan(shop, "basic").await, rows.plan(shop, "pro").await);
    rows.client
        .batch_execute(&format!(
            "SET session_replication_role = replica;
             UPDATE plans SET included_requests = CASE WHEN id = '{basic}' THEN 3000 ELSE 30000 END;
             SET session_replication_role = DEFAULT"
        ))
        .await
        .unwrap();
    let bought = rows.subscription(shop, basic, consumer).await;
    let (mut builder, book) = builder(&rows);
    advance(&rows, &mut builder).await;
    let included = || subscription(&book, bought).unwrap().period.unwrap().included_requests;
    assert_eq!(included(), None, "the plan's, all the month");

    // As the month that docs/BILLING.md works out: ten days of basic, twenty of pro.
    let change = format!(
        "WITH ended AS (UPDATE subscription_terms SET ends_at = '2026-11-11' WHERE subscription_id = $1 RETURNING 1),
            begun AS (INSERT INTO subscription_terms (subscription_id, starts_at, plan_id) SELECT $1, '2026-11-11', '{pro}' FROM ended)
         SELECT count(*) FROM ended"
    );
    rows.client.batch_execute("SET session_replication_role = replica").await.unwrap();
    let to_pro = format!("UPDATE subscriptions SET plan_id = '{pro}' WHERE id = $1");
    rows.sql(&change, &[&bought]).await;
    rows.change("subscription", bought, &to_pro).await;
    advance(&rows, &mut builder).await;
    assert_eq!(included(), Some(21_000));
    let next = subscription(&book, bought).unwrap().next_period.unwrap();
    assert_eq!(next.included_requests, None, "the next month is whole");

    // Ten minutes later: a started request is given.
    let begun =
        "UPDATE subscription_terms SET starts_at = '2026-11-11 00:10Z' WHERE ends_at IS NULL AND subscription_id = $1";
    rows.change("subscription", bought, begun).await;
    advance(&rows, &mut builder).await;
    assert_eq!(included(), Some(20_994));
}

#[tokio::test]
async fn what_is_served_follows_the_rows_without_a_release() {
    let rows = Rows::start().await;
    let (publisher, consumer) = (rows.organization("acme").await, rows.organization("buyer").await);
    let shop = rows.product(publisher, "shop").await;
    let plan = rows.plan(shop, "basic").await;
    let bought = rows.subscription(shop, plan, consumer).await;
    let key = rows.key(bought).await;
    let (mut builder, book) = builder(&rows);
    advance(&rows, &mut builder).await;
    let served = product(&book, shop).unwrap();
    assert_eq!((served.organization_slug.as_str(), served.slug.as_str(), served.release), ("acme", "shop", 1));
    assert_eq!(served.endpoints.len(), 1);
    let record = subscription(&book, bought).unwrap();
    assert_eq!(record.consumer_username, "buyer");
    let december = 1_796_083_200_000;
    assert_eq!(record.period, Some(wire::Period { id: 202_611, ends_at_ms: december, included_requests: None }));
    assert_eq!(
        record.next_period,
        Some(wire::Period { id: 202_612, ends_at_ms: december + 31 * 86_400_000, included_requests: None })
    );

    let caps = "UPDATE api_products SET requests_in_flight_max = 7 WHERE id = $1";
    rows.change("product", shop, caps).await;
    advance(&rows, &mut builder).await;
    let served = product(&book, shop).unwrap();
    assert_eq!((served.requests_in_flight_max, served.upstream_connections_max), (7, 0));

    rows.change("organization", publisher, "UPDATE organizations SET slug = 'apex' WHERE id = $1").await;
    rows.change("organization", consumer, "UPDATE organizations SET slug = 'client' WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert_eq!(product(&book, shop).unwrap().organization_slug, "apex");
    assert_eq!(subscription(&book, bought).unwrap().consumer_username, "client");

    rows.change("organization", consumer, "UPDATE organizations SET status = 'suspended' WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert_eq!(subscription(&book, bought).unwrap().status(), wire::SubscriptionStatus::Suspended);

    let cancel = "UPDATE subscriptions SET status = 'cancelled', cancelled_at = now() WHERE id = $1";
    rows.change("subscription", bought, cancel).await;
    rows.change("plan", plan, "UPDATE plans SET status = 'archived' WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert_eq!(subscription(&book, bought).unwrap().status(), wire::SubscriptionStatus::Cancelled);
    assert!(has(&book, RecordKind::Plan, plan), "the plan stays while a subscription in the snapshot names it");

    rows.change("key", key, "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert!(!has(&book, RecordKind::Key, key));
    assert!(!has(&book, RecordKind::Subscription, bought), "nobody can name it any more");
    assert!(!has(&book, RecordKind::Plan, plan));

    rows.change("product", shop, "UPDATE api_products SET status = 'deprecated' WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert!(product(&book, shop).is_some());
    rows.change("product", shop, "UPDATE api_products SET status = 'retired' WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert!(product(&book, shop).is_none());
}

#[tokio::test]
async fn a_release_that_does_not_compile_is_quarantined_alone_and_revocations_still_apply() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let (good, bad) = (rows.product(acme, "good").await, rows.product(acme, "bad").await);
    let plan = rows.plan(bad, "basic").await;
    let bought = rows.subscription(bad, plan, acme).await;
    let key = rows.key(bought).await;
    let (mut builder, book) = builder(&rows);
    advance(&rows, &mut builder).await;

    rows.release(bad, "no leading slash").await;
    advance(&rows, &mut builder).await;
    assert!(product(&book, bad).unwrap().quarantined);
    assert!(!product(&book, good).unwrap().quarantined);
    let reason = "SELECT quarantine_reason FROM api_products WHERE id = $1";
    let stored: Option<String> = rows.client.query_one(reason, &[&bad]).await.unwrap().get(0);
    assert!(stored.unwrap().starts_with("release 2: GET no leading slash"));
    assert_eq!(builder.metrics.quarantined.get(), 1);

    rows.change("key", key, "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert!(!has(&book, RecordKind::Key, key));

    rows.store_release(bad, b"\xff\xff not an encoded product").await;
    advance(&rows, &mut builder).await;
    assert!(product(&book, bad).unwrap().quarantined);

    rows.release(bad, "/mended").await;
    advance(&rows, &mut builder).await;
    assert!(!product(&book, bad).unwrap().quarantined);
    let stored: Option<String> = rows.client.query_one(reason, &[&bad]).await.unwrap().get(0);
    assert_eq!(stored, None);
}

#[tokio::test]
async fn a_restarted_builder_still_resumes_readers_of_the_recent_past() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let (mut first, book) = builder(&rows);
    advance(&rows, &mut first).await;
    let have = book.newest();
    rows.change("product", shop, "UPDATE api_products SET status = 'retired' WHERE id = $1").await;
    rows.number().await;
    let (mut second, restarted) = builder(&rows);
    second.step().await.unwrap();
    let Next::Delta(delta) = restarted.next(have) else { panic!("a delta, not everything") };
    let removed = wire::change::Change::Remove(entity(RecordKind::Product, shop).into());
    assert!(delta.changes.iter().any(|change| change.change == Some(removed.clone())));
}

#[tokio::test]
async fn a_restarted_builder_resumes_readers_of_an_epoch_that_began_behind_a_gap() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let (mut first, book) = builder(&rows);
    advance(&rows, &mut first).await;
    let former = book.newest().unwrap();
    assert!(replace_lost_epoch(&rows.store, former.epoch, former.revision + 1).await.unwrap());
    rows.changed("organization", acme).await;
    advance(&rows, &mut first).await;
    let have = book.newest();
    let shop = rows.product(acme, "shop").await;
    rows.number().await;
    let (mut second, restarted) = builder(&rows);
    second.step().await.unwrap();
    let Next::Delta(delta) = restarted.next(have) else { panic!("a delta, not everything") };
    assert!(delta.changes.iter().any(|change| matches!(&change.change, Some(wire::change::Change::Put(put))
        if matches!(&put.record, Some(wire::record::Record::Product(product)) if product.id == shop.as_bytes()))));
    assert_eq!(restarted.next(Some(former)), Next::Full);
}

#[tokio::test]
async fn a_restarted_builder_tells_readers_which_plans_have_lost_their_last_subscriber() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let (old, new) = (rows.plan(shop, "old").await, rows.plan(shop, "new").await);
    let bought = rows.subscription(shop, old, acme).await;
    rows.change("plan", old, "UPDATE plans SET status = 'archived' WHERE id = $1").await;
    let (mut first, book) = builder(&rows);
    advance(&rows, &mut first).await;
    assert!(has(&book, RecordKind::Plan, old));
    let have = book.newest();
    let sql = format!("UPDATE subscriptions SET plan_id = '{new}' WHERE id = $1");
    rows.change("subscription", bought, &sql).await;
    rows.number().await;
    // Of the past only what begins with the reader's revision is still stored, so that the plan's own changes do not tell.
    let begins = i64::try_from(have.unwrap().revision).unwrap();
    rows.sql("DELETE FROM config_changes WHERE revision < $1", &[&begins]).await;
    let (mut second, restarted) = builder(&rows);
    second.step().await.unwrap();
    let Next::Delta(delta) = restarted.next(have) else { panic!("a delta") };
    let removed = wire::change::Change::Remove(entity(RecordKind::Plan, old).into());
    assert!(delta.changes.iter().any(|change| change.change == Some(removed.clone())));
}

#[tokio::test]
async fn a_new_epoch_and_forgotten_changes_lead_to_a_whole_build() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let (mut builder, book) = builder(&rows);
    advance(&rows, &mut builder).await;
    let before = book.newest();
    rows.sql("UPDATE feed_state SET epoch = gen_random_uuid()", &[]).await;
    builder.step().await.unwrap();
    assert_ne!(book.newest(), before);
    assert_eq!(book.next(before), Next::Full);

    let have = book.newest();
    let shop = rows.product(acme, "shop").await;
    rows.number().await;
    rows.sql("DELETE FROM config_changes WHERE revision IS NOT NULL", &[]).await;
    builder.step().await.unwrap();
    assert!(product(&book, shop).is_some());
    assert_eq!(book.next(have), Next::Full);
    assert_eq!(builder.metrics.full_builds.get(), 3);
}

/// How long after it was changed a key leaves the snapshot, in milliseconds; the longer ones for a machine that needs longer to
/// build one with it.
const LEAVES_AFTER_MS: [u32; 4] = [300, 1_500, 6_000, 24_000];

/// Builds a snapshot that a key is still in and will soon leave; the key's change is not the last one.
async fn build_with_leaving(rows: &Rows, builder: &mut Builder, book: &Book, key: Uuid, organization: Uuid) {
    for leaves_after in LEAVES_AFTER_MS {
        let expires_at = format!("now() - interval '7 days' + interval '{leaves_after} milliseconds'");
        rows.change("key", key, &format!("UPDATE api_keys SET expires_at = {expires_at} WHERE id = $1")).await;
        rows.changed("organization", organization).await;
        advance(rows, builder).await;
        if has(book, RecordKind::Key, key) {
            return;
        }
    }
    panic!("no snapshot was built within {LEAVES_AFTER_MS:?} ms");
}

/// Until the database's own clock says so.
async fn wait_until_it_leaves(rows: &Rows, key: Uuid) {
    let left = "extract(epoch FROM expires_at + interval '7 days' - clock_timestamp()) + 0.01";
    rows.sql(&format!("SELECT pg_sleep(greatest({left}, 0)) FROM api_keys WHERE id = $1"), &[&key]).await;
}

#[tokio::test]
async fn keys_that_expired_long_ago_leave_the_snapshot_at_the_next_change() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let plan = rows.plan(shop, "basic").await;
    let bought = rows.subscription(shop, plan, acme).await;
    let (soon, kept) = (rows.key(bought).await, rows.key(bought).await);
    rows.change("key", kept, "UPDATE api_keys SET expires_at = now() - interval '1 hour' WHERE id = $1").await;
    let (mut builder, book) = builder(&rows);
    build_with_leaving(&rows, &mut builder, &book, soon, acme).await;
    assert!(has(&book, RecordKind::Key, kept));
    let have = book.newest();
    wait_until_it_leaves(&rows, soon).await;
    rows.changed("organization", acme).await;
    advance(&rows, &mut builder).await;
    assert!(!has(&book, RecordKind::Key, soon) && has(&book, RecordKind::Key, kept));
    let Next::Delta(delta) = book.next(have) else { panic!("a delta") };
    assert_eq!(delta.changes.len(), 1, "readers are told");
}

#[tokio::test]
async fn after_a_gap_in_the_changes_a_whole_build_promises_no_past() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let (mut first, book) = builder(&rows);
    advance(&rows, &mut first).await;
    let have = book.newest();
    rows.change("product", shop, "UPDATE api_products SET status = 'retired' WHERE id = $1").await;
    rows.organization("later").await;
    let newest = rows.number().await;
    let retired = i64::try_from(newest - 1).unwrap();
    rows.sql("DELETE FROM config_changes WHERE revision = $1", &[&retired]).await;
    let (mut second, restarted) = builder(&rows);
    second.step().await.unwrap();
    assert_eq!(restarted.next(have), Next::Full, "a delta would leave the retired product where it is");
}

#[tokio::test]
async fn a_restarted_builder_tells_readers_of_keys_that_expired_long_ago_meanwhile() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let plan = rows.plan(shop, "basic").await;
    let bought = rows.subscription(shop, plan, acme).await;
    let key = rows.key(bought).await;
    let (mut first, book) = builder(&rows);
    build_with_leaving(&rows, &mut first, &book, key, acme).await;
    let have = book.newest();
    wait_until_it_leaves(&rows, key).await;
    rows.changed("organization", acme).await;
    rows.number().await;
    // Of the past only what begins with the reader's revision is still stored, so that the key's own change does not tell.
    let begins = i64::try_from(have.unwrap().revision).unwrap();
    rows.sql("DELETE FROM config_changes WHERE revision < $1", &[&begins]).await;
    let (mut second, restarted) = builder(&rows);
    second.step().await.unwrap();
    assert!(!has(&restarted, RecordKind::Key, key));
    let Next::Delta(delta) = restarted.next(have) else { panic!("a delta") };
    let removed = wire::change::Change::Remove(entity(RecordKind::Key, key).into());
    assert!(delta.changes.iter().any(|change| change.change == Some(removed.clone())));
}

#[tokio::test]
async fn an_organization_of_many_products_is_read_whole() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let mut products = Vec::new();
    for index in 0..130 {
        products.push(rows.product(acme, &format!("shop-{index}")).await);
    }
    let (mut builder, book) = builder(&rows);
    advance(&rows, &mut builder).await;
    rows.change("organization", acme, "UPDATE organizations SET slug = 'apex' WHERE id = $1").await;
    advance(&rows, &mut builder).await;
    assert!(products.iter().all(|id| product(&book, *id).unwrap().organization_slug == "apex"));
}

#[tokio::test]
async fn a_text_that_is_none_of_ours_is_never_read_as_the_lenient_one() {
    let rows = Rows::start().await;
    let acme = rows.organization("acme").await;
    let shop = rows.product(acme, "shop").await;
    let plan = rows.plan(shop, "basic").await;
    let bought = rows.subscription(shop, plan, acme).await;
    rows.key(bought).await;
    rows.number().await;
    for (table, column) in [("plans", "quota_mode"), ("subscriptions", "status"), ("api_keys", "environment")] {
        let alter = format!(
            "SET session_replication_role = replica;
             ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_{column}_check;
             ALTER TABLE {table} ADD COLUMN before_it text; UPDATE {table} SET before_it = {column}, {column} = 'HARD'"
        );
        rows.client.batch_execute(&alter).await.unwrap();
        let (mut builder, book) = builder(&rows);
        let error = builder.step().await.unwrap_err().to_string();
        assert!(error.contains(column) && error.contains("HARD"), "{error}");
        assert_eq!(book.newest(), None);
        rows.sql(&format!("UPDATE {table} SET {column} = before_it"), &[]).await;
        builder.step().await.unwrap();
    }
}

/// A small generator, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn pick(&mut self, from: &[Uuid]) -> Uuid {
        from[self.roll(from.len())]
    }
}

#[derive(Default)]
struct World {
    organizations: Vec<Uuid>,
    products: Vec<Uuid>,
    plans: Vec<(Uuid, Uuid)>,
    subscriptions: Vec<Uuid>,
    keys: Vec<Uuid>,
    names: u32,
}

impl World {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("name-{}", self.names)
    }

    async fn start(rows: &Rows) -> World {
        let mut world = World::default();
        for _ in 0..3 {
            let name = world.name();
            world.organizations.push(rows.organization(&name).await);
        }
        for index in 0..3 {
            let name = world.name();
            let product = rows.product(world.organizations[index], &name).await;
            world.products.push(product);
            for _ in 0..2 {
                let name = world.name();
                world.plans.push((rows.plan(product, &name).await, product));
            }
        }
        world
    }

    async fn change_something(&mut self, rows: &Rows, dice: &mut Dice) {
        let name = self.name();
        match dice.roll(17) {
            0 => {
                let sql = format!("UPDATE organizations SET slug = '{name}' WHERE id = $1");
                rows.change("organization", dice.pick(&self.organizations), &sql).await;
            }
            1 => {
                let status = ["active", "suspended"][dice.roll(2)];
                let sql = format!("UPDATE organizations SET status = '{status}' WHERE id = $1");
                rows.change("organization", dice.pick(&self.organizations), &sql).await;
            }
            2 => {
                let status = ["published", "deprecated", "retired"][dice.roll(3)];
                let sql = format!("UPDATE api_products SET status = '{status}' WHERE id = $1");
                rows.change("product", dice.pick(&self.products), &sql).await;
            }
            3 => rows.release(dice.pick(&self.products), &format!("/{name}")).await,
            4 => rows.release(dice.pick(&self.products), "broken").await,
            5 => {
                let product = rows.product(dice.pick(&self.organizations), &name).await;
                self.products.push(product);
            }
            6 | 7 => {
                let product = dice.pick(&self.products);
                self.plans.push((rows.plan(product, &name).await, product));
            }
            8 => {
                let plan = self.plans[dice.roll(self.plans.len())].0;
                rows.change("plan", plan, "UPDATE plans SET status = 'archived' WHERE id = $1").await;
            }
            9 | 10 => {
                let (plan, product) = self.plans[dice.roll(self.plans.len())];
                let consumer = rows.organization(&name).await;
                self.subscriptions.push(rows.subscription(product, plan, consumer).await);
            }
            11 | 12 if !self.subscriptions.is_empty() => {
                self.keys.push(rows.key(dice.pick(&self.subscriptions)).await);
            }
            13 if !self.subscriptions.is_empty() => self.change_subscription(rows, dice).await,
            14 if !self.keys.is_empty() => {
                let sql =
                    "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1 AND status = 'active'";
                rows.change("key", dice.pick(&self.keys), sql).await;
            }
            15 if !self.keys.is_empty() => {
                let days = [-30, -1, 10][dice.roll(3)];
                let sql = format!("UPDATE api_keys SET expires_at = now() + interval '{days} days' WHERE id = $1");
                rows.change("key", dice.pick(&self.keys), &sql).await;
            }
            _ => {
                let sql = format!("UPDATE feed_state SET fleet_max = {} WHERE $1::uuid IS NOT NULL", 1 + dice.roll(9));
                rows.change("fleet", Uuid::now_v7(), &sql).await;
            }
        }
    }

    async fn change_subscription(&mut self, rows: &Rows, dice: &mut Dice) {
        let id = dice.pick(&self.subscriptions);
        let sql = match dice.roll(4) {
            0 => {
                "UPDATE subscriptions SET status = 'cancelled', cancelled_at = now() WHERE id = $1 AND status <> 'cancelled'"
            }
            1 => "UPDATE subscriptions SET status = 'suspended' WHERE id = $1 AND status = 'active'",
            2 => "UPDATE subscriptions SET override_requests_per_minute = 5, override_burst_limit = 5 WHERE id = $1",
            _ => {
                "UPDATE subscriptions s SET plan_id = (SELECT p.id FROM plans p WHERE p.product_id = s.product_id
                    ORDER BY p.id DESC LIMIT 1) WHERE s.id = $1"
            }
        };
        rows.change("subscription", id, sql).await;
    }
}

#[tokio::test]
async fn what_was_built_step_by_step_equals_a_whole_build_to_the_byte() {
    for seed in [11, 23, 47] {
        let rows = Rows::start().await;
        let mut world = World::start(&rows).await;
        let mut dice = Dice(seed);
        let (mut often, often_book) = builder(&rows);
        let (mut seldom, seldom_book) = builder(&rows);
        advance(&rows, &mut often).await;
        seldom.step().await.unwrap();
        for round in 0..150 {
            world.change_something(&rows, &mut dice).await;
            if dice.roll(2) == 0 {
                advance(&rows, &mut often).await;
            }
            if dice.roll(12) == 0 {
                seldom.step().await.unwrap();
            }
            if round % 50 == 49 {
                let newest = rows.number().await;
                let (mut whole, whole_book) = builder(&rows);
                for built in [&mut often, &mut seldom, &mut whole] {
                    built.step().await.unwrap();
                }
                let (token, want) = whole_book.records();
                assert_eq!(token.unwrap().revision, newest);
                assert_eq!(often_book.records(), (token, want.clone()), "seed {seed}, round {round}");
                assert_eq!(seldom_book.records(), (token, want), "seed {seed}, round {round}");
                let bytes = |book: &Book| book.full().unwrap().chunks().flatten().collect::<Vec<u8>>();
                assert_eq!(bytes(&often_book), bytes(&whole_book));
                assert_eq!(bytes(&seldom_book), bytes(&whole_book));
            }
        }
        assert_eq!((often.metrics.full_builds.get(), seldom.metrics.full_builds.get()), (1, 1));
    }
}
