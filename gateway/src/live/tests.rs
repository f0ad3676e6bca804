//! The snapshot's promises: tenancy of addresses, deltas equal to rebuilds, failing closed, cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::snapshot::key::{Environment, KeyDigest};
use ::snapshot::wire;
use proptest::prelude::*;
use prost::Message as _;
use uuid::Uuid;

use super::fixtures::{self, IntoRecord, endpoint, id, key, plan, product, put, remove, subscription, token};
use super::stored::{Restoring, decode};
use super::{Building, Live, ProductEntry, Snapshot};

fn built(records: Vec<wire::Record>) -> Snapshot {
    let (snapshot, refusals) = Snapshot::build(token(1), records);
    assert_eq!(refusals, []);
    snapshot
}

fn found<'s>(snapshot: &'s Snapshot, host: Option<&str>, path: &str) -> Option<(&'s ProductEntry, String)> {
    snapshot.product_for(host, path).map(|found| (found.entry.as_ref(), found.path.to_owned()))
}

fn slug_and_path(snapshot: &Snapshot, host: Option<&str>, path: &str) -> Option<(String, String)> {
    found(snapshot, host, path).map(|(entry, path)| (entry.slug.clone(), path))
}

/// In place of `snapshot`.
fn rebuilt(snapshot: &Snapshot, revision: u64, records: &[wire::Record]) -> (Snapshot, Vec<wire::Refusal>) {
    let mut building = Building::beside(Arc::new(snapshot.clone()));
    records.iter().for_each(|record| building.put(record));
    building.finish(token(revision))
}

/// To the blocks of a file and back.
fn reread(snapshot: &Snapshot) -> Snapshot {
    let mut restoring = Restoring::default();
    let read = |kind, block: &[u8]| restoring.take(kind, decode(kind, block)?);
    snapshot.write_blocks(read).unwrap();
    restoring.finish(snapshot.token.unwrap()).unwrap()
}

/// Everything that a snapshot holds, in a form that can be compared.
fn picture(snapshot: &Snapshot) -> (Vec<Vec<u8>>, Vec<String>, Vec<String>, u32) {
    let refused = snapshot.refused.values().map(|refused| refused.record.clone());
    let mut records: Vec<Vec<u8>> = snapshot.records().chain(refused).map(|record| record.encode_to_vec()).collect();
    records.sort();
    let mut hosts: Vec<String> = snapshot.upstream_hosts().map(|(host, port)| format!("{host}:{port}")).collect();
    hosts.sort();
    let packed: Vec<_> = snapshot.keys.leaves().flat_map(|leaf| leaf.records()).collect();
    let keys = packed.into_iter().map(|record| {
        let key = snapshot.serve_key(record).unwrap();
        assert_eq!(snapshot.keys.by_id(&key.id).map(|found| found.tag), Some(key.tag));
        assert_eq!(snapshot.key_by_tag(&key.tag).map(|found| found.id), Some(key.id));
        let subscription = snapshot.subscriptions.key_of(record.subscription()).unwrap();
        let (environment, ends, scopes) = (key.environment, key.expires_at_ms, &*key.scopes);
        format!("{} {} {:?} {environment:?} {ends:?} {scopes:?} {subscription}", key.id, key.meter_id, key.tag)
    });
    (records, hosts, keys.collect(), snapshot.fleet_max)
}

#[test]
fn a_product_is_found_by_its_names_or_by_its_own_host() {
    let mut own = product(2);
    own.hosts = vec!["API.Example.com".to_owned()];
    let snapshot = built(vec![product(1).record(), own.record()]);
    let pair = |slug: &str, path: &str| Some((slug.to_owned(), path.to_owned()));
    for (host, path, expected) in [
        (None, "/acme/p1/users/7", pair("p1", "/users/7")),
        (None, "/acme/p1", pair("p1", "/")),
        (None, "/acme/p1/", pair("p1", "/")),
        (Some("gateway.example"), "/acme/p1/x", pair("p1", "/x")),
        (Some("api.example.com"), "/acme/p1/x", pair("p2", "/acme/p1/x")),
        (Some("api.EXAMPLE.com.:8080"), "/", pair("p2", "/")),
        (None, "/acme/p2/x", pair("p2", "/x")),
        (None, "/acme/p3/x", None),
        (None, "/other/p1/x", None),
        (None, "/ACME/p1/x", None),
        (None, "/acme", None),
        (None, "/", None),
        (Some("example.com"), "/", None),
    ] {
        assert_eq!(slug_and_path(&snapshot, host, path), expected, "{host:?} {path}");
    }
}

