//! Any thread finds any key, while others come and go and take over each other's places.

use std::sync::atomic::AtomicBool;

use limits::central::Group;

use super::super::Checked;
use super::super::lane::Lane;
use super::super::tests::{START, bucket, converse, terms};
use super::*;

fn lane() -> Arc<Lane> {
    Arc::new(Lane::new(limits::script::Lane::Whole, 1, 1))
}

fn open(arena: &Arena, lane: &Arc<Lane>, key: u64) -> Seat {
    let seat = arena.take(key).unwrap();
    seat.open(lane, &mut lane.lock(), &terms(key, bucket(60, 10)), START);
    arena.bind(key, &seat);
    seat
}

fn close(arena: &Arena, key: u64, seat: &Seat) {
    seat.close();
    arena.give_back(key, seat);
}

fn key_at(arena: &Arena, key: u64) -> Option<u64> {
    arena.find(key)?.tenant().map(|(key, _)| key)
}

#[test]
fn every_thread_finds_every_entry_while_others_come_and_go() {
    let (arena, lane) = (Arc::new(Arena::new()), lane());
    let stay: Vec<u64> = (0..2_000).map(|key| key * 2).collect();
    for key in &stay {
        open(&arena, &lane, *key);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let readers = [(), ()].map(|()| {
        let (arena, stay, is_over) = (Arc::clone(&arena), stay.clone(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut rounds = 0;
            while rounds == 0 || !is_over.load(Ordering::Relaxed) {
                assert!(stay.iter().all(|key| key_at(&arena, *key) == Some(*key)));
                rounds += 1;
            }
        })
    });
    for round in 0..20 {
        let keys = (0..500).map(|key| (2_000 + round * 100 + key) * 2 + 1);
        let come: Vec<(u64, Seat)> = keys.map(|key| (key, open(&arena, &lane, key))).collect();
        assert_eq!(arena.len(), 2_500);
        assert!(come.iter().all(|(key, _)| key_at(&arena, *key) == Some(*key)));
        for (key, seat) in &come {
            close(&arena, *key, seat);
            assert!(arena.find(*key).is_none());
        }
    }
    is_over.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(arena.len(), 2_000);
    assert_eq!(lock(&arena.places).last, 2_500, "places are taken over");
}

#[test]
fn the_first_and_the_last_key_have_their_places_and_none_beyond() {
    let (arena, lane) = (Arena::new(), lane());
    let last = METER_ID_MAX << 1 | 1;
    for key in [0, 1, 1 << 10, 1 << 20, 1 << 30, last] {
        assert!(arena.find(key).is_none() && arena.seat(key).is_none());
        open(&arena, &lane, key);
        assert_eq!(key_at(&arena, key), Some(key));
    }
    for key in [last + 1, u64::MAX] {
        assert!(arena.find(key).is_none() && arena.take(key).is_none());
    }
}

#[test]
fn an_entry_of_another_key_decides_nothing() {
    let (arena, lane, mut redis) = (Arena::new(), lane(), Group::new());
    converse(&lane, &mut redis, START);
    let seat = open(&arena, &lane, 14);
    seat.begin_waiting();
    let (mine, others) = (terms(14, bucket(60, 10)), terms(16, bucket(60, 10)));
    assert!(matches!(seat.check(&mine, START), Some(Checked::Admitted(_))), "it has overdraft");
    close(&arena, 14, &seat);
    assert!(seat.check(&mine, START).is_none() && seat.check_slowly(&lane, &mine, START).is_none(), "nobody's");
    let next = open(&arena, &lane, 16);
    assert_eq!(next.place, seat.place);
    assert!(seat.check(&mine, START).is_none() && seat.check_slowly(&lane, &mine, START).is_none(), "another one's");
    assert_eq!(
        (next.slot().owed(), next.slot().overdraft_left() > 0),
        (0, true),
        "nothing was taken, though there is something"
    );
    assert!(matches!(next.check(&others, START), Some(Checked::Admitted(_))));
    seat.end_waiting(&lane, 14);
}
