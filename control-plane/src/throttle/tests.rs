//! Throttles, with a clock that the tests move.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{ENTRIES_MAX, Rule, Table, Throttles, network_of};

fn address(last: u32) -> IpAddr {
    IpAddr::from((0x0A00_0000 + last).to_be_bytes())
}

#[test]
fn a_bucket_lets_its_burst_through_then_one_per_interval() {
    let table = Table::new(Rule { burst: 3, interval: Duration::from_secs(10) }, "test");
    let now = Instant::now();
    for _ in 0..3 {
        table.take(1, now).unwrap();
    }
    let refused = table.take(1, now).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(10));
    table.take(2, now).unwrap();
    assert!(table.take(1, now + Duration::from_secs(9)).is_err());
    table.take(1, now + Duration::from_secs(10)).unwrap();
    assert!(table.take(1, now + Duration::from_secs(10)).is_err());
}

#[test]
fn memory_is_bounded_and_newcomers_share_one_bucket_then() {
    let table = Table::new(Rule { burst: 2, interval: Duration::from_secs(10) }, "test");
    let now = Instant::now();
    for key in 0..ENTRIES_MAX {
        table.take(key, now).unwrap();
    }
    table.take(ENTRIES_MAX, now).unwrap();
    table.take(ENTRIES_MAX + 1, now).unwrap();
    assert!(table.take(ENTRIES_MAX + 2, now).is_err(), "the shared bucket is empty");
    table.take(0, now).unwrap();
    assert_eq!(table.lock().full_at.len(), ENTRIES_MAX);
    table.take(ENTRIES_MAX + 3, now + Duration::from_secs(60)).unwrap();
    assert_eq!(table.lock().full_at.len(), 1, "idle buckets made room");
}

#[test]
fn a_thousand_wrong_passwords_are_stopped_early_from_one_source_and_from_many() {
    let now = Instant::now();
    let from_one = Throttles::default();
    let let_through =
        (0..1000).filter(|_| from_one.attempt_sign_in("ann@example.com", address(1), now).is_ok()).count();
    assert_eq!(let_through, 10);
    let from_many = Throttles::default();
    let spread = (0..1000).filter(|at| from_many.attempt_sign_in("ann@example.com", address(*at), now).is_ok()).count();
    assert_eq!(spread, 30);
}

#[test]
fn an_owner_signs_in_from_where_he_did_before_while_others_attack_his_account() {
    let (throttles, now, home) = (Throttles::default(), Instant::now(), address(7));
    throttles.attempt_sign_in("ann@example.com", home, now).unwrap();
    throttles.signed_in("ann@example.com", home, now);
    for stranger in 100..400 {
        let _ = throttles.attempt_sign_in("ann@example.com", address(stranger), now);
    }
    assert!(throttles.attempt_sign_in("ann@example.com", address(999), now).is_err());
    throttles.attempt_sign_in("Ann@Example.com ", home, now).unwrap();
}

#[test]
fn one_source_that_tries_many_accounts_is_stopped() {
    let (throttles, now) = (Throttles::default(), Instant::now());
    let tried = (0..1000).filter(|n| throttles.attempt_sign_in(&format!("u{n}@x.de"), address(1), now).is_ok()).count();
    assert_eq!(tried, 50);
}

#[test]
fn publishes_of_a_product_and_proofs_of_a_user_are_bounded_and_others_are_not_concerned() {
    let (throttles, now) = (Throttles::default(), Instant::now());
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    assert_eq!((0..1000).filter(|_| throttles.attempt_publish(one, now).is_ok()).count(), 300);
    assert_eq!((0..1000).filter(|_| throttles.attempt_host_proof(one, now).is_ok()).count(), 10);
    throttles.attempt_publish(other, now).unwrap();
    throttles.attempt_host_proof(other, now).unwrap();
    throttles.attempt_publish(one, now + Duration::from_secs(1)).unwrap();
}

#[test]
fn an_ipv6_host_is_its_network() {
    let network = |text: &str| network_of(text.parse().unwrap());
    assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
    assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
}