#[test]
fn an_address_claimed_twice_belongs_to_the_older_product_whatever_the_order() {
    let (mut first, mut second) = (product(1), product(2));
    (first.hosts, second.hosts) = (vec!["h.example".into()], vec!["h.example".into()]);
    (first.slug, second.slug) = ("same".into(), "same".into());
    for records in [[first.clone(), second.clone()], [second, first]] {
        let snapshot = built(records.into_iter().map(IntoRecord::record).collect());
        for (host, path) in [(Some("h.example"), "/"), (None, "/acme/same")] {
            assert_eq!(found(&snapshot, host, path).unwrap().0.id, Uuid::from_u128(1));
        }
        let (without, _) = snapshot.apply(token(2), &[remove(wire::EntityKind::Product, 1)]);
        assert_eq!(found(&without, Some("h.example"), "/").unwrap().0.id, Uuid::from_u128(2));
    }
}

#[test]
fn a_renamed_product_leaves_its_old_address() {
    let snapshot = built(vec![product(1).record()]);
    let mut renamed = product(1);
    renamed.slug = "new".into();
    let (snapshot, _) = snapshot.apply(token(2), &[put(renamed)]);
    assert_eq!(slug_and_path(&snapshot, None, "/acme/p1"), None);
    assert!(slug_and_path(&snapshot, None, "/acme/new").is_some());
}

#[test]
fn a_quarantined_product_keeps_what_is_served_or_is_closed() {
    let mut quarantined = product(1);
    (quarantined.quarantined, quarantined.release) = (true, 2);
    let snapshot = built(vec![product(1).record()]);

    let (kept, refusals) = snapshot.apply(token(2), &[put(quarantined.clone())]);
    assert_eq!(found(&kept, None, "/acme/p1").unwrap().0.served().unwrap().release, 1);
    assert!(refusals[0].reason.contains("an older release is served: its release is quarantined"), "{refusals:?}");

    let (rebuilt, refusals) = rebuilt(&kept, 3, &[quarantined.clone().record()]);
    assert!(found(&rebuilt, None, "/acme/p1").unwrap().0.served().is_some());
    assert_eq!(refusals.len(), 1);

    let from_disk = reread(&rebuilt);
    assert!(found(&from_disk, None, "/acme/p1").unwrap().0.served().is_some());
    assert_eq!(from_disk.refusals(0), refusals);

    let (closed, refusals) = Snapshot::build(token(3), [quarantined.record()]);
    assert!(found(&closed, None, "/acme/p1").unwrap().0.served().is_none());
    assert!(refusals[0].reason.contains("it is closed"), "{refusals:?}");

    let mut mended = product(1);
    mended.release = 3;
    let (open, refusals) = closed.apply(token(4), &[put(mended)]);
    assert_eq!(found(&open, None, "/acme/p1").unwrap().0.served().unwrap().release, 3);
    assert_eq!(refusals, []);
}

#[test]
fn a_release_that_does_not_compile_here_is_held_back_with_every_fault() {
    let mut broken = product(1);
    broken.endpoints.push(endpoint("GET", "/users/{other}", "http://10.0.0.1/"));
    broken.endpoints.push(endpoint("GET", "/x", "ftp://h/"));
    let (kept, refusals) = built(vec![product(1).record()]).apply(token(2), &[put(broken)]);
    assert!(found(&kept, None, "/acme/p1").unwrap().0.served().is_some());
    assert!(refusals[0].reason.contains("match the same requests") && refusals[0].reason.contains("http://"));
}

#[test]
fn a_product_that_needs_an_unknown_feature_is_closed_even_if_an_older_release_was_served() {
    let mut newer = product(1);
    newer.requires = vec!["time-travel.v9".into()];
    let (snapshot, refusals) = built(vec![product(1).record(), product(2).record()]).apply(token(2), &[put(newer)]);
    assert!(found(&snapshot, None, "/acme/p1").unwrap().0.served().is_none());
    assert!(found(&snapshot, None, "/acme/p2").unwrap().0.served().is_some());
    assert_eq!(refusals[0].reason, "it requires what this gateway lacks: time-travel.v9");
    // It goes on being reported until it is mended.
    let (snapshot, refusals) = snapshot.apply(token(3), &[put(plan(10, 60))]);
    assert_eq!((refusals.len(), snapshot.counts().refused), (1, 1));
    let (_, refusals) = snapshot.apply(token(4), &[remove(wire::EntityKind::Product, 1)]);
    assert_eq!(refusals, []);
}

