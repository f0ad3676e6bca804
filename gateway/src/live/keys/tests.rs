//! The table of keys against a plain map, its size, and what its copies share.

use std::collections::BTreeMap;

use proptest::prelude::*;
use snapshot::key::{Environment, KeyDigest, digest};

use super::*;

fn record(id: u128, tag: KeyTag) -> KeyRecord {
    KeyRecord::pack(&KeyFields {
        tag,
        id: Uuid::from_u128(id),
        subscription: u32::try_from(id % 1_000).unwrap(),
        scopes: 0,
        meter_id: u64::try_from(id).unwrap(),
        environment: Environment::Live,
        expires_at_ms: None,
    })
    .unwrap()
}

fn tag(number: u64) -> KeyTag {
    KeyTag::of(&digest(&number.to_le_bytes()))
}

fn built(keys: u64) -> KeyTable {
    let mut builder = KeyBuilder::new();
    (0..keys).for_each(|number| builder.push(record(u128::from(number), tag(number))));
    let (table, dropped) = builder.finish();
    assert!(dropped.refused.is_empty() && dropped.replaced.is_empty());
    table
}

#[test]
fn a_record_gives_back_what_was_packed_and_refuses_what_it_has_no_room_for() {
    let fields = KeyFields {
        tag: tag(1),
        id: Uuid::from_u128(u128::MAX - 7),
        subscription: u32::MAX,
        scopes: (1 << 24) - 1,
        meter_id: (1 << 40) - 1,
        environment: Environment::Test,
        expires_at_ms: Some(1_800_000_000_123),
    };
    let packed = KeyRecord::pack(&fields).unwrap();
    assert_eq!(packed.fields(), fields);
    let mut bytes = Vec::new();
    packed.write_to(&mut bytes);
    assert!(KeyRecord::read(bytes.as_slice().try_into().unwrap()) == packed);
    assert!(KeyRecord::pack(&KeyFields { meter_id: 1 << 40, ..fields }).is_none());
    assert!(KeyRecord::pack(&KeyFields { scopes: 1 << 24, ..fields }).is_none());
    for (given, kept) in [(None, None), (Some(-5), Some(0)), (Some(0), Some(0)), (Some(i64::MAX), Some((1 << 47) - 2))]
    {
        let packed = KeyRecord::pack(&KeyFields { expires_at_ms: given, ..fields }).unwrap();
        assert_eq!(packed.fields().expires_at_ms, kept, "{given:?}");
    }
}

#[test]
fn keys_that_begin_alike_are_told_apart() {
    let alike = |last: u8| {
        let mut digest = [7u8; 32];
        digest[15] = last;
        KeyTag::of(&KeyDigest(digest))
    };
    let mut table = KeyTable::new();
    for last in 0..200 {
        table.put(record(u128::from(last), alike(last))).unwrap();
    }
    assert!((0..200).all(|last| table.get(&alike(last)).unwrap().id().as_u128() == u128::from(last)));
    assert!(table.get(&alike(200)).is_none());
    assert!(table.remove(&Uuid::from_u128(7)).is_some() && table.get(&alike(7)).is_none());
    assert_eq!(table.len(), 199);
}

#[test]
fn every_key_of_many_is_found_by_its_tag_and_by_its_id_and_no_other_is() {
    let table = built(50_000);
    for number in 0..50_000 {
        let found = table.get(&tag(number)).unwrap();
        assert_eq!(found.id().as_u128(), u128::from(number));
        assert_eq!(table.by_id(&found.id()).unwrap().tag, tag(number));
    }
    assert!((50_000..60_000).all(|number| table.get(&tag(number)).is_none()));
    assert!((50_000..60_000u128).all(|number| table.by_id(&Uuid::from_u128(number)).is_none()));
}

#[test]
fn a_change_makes_two_leaves_and_leaves_the_older_copy_alone() {
    let before = built(100_000);
    let mut after = before.clone();
    after.put(record(1_000_000, tag(1_000_000))).unwrap();
    assert_eq!(after.leaves_apart(&before), (1, 1));
    assert!(before.get(&tag(1_000_000)).is_none() && after.get(&tag(1_000_000)).is_some());
    assert_eq!((before.len(), after.len()), (100_000, 100_001));
}

/// What the arrays of a table take, without what an allocator adds. The bytes resident are printed by an example.
#[test]
fn a_key_takes_less_than_58_bytes_of_arrays() {
    let table = built(400_000);
    let leaves: usize = table.leaves().map(|leaf| leaf.bytes() + size_of::<Leaf>() + 16).sum();
    let ids: usize = table.ids().map(|ids| size_of_val(ids.entries()) + size_of::<Ids>() + 16).sum();
    assert!(leaves + ids < 58 * 400_000, "{} bytes a key", (leaves + ids) / 400_000);
}

proptest! {
    #[test]
    fn any_puts_and_removals_leave_what_a_plain_map_would_hold(
        steps in proptest::collection::vec((0..20u128, 0..20u64, any::<bool>()), 0..200)
    ) {
        let mut table = KeyTable::new();
        let mut by_id: BTreeMap<u128, u64> = BTreeMap::new();
        for (id, number, is_put) in steps {
            if is_put {
                table.put(record(id, tag(number))).unwrap();
                by_id.retain(|_, other| *other != number);
                by_id.insert(id, number);
            } else {
                prop_assert_eq!(table.remove(&Uuid::from_u128(id)).is_some(), by_id.remove(&id).is_some());
            }
        }
        prop_assert_eq!(table.len(), by_id.len());
        for id in 0..20 {
            let found = table.by_id(&Uuid::from_u128(id)).map(|record| record.tag);
            prop_assert_eq!(found, by_id.get(&id).map(|number| tag(*number)));
        }
        for number in 0..20 {
            let found = table.get(&tag(number)).map(|record| record.id().as_u128());
            prop_assert_eq!(found, by_id.iter().find(|(_, other)| **other == number).map(|(id, _)| *id));
        }
    }
}
