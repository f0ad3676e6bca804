//! A snapshot and its log as this version of the format is written, committed: whatever changes, a gateway that is upgraded serves them and
//! finds each of their keys, by its secret and by its id. A format that is changed on purpose gets another version and other files.

use std::path::{Path, PathBuf};

use snapshot::key::{KeyDigest, digest};

use super::*;
use crate::live::JournalEntry;
use crate::live::fixtures::{self, IntoRecord, plan, product, put, remove, subscription};

/// So many that they lie in several shards, some together.
const KEYS: std::ops::Range<u128> = 1_000..1_200;
const LATER: u128 = 1_500;
const REVOKED: u128 = 1_007;

fn digest_of(number: u128) -> KeyDigest {
    digest(format!("golden key {number}").as_bytes())
}

fn key(number: u128) -> wire::Key {
    let kind = number % 4;
    wire::Key {
        id: fixtures::id(number),
        meter_id: u64::try_from(number).unwrap(),
        digest: digest_of(number).0.to_vec(),
        subscription_id: fixtures::id(11),
        environment: if kind == 1 { wire::Environment::Test } else { wire::Environment::Live }.into(),
        expires_at_ms: (kind == 2).then_some(4_000_000_000_000),
        scopes: if kind == 3 { vec!["read".into(), "write".into()] } else { vec![] },
    }
}

/// Revision 7, and three changes.
fn write(disk: &DiskSnapshot) {
    let others = [fleet(3), product(1).record(), plan(10, 60).record(), subscription(11, 1, 10).record()];
    let (whole, refusals) =
        Snapshot::build(token(1, 7), others.into_iter().chain(KEYS.map(|number| key(number).record())));
    assert!(refusals.is_empty());
    disk.save(&whole, 1_767_225_600_000, || true).unwrap();
    let changes = [put(key(LATER)), remove(wire::EntityKind::Key, REVOKED), put(wire::Fleet { fleet_max: 4 })];
    let entry = |(revision, change)| Arc::new(JournalEntry::new(token(1, revision), token(1, revision + 1), &[change]));
    disk.append(&(7..).zip(changes).map(entry).collect::<Vec<_>>()).unwrap();
}

/// The committed files. With `APIHUB_REGENERATE=1` missing ones are made; those that exist stay as they are.
fn committed() -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/feed/tests/golden/v2.snapshot");
    if std::env::var_os("APIHUB_REGENERATE").is_some() && !file.exists() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        write(&DiskSnapshot::at(&file));
        std::fs::remove_file(file.with_extension("snapshot.lock")).unwrap();
    }
    file
}

#[test]
fn a_snapshot_of_this_format_is_served_and_each_of_its_keys_can_be_revoked() {
    let loaded = DiskSnapshot::at(committed()).load().unwrap();
    assert_eq!((loaded.changes, loaded.saved_at_ms), (3, 1_767_225_600_000));
    let mut served = loaded.snapshot;
    assert_eq!((served.token, served.fleet_max), (Some(token(1, 10)), 4));
    let counts = served.counts();
    assert_eq!((counts.products, counts.plans, counts.subscriptions, counts.refused), (1, 1, 1, 0));
    assert_eq!(counts.keys, KEYS.count());
    assert!(served.key(&digest_of(REVOKED)).is_none());
    for number in KEYS.filter(|number| *number != REVOKED).chain([LATER]) {
        let (found, wanted) = (served.key(&digest_of(number)).unwrap(), key(number));
        assert_eq!((found.id.as_bytes().as_slice(), found.meter_id), (wanted.id.as_slice(), wanted.meter_id));
        assert_eq!(found.expires_at_ms, wanted.expires_at_ms);
        assert_eq!(found.environment == snapshot::key::Environment::Test, number % 4 == 1);
        assert_eq!(*found.scopes, *wanted.scopes);
        assert_eq!(served.subscription_of(&found).unwrap().id.as_bytes().as_slice(), fixtures::id(11));
        served = served.apply(token(1, 11), &[remove(wire::EntityKind::Key, number)]).0;
        assert!(served.key(&digest_of(number)).is_none(), "key {number} was revoked");
    }
    assert_eq!(served.counts().keys, 0);
}