#[test]
fn a_record_that_cannot_be_read_takes_the_old_one_with_it() {
    let minted = fixtures::minted(Environment::Live);
    let good = key(20, 11, &minted);
    let digest = KeyDigest(good.digest.clone().try_into().unwrap());
    let snapshot = built(vec![good.clone().record(), plan(10, 60).record(), subscription(11, 1, 10).record()]);
    let (mut bad_key, mut bad_plan, mut bad_subscription) = (good, plan(10, 60), subscription(11, 1, 10));
    bad_key.environment = 77;
    bad_plan.policy = None;
    bad_subscription.status = 77;
    let changes = [put(bad_key), put(bad_plan), put(bad_subscription), wire::Change { change: None }];
    let (snapshot, refusals) = snapshot.apply(token(2), &changes);
    assert!(snapshot.key(&digest).is_none());
    assert!(snapshot.plan(&Uuid::from_u128(10)).is_none());
    assert!(snapshot.subscription(&Uuid::from_u128(11)).is_none());
    let reasons: Vec<&str> = refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "this gateway does not know this kind of record",
            "plan.policy is missing or not valid",
            "subscription.status is missing or not valid",
            "key.environment is missing or not valid",
        ]
    );
}

#[test]
fn a_key_is_gone_once_removed_and_a_new_digest_replaces_the_old() {
    let (old, new) = (fixtures::minted(Environment::Live), fixtures::minted(Environment::Live));
    let snapshot = built(vec![key(20, 11, &old).record()]);
    let (rotated, _) = snapshot.apply(token(2), &[put(key(20, 11, &new))]);
    assert!(rotated.key(&old.digest).is_none() && rotated.key(&new.digest).is_some());
    let (removed, _) = rotated.apply(token(3), &[remove(wire::EntityKind::Key, 20)]);
    assert!(removed.key(&new.digest).is_none());
    assert!(snapshot.key(&old.digest).is_some(), "an older copy is untouched");
    assert_eq!(removed.counts().keys, 0);
    assert_eq!(removed.subscriptions.given().count(), 0, "nobody refers to the subscription any more");
}

#[test]
fn one_key_of_a_hundred_thousand_changes_a_handful_of_leaves() {
    let minted = fixtures::minted(Environment::Live);
    let records = (0..100_000u128).map(|number| {
        let mut key = key(number + 1, 1, &minted);
        key.digest = ::snapshot::key::digest(&number.to_le_bytes()).0.to_vec();
        key.record()
    });
    let (before, _) = Snapshot::build(token(1), records);
    let (after, _) = before.apply(token(2), &[put(key(50, 1, &minted))]);
    let (by_tag, by_id) = after.keys.leaves_apart(&before.keys);
    assert!(by_tag <= 2, "the old digest's leaf and the new one's");
    assert_eq!(by_id, 1);
    assert!(after.products.is_same(&before.products));
    assert!(after.has_same_upstreams(&before));
    assert_eq!(after.counts().keys, 100_000);
}

#[test]
fn of_a_thousand_products_with_a_hundred_endpoints_a_change_compiles_one() {
    let large = |number: u128| {
        let mut it = product(number);
        let routes = (0..100).map(|at| endpoint("GET", &format!("/v1/r{at}/{{id}}"), "http://10.0.0.1:9000/{id}"));
        it.endpoints = routes.collect();
        it
    };
    let before = built((1..=1_000).map(|number| large(number).record()).collect());
    assert_eq!((before.counts().products, before.upstream_hosts().count()), (1_000, 1));
    let mut changed = large(500);
    changed.release = 2;
    let (after, _) = before.apply(token(2), &[put(changed)]);
    let served = |snapshot: &Snapshot, number: u128| {
        let entry = snapshot.product(&Uuid::from_u128(number)).and_then(|entry| entry.served()).cloned();
        entry.unwrap()
    };
    let compiled = (1..=1_000).filter(|number| !Arc::ptr_eq(&served(&before, *number), &served(&after, *number)));
    assert_eq!(compiled.collect::<Vec<_>>(), [500]);
    assert_eq!(after.products.leaves_apart(&before.products), 1);
    for number in [1, 500, 1_000] {
        let path = format!("/acme/p{number}/v1/r99/7");
        let (entry, rest) = found(&after, None, &path).unwrap();
        let routes = &entry.served().unwrap().routes;
        let found = routes.find(&http::Method::GET, &rest);
        assert!(matches!(found, ::snapshot::routes::Found::Endpoint(99, _)), "{path}");
    }
}

