//! What a reader is handed, by where it stands.

use std::collections::BTreeMap;

use snapshot::record::EntityKind;
use uuid::Uuid;

use super::*;

const EPOCH: Uuid = Uuid::from_u128(7);

fn at(revision: u64) -> Token {
    Token { epoch: EPOCH, revision }
}

fn key(id: u64) -> EntityRef {
    EntityRef { kind: EntityKind::Key, id: Uuid::from_u128(id.into()) }
}

fn record(id: u64, meter_id: u64) -> wire::Record {
    let id = Uuid::from_u128(id.into()).as_bytes().to_vec();
    wire::Record {
        record: Some(wire::record::Record::Key(wire::Key { id, meter_id, digest: vec![7; 64], ..Default::default() })),
    }
}

fn put(book: &Book, revision: u64, id: u64, meter_id: u64) {
    book.advance(at(revision), &BTreeMap::from([(key(id), Some(record(id, meter_id)))]));
}

fn book_at(revision: u64) -> Book {
    let book = Book::default();
    book.replace(at(revision), Pages::default(), Vec::new(), revision);
    book
}

fn changes(next: Next) -> Vec<wire::Change> {
    match next {
        Next::Delta(delta) => delta.changes,
        other => panic!("{other:?} instead of a delta"),
    }
}

#[test]
fn a_reader_gets_each_changed_record_once_and_as_it_is_now() {
    let book = book_at(10);
    put(&book, 11, 1, 100);
    put(&book, 12, 2, 200);
    put(&book, 13, 1, 101);
    book.advance(at(14), &BTreeMap::from([(key(2), None)]));
    let found = changes(book.next(Some(at(10))));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].change, Some(wire::change::Change::Put(record(1, 101))));
    assert_eq!(found[1].change, Some(wire::change::Change::Remove(key(2).into())));
    assert_eq!(changes(book.next(Some(at(13)))).len(), 1);
    assert_eq!(book.next(Some(at(14))), Next::Nothing);
}

#[test]
fn a_revision_that_changes_no_record_is_still_handed_on() {
    let book = book_at(1);
    put(&book, 2, 1, 100);
    put(&book, 3, 1, 100);
    assert_eq!(
        book.next(Some(at(2))),
        Next::Delta(wire::Delta { epoch: EPOCH.as_bytes().to_vec(), from: 2, to: 3, changes: vec![] })
    );
}

#[test]
fn strangers_and_latecomers_get_everything_and_nobody_goes_back() {
    let book = book_at(5);
    assert_eq!(book.next(None), Next::Full);
    assert_eq!(book.next(Some(Token { epoch: Uuid::from_u128(8), revision: 5 })), Next::Full);
    assert_eq!(book.next(Some(at(4))), Next::Full);
    assert_eq!(book.next(Some(at(6))), Next::Ahead);
    assert_eq!(Book::default().next(Some(at(6))), Next::Nothing);
}

#[test]
fn history_is_bounded_and_its_floor_moves_with_it() {
    let book = book_at(0);
    let extra = 50;
    for revision in 1..=(HISTORY_CHANGES_MAX as u64 + extra) {
        put(&book, revision, 1, revision);
    }
    assert_eq!(book.next(Some(at(extra - 1))), Next::Full);
    assert_eq!(changes(book.next(Some(at(extra)))).len(), 1);
}

#[test]
fn a_delta_too_large_for_one_message_becomes_a_full_snapshot_whose_chunks_fit() {
    let book = book_at(0);
    let name = "x".repeat(1_000_000);
    for id in 1..=20_u64 {
        let plan =
            wire::Plan { id: Uuid::from_u128(id.into()).as_bytes().to_vec(), name: name.clone(), ..Default::default() };
        let entity = EntityRef { kind: EntityKind::Plan, id: Uuid::from_u128(id.into()) };
        let record = wire::Record { record: Some(wire::record::Record::Plan(plan)) };
        book.advance(at(id), &BTreeMap::from([(entity, Some(record))]));
    }
    assert_eq!(book.next(Some(at(0))), Next::Full);
    assert_eq!(book.full().unwrap().chunks().count(), 20);
}

#[test]
fn chunks_hold_every_record_in_order_whatever_changes_while_they_are_read() {
    let book = book_at(1);
    for id in (1..=5_000).rev() {
        put(&book, 2, id, id);
    }
    let full = book.full().unwrap();
    let mut chunks = full.chunks();
    let mut read = vec![chunks.next().unwrap()];
    for id in 1..=5_000 {
        put(&book, 3, id, id + 1);
    }
    read.extend(chunks);
    assert_eq!(full.token, at(2));
    assert!(read.len() > 1 && read.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_WANTED));
    let decoded: Vec<_> = read.into_iter().flat_map(|chunk| wire::Records::decode(chunk).unwrap().records).collect();
    let want: Vec<_> = (1..=5_000).map(|id| record(id, id)).collect();
    assert!(decoded == want);
    assert_eq!(book.full().unwrap().token, at(3));
}

#[test]
fn a_past_too_long_to_be_held_is_none() {
    let book = Book::default();
    let history = |count: usize| (0..count as u64).map(|id| (9, key(id))).collect();
    book.replace(at(9), Pages::default(), history(HISTORY_CHANGES_MAX), 1);
    assert_eq!(changes(book.next(Some(at(1)))).len(), HISTORY_CHANGES_MAX);
    book.replace(at(9), Pages::default(), history(HISTORY_CHANGES_MAX + 1), 1);
    assert_eq!(book.next(Some(at(8))), Next::Full);
    assert_eq!(book.next(Some(at(9))), Next::Nothing);
}

#[test]
fn a_reader_lags_since_the_first_step_that_it_lacks() {
    let book = book_at(10);
    assert_eq!(book.lag(at(10)), None, "it has everything");
    put(&book, 12, 1, 1);
    let first = Instant::now();
    std::thread::sleep(Duration::from_millis(20));
    put(&book, 13, 1, 2);
    let (behind, nearly) = (book.lag(at(10)).unwrap(), book.lag(at(12)).unwrap());
    assert!(behind >= Duration::from_millis(20) && behind <= first.elapsed() + Duration::from_secs(1), "{behind:?}");
    assert!(nearly < behind);
    assert_eq!(book.lag(at(13)), None);
    assert_eq!(book.lag(at(9)), None, "from before what is remembered");
    assert_eq!(book.lag(Token { epoch: Uuid::from_u128(8), revision: 1 }), None, "of another epoch");
}
