//! Every interleaving of request threads and the ledger, by loom: no token is spent twice, none is lost, none outlives its
//! lease. `RUSTFLAGS="--cfg loom" cargo test -p apihub-limits --lib interleavings`.

use loom::sync::Arc;
use loom::thread;

use super::stamp::Stamp;
use super::*;

const MS: u64 = 1_000_000;

fn lease(tokens: u32, until_ms: u64) -> Lease {
    Lease { tokens, until: Tick::of(until_ms * MS) }
}

fn taken(slot: &Slot, now_ms: u64) -> u32 {
    u32::from(matches!(slot.take(now_ms * MS), Take::Admitted { taken: Taken::Lease, .. }))
}

fn left(slot: &Slot) -> u32 {
    Cell::BOTH.into_iter().map(|cell| slot.lease(cell).tokens).sum()
}

#[test]
fn two_takers_and_a_refund_share_what_there_is() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        slot.put(lease(2, 100), Tick::of(0));
        let takers = [1, 2].map(|now| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || taken(&slot, now))
        });
        let withdrawn = slot.withdraw(Cell::First, 1);
        let spent: u32 = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(spent + withdrawn + left(&slot), 2);
    });
}

#[test]
fn a_taker_and_a_new_lease_over_a_void_one() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        slot.put(lease(1, 10), Tick::of(0));
        slot.put(lease(1, 30), Tick::of(0));
        let takers = [5, 20].map(|now| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || taken(&slot, now))
        });
        let put = slot.put(lease(1, 60), Tick::of(20 * MS));
        let spent: u32 = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(spent + put.displaced + left(&slot), 3);
    });
}

#[test]
fn a_taker_and_a_lease_that_joins() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        slot.put(lease(1, 10), Tick::of(0));
        slot.put(lease(1, 30), Tick::of(0));
        let taker = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || taken(&slot, 1) + taken(&slot, 1))
        };
        let put = slot.put(lease(2, 60), Tick::of(MS));
        let spent = taker.join().unwrap();
        assert_eq!(spent + put.displaced + left(&slot), 4);
        assert!(Cell::BOTH.into_iter().all(|cell| !put.joined || slot.lease(cell).until <= Tick::of(30 * MS)));
    });
}

#[test]
fn overdraft_is_spent_once_and_collected_once() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        slot.set_overdraft(2);
        let takers = [1, 2].map(|now| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || u32::from(matches!(slot.take(now), Take::Admitted { .. })))
        });
        let collected = slot.collect_owed();
        slot.set_overdraft(2 - collected);
        let spent: u32 = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(spent, collected + slot.owed());
        assert!(collected + slot.owed() + slot.overdraft_left() <= 2);
    });
}

#[test]
fn the_syncer_is_called_once_until_it_looks() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        let callers = [(), ()].map(|()| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || u32::from(slot.call()))
        });
        let calls: u32 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        assert_eq!(calls, 1);
    });
}

#[test]
fn who_was_late_takes_nothing_of_the_next_key_of_a_slot() {
    loom::model(|| {
        let seat = Arc::new((Stamp::default(), Slot::new()));
        let (stamp, slot) = &*seat;
        stamp.set(1);
        slot.set_overdraft(1);
        let late = {
            let seat = Arc::clone(&seat);
            thread::spawn(move || matches!(seat.0.take(&seat.1, 1, MS), Ok(Take::Admitted { .. })))
        };
        // As a key is closed, and the next one is opened and admitted.
        let is_closed = slot.seal();
        if is_closed {
            stamp.set(2);
            slot.renew();
            slot.set_overdraft(1);
            slot.put(lease(1, 100), Tick::of(MS));
        }
        assert_eq!(late.join().unwrap(), !is_closed && slot.owed() == 1);
    });
}