#[test]
fn keys_that_share_an_id_or_a_digest_in_a_whole_snapshot_are_all_refused() {
    let (one, other) = (fixtures::minted(Environment::Live), fixtures::minted(Environment::Live));
    let twins =
        [key(20, 11, &one), key(21, 11, &one), key(22, 11, &other), key(22, 12, &fixtures::minted(Environment::Live))];
    let alone = fixtures::minted(Environment::Live);
    let records = twins.into_iter().chain([key(23, 11, &alone)]).map(IntoRecord::record);
    let (snapshot, refusals) = Snapshot::build(token(1), records);
    assert_eq!((snapshot.counts().keys, refusals.len()), (1, 3), "{refusals:?}");
    assert!(snapshot.key(&one.digest).is_none() && snapshot.key(&other.digest).is_none());
    assert!(snapshot.key(&alone.digest).is_some());
    assert_eq!(reread(&snapshot).counts(), snapshot.counts());
}

#[test]
fn a_key_leads_to_its_subscription_and_plan_whatever_came_first_and_never_to_another() {
    let minted = fixtures::minted(Environment::Live);
    let (mut snapshot, _) = Snapshot::build(token(1), [key(20, 11, &minted).record()]);
    let of_key = |snapshot: &Snapshot| {
        let key = snapshot.key(&minted.digest).unwrap();
        snapshot.subscription_of(&key).map(|it| (it.id, snapshot.plan_of(it).map(|plan| plan.id)))
    };
    assert_eq!(of_key(&snapshot), None);
    let (eleven, ten) = (Uuid::from_u128(11), Uuid::from_u128(10));
    for (revision, change, expected) in [
        (2, put(subscription(12, 1, 10)), None),
        (3, put(subscription(11, 1, 10)), Some((eleven, None))),
        (4, put(plan(9, 60)), Some((eleven, None))),
        (5, put(plan(10, 60)), Some((eleven, Some(ten)))),
        (6, remove(wire::EntityKind::Subscription, 11), None),
        (7, put(subscription(13, 1, 10)), None),
        (8, put(subscription(11, 1, 9)), Some((eleven, Some(Uuid::from_u128(9))))),
        (9, remove(wire::EntityKind::Plan, 9), Some((eleven, None))),
        (10, put(plan(8, 60)), Some((eleven, None))),
    ] {
        let number = snapshot.subscription(&eleven).map(|it| it.number);
        snapshot = snapshot.apply(token(revision), &[change]).0;
        assert_eq!(of_key(&snapshot), expected, "revision {revision}");
        assert_eq!(of_key(&reread(&snapshot)), expected, "revision {revision}, from disk");
        let now = snapshot.subscription(&eleven).map(|it| it.number);
        assert!(number.is_none() || now.is_none() || number == now, "its number stays");
    }
}

#[test]
fn the_upstream_hosts_are_those_of_the_served_products() {
    let mut other = product(2);
    other.endpoints =
        vec![endpoint("GET", "/", "https://api.example.com/"), endpoint("GET", "/b", "http://10.0.0.1:9000/")];
    let snapshot = built(vec![product(1).record(), other.record()]);
    let hosts = |snapshot: &Snapshot| picture(snapshot).1;
    assert_eq!(hosts(&snapshot), ["10.0.0.1:9000", "api.example.com:443"]);
    let (less, _) = snapshot.apply(token(2), &[remove(wire::EntityKind::Product, 2)]);
    assert_eq!(hosts(&less), ["10.0.0.1:9000"]);
    assert!(!less.has_same_upstreams(&snapshot));
}

#[tokio::test]
async fn a_store_is_seen_by_new_loads_and_told_to_subscribers() {
    let live = Live::new(Snapshot::empty());
    let pinned = live.load();
    let mut changes = live.clone().subscribe();
    live.store(built(vec![product(1).record()]));
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), Some(token(1)));
    assert!(pinned.token.is_none() && live.load().token.is_some());
}

