//! Pages against a plain map, under the same changes.

use proptest::prelude::*;

use super::*;

fn entity(id: u64) -> EntityRef {
    let kinds = [EntityKind::Product, EntityKind::Plan, EntityKind::Subscription, EntityKind::Key];
    let kind = kinds[usize::try_from(id % 4).unwrap()];
    EntityRef { kind, id: Uuid::from_u128(u128::from(id) << 64) }
}

fn record(entity: EntityRef, size: usize) -> wire::Record {
    let (id, text) = (entity.id.as_bytes().to_vec(), "x".repeat(size));
    use wire::record::Record;
    let record = match entity.kind {
        EntityKind::Fleet => Record::Fleet(wire::Fleet { fleet_max: 0 }),
        EntityKind::Product => Record::Product(wire::Product { id, slug: text, ..Default::default() }),
        EntityKind::Plan => Record::Plan(wire::Plan { id, name: text, ..Default::default() }),
        EntityKind::Subscription => {
            Record::Subscription(wire::Subscription { id, consumer_username: text, ..Default::default() })
        }
        EntityKind::Key => Record::Key(wire::Key { id, scopes: vec![text], ..Default::default() }),
    };
    wire::Record { record: Some(record) }
}

fn assert_whole(pages: &Pages, want: &BTreeMap<EntityRef, wire::Record>) {
    assert_eq!(&pages.to_map(), want);
    assert_eq!(pages.count(), want.len());
    assert_eq!(pages.bytes, pages.pages.values().map(Bytes::len).sum::<usize>());
    for (first, page) in &pages.pages {
        assert_eq!(Entries { rest: page }.next().map(|entry| entry.entity), Some(*first));
        let one_record = Entries { rest: page }.count() == 1;
        assert!(one_record || page.len() <= PAGE_BYTES_WANTED + PAGE_BYTES_MIN, "{} bytes", page.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn pages_hold_what_a_map_holds_and_tell_what_is_different(
        batches in prop::collection::vec(
            prop::collection::vec((0_u64..400, prop::option::of(0_usize..3_000)), 1..120), 1..12),
    ) {
        let (mut pages, mut map) = (Pages::default(), BTreeMap::new());
        for batch in batches {
            let changed: Changed =
                batch.iter().map(|(id, size)| (entity(*id), size.map(|size| record(entity(*id), size)))).collect();
            let mut different = Vec::new();
            for (entity, record) in &changed {
                if map.get(entity) != record.as_ref() {
                    different.push(*entity);
                }
                match record {
                    Some(record) => drop(map.insert(*entity, record.clone())),
                    None => drop(map.remove(entity)),
                }
            }
            let before = pages.clone();
            let former = before.to_map();
            prop_assert_eq!(pages.apply(&changed), different);
            prop_assert_eq!(before.to_map(), former, "whoever holds the former pages keeps them");
            assert_whole(&pages, &map);
            for (entity, record) in &changed {
                prop_assert_eq!(&pages.get(entity), record);
            }
        }
        let mut in_order = PagesInOrder::default();
        map.iter().for_each(|(entity, record)| in_order.push(*entity, record));
        let in_order = in_order.finish();
        assert_whole(&in_order, &map);
        let bytes = |pages: &Pages| pages.chunks(100_000).flatten().collect::<Vec<u8>>();
        prop_assert_eq!(bytes(&in_order), bytes(&pages), "the same bytes, however it was reached");
    }
}

#[test]
fn a_fleet_and_an_empty_book_have_their_places() {
    let mut pages = PagesInOrder::default().finish();
    assert_eq!((pages.count(), pages.get(&FLEET), pages.chunks(1).count()), (0, None, 0));
    pages.apply(&Changed::from([(FLEET, Some(record(FLEET, 0)))]));
    assert_eq!(pages.get(&FLEET), Some(record(FLEET, 0)));
    pages.apply(&Changed::from([(FLEET, None)]));
    assert_eq!((pages.count(), pages.bytes, pages.pages.len()), (0, 0, 0));
}

#[test]
fn many_removals_leave_no_crumbs() {
    let mut pages = PagesInOrder::default();
    let keys: Vec<_> = (0..4_000_u64).map(|id| entity(id * 4 + 3)).collect();
    keys.iter().for_each(|key| pages.push(*key, &record(*key, 40)));
    let mut pages = pages.finish();
    let full = pages.pages.len();
    // All but each hundredth key go, one by one.
    for key in keys.iter().enumerate().filter(|(index, _)| index % 100 != 0).map(|(_, key)| key) {
        pages.apply(&Changed::from([(*key, None)]));
    }
    assert_eq!(pages.count(), 40);
    assert!(pages.pages.len() <= 4, "{} pages of {full} remain", pages.pages.len());
}
