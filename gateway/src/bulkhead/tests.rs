//! Caps and counts of products, without sockets.

use super::*;

fn caps(requests: u32, connections: u32) -> Caps {
    Caps {
        requests_in_flight_max: NonZeroU32::new(requests).unwrap(),
        upstream_connections_max: NonZeroU32::new(connections).unwrap(),
    }
}

fn bulkheads(requests: u32, connections: u32) -> Bulkheads {
    Bulkheads::new(caps(requests, connections), IntGauge::new("open", "of a test").unwrap())
}

const NO_CAPS: ProductCaps = ProductCaps { requests_in_flight_max: None, upstream_connections_max: None };

#[test]
fn the_request_beyond_the_cap_is_refused_and_one_that_ends_makes_room() {
    let (all, place) = (bulkheads(2, 1), OnceLock::new());
    let product = all.of(Uuid::from_u128(1), NO_CAPS, &place);
    let (first, second) = (product.enter().unwrap(), product.enter().unwrap());
    assert!(product.enter().is_none());
    drop(first);
    let third = product.enter();
    assert!(third.is_some() && product.enter().is_none());
    drop((second, third));
    assert_eq!(product.requests_in_flight(), 0);
}

#[test]
fn a_product_at_its_cap_takes_nothing_from_another() {
    let (all, one, two) = (bulkheads(1, 1), OnceLock::new(), OnceLock::new());
    let _full = all.of(Uuid::from_u128(1), NO_CAPS, &one).enter().unwrap();
    assert!(all.of(Uuid::from_u128(2), NO_CAPS, &two).enter().is_some());
}

#[test]
fn a_new_version_of_a_product_counts_on_and_its_own_caps_hold_at_once() {
    let (all, old, new) = (bulkheads(1, 1), OnceLock::new(), OnceLock::new());
    let seat = all.of(Uuid::from_u128(1), NO_CAPS, &old).enter().unwrap();
    let own = ProductCaps { requests_in_flight_max: NonZeroU32::new(2), upstream_connections_max: None };
    let raised = all.of(Uuid::from_u128(1), own, &new);
    assert_eq!((raised.requests_in_flight(), raised.class()), (1, CapClass::Own));
    let _second = raised.enter().unwrap();
    assert!(raised.enter().is_none());
    drop(seat);
    assert_eq!(raised.requests_in_flight(), 1);
}

#[test]
fn a_product_that_goes_and_comes_back_still_knows_what_it_holds() {
    let all = bulkheads(2, 1);
    let (old, new) = (OnceLock::new(), OnceLock::new());
    let seat = all.of(Uuid::from_u128(1), NO_CAPS, &old).enter().unwrap();
    drop(old);
    assert_eq!(all.of(Uuid::from_u128(1), NO_CAPS, &new).requests_in_flight(), 1);
    drop(seat);
}

#[test]
fn counts_of_products_that_are_gone_are_forgotten() {
    let all = bulkheads(1, 1);
    for id in 0..10 * SWEEP_FROM {
        let place = OnceLock::new();
        all.of(Uuid::from_u128(id as u128), NO_CAPS, &place);
    }
    assert!(all.held.lock().unwrap().by_product.len() <= SWEEP_FROM);
}

#[test]
fn many_threads_never_hold_more_than_the_cap_and_leave_nothing_behind() {
    let (all, place) = (bulkheads(3, 1), OnceLock::new());
    let product = all.of(Uuid::from_u128(1), NO_CAPS, &place);
    let (inside, most, refused) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let Some(_seat) = product.enter() else {
                        refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(most.into_inner() <= 3 && refused.into_inner() > 0);
    assert_eq!(product.requests_in_flight(), 0);
}