/// A change as a test writes it: what, which one, in which variant.
#[derive(Clone, Debug)]
enum Step {
    Product(u128, u8),
    Plan(u128, u32),
    Subscription(u128, u128),
    Key(u128, u8),
    Fleet(u32),
    Remove(u8, u128),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..5u128, 0..6u8).prop_map(|(number, variant)| Step::Product(number, variant)),
        (10..13u128, 0..100u32).prop_map(|(number, rate)| Step::Plan(number, rate)),
        (20..25u128, 1..5u128).prop_map(|(number, product)| Step::Subscription(number, product)),
        (30..36u128, 0..4u8).prop_map(|(number, variant)| Step::Key(number, variant)),
        (0..5u32).prop_map(Step::Fleet),
        (0..4u8, 0..6u128).prop_map(|(kind, number)| Step::Remove(kind, number)),
    ]
}

/// The variants share slugs and hosts between products, need unknown features, do not compile; rate 0 is refused.
fn change_of(step: &Step) -> (wire::EntityKind, u128, Option<wire::Record>) {
    match *step {
        Step::Product(number, variant) => {
            let mut it = product(number);
            match variant {
                0 => {}
                1 => it.slug = "shared".into(),
                2 => it.hosts = vec!["a.example".into(), format!("h{number}.example")],
                3 => it.requires = vec!["unknown.v1".into()],
                4 => it.endpoints = vec![endpoint("*", "/{*rest}", &format!("https://u{number}.example/{{rest}}"))],
                _ => it.hosts = vec!["a.example".into()],
            }
            (wire::EntityKind::Product, number, Some(it.record()))
        }
        Step::Plan(number, rate) => (wire::EntityKind::Plan, number, Some(plan(number, rate).record())),
        Step::Subscription(number, product) => {
            (wire::EntityKind::Subscription, number, Some(subscription(number, product, 10).record()))
        }
        Step::Key(number, variant) => {
            let minted = fixtures::minted(Environment::Live);
            let mut it = key(number, 20, &minted);
            it.digest = ::snapshot::key::digest(&[u8::try_from(number).unwrap(), variant]).0.to_vec();
            it.environment = if variant == 3 { 0 } else { it.environment };
            it.scopes = if variant == 2 { vec!["read".into(), format!("s{number}")] } else { Vec::new() };
            it.expires_at_ms = (variant == 1).then_some(7);
            (wire::EntityKind::Key, number, Some(it.record()))
        }
        Step::Fleet(fleet_max) => (wire::EntityKind::Fleet, 0, Some(wire::Fleet { fleet_max }.record())),
        Step::Remove(kind, number) => match kind {
            0 => (wire::EntityKind::Product, number, None),
            1 => (wire::EntityKind::Plan, number + 10, None),
            2 => (wire::EntityKind::Subscription, number + 20, None),
            _ => (wire::EntityKind::Key, number + 30, None),
        },
    }
}

proptest! {
    #[test]
    fn changes_one_by_one_give_the_same_snapshot_as_a_build_from_the_final_state(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let mut applied = Snapshot::build(token(0), []).0;
        let mut state = BTreeMap::new();
        let mut refusals = Vec::new();
        for step in &steps {
            let (kind, number, record) = change_of(step);
            let change = match &record {
                Some(record) => wire::Change { change: Some(wire::change::Change::Put(record.clone())) },
                None => remove(kind, number),
            };
            (applied, refusals) = applied.apply(token(1), &[change]);
            match record {
                Some(record) => state.insert((i32::from(kind), number), record),
                None => state.remove(&(i32::from(kind), number)),
            };
        }
        let (rebuilt, refused) = Snapshot::build(token(1), state.into_values());
        prop_assert_eq!(picture(&applied), picture(&rebuilt));
        prop_assert_eq!(refusals, refused.clone());
        prop_assert_eq!(applied.counts(), rebuilt.counts());
        for path in ["/acme/p1", "/acme/p2", "/acme/p3", "/acme/p4", "/acme/shared"] {
            let owner = |snapshot: &Snapshot, host| found(snapshot, host, path).map(|(entry, rest)| (entry.id, rest));
            for host in [None, Some("a.example"), Some("h1.example"), Some("h2.example")] {
                prop_assert_eq!(owner(&applied, host), owner(&rebuilt, host));
            }
        }
        // And what goes to disk comes back as the same.
        let reread = reread(&applied);
        prop_assert_eq!(picture(&reread), picture(&applied));
        prop_assert_eq!(reread.refusals(0), refused);
    }
}

#[test]
fn ids_of_the_fixtures_are_what_the_tests_say() {
    assert_eq!(id(7), Uuid::from_u128(7).as_bytes());
}
