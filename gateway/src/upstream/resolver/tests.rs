//! Who is looked up next, and that names which nobody answers for cannot hold up the others.

use std::sync::Mutex;

use super::*;
use crate::upstream::tests::upstreams;

/// Never answers, and remembers what it was asked.
#[derive(Default)]
struct Silent(Mutex<Vec<String>>);

impl Lookup for Silent {
    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        self.0.lock().unwrap().push(name.to_owned());
        std::future::pending().await
    }
}

/// Knows no name.
struct Nothing;

impl Lookup for Nothing {
    async fn lookup(&self, _name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        Err("no such name".to_owned())
    }
}

fn names(kind: &str, count: usize) -> impl Iterator<Item = (Box<str>, u16)> {
    (0..count).map(move |number| (Box::from(format!("{kind}-{number}.example")), 80))
}

#[test]
fn a_name_that_fails_again_and_again_is_asked_ever_more_seldom() {
    let waits: Vec<u64> = (0..9).map(|failures| retry_wait(failures).as_secs()).collect();
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(retry_wait(u32::MAX), RETRY_MAX);
}

#[tokio::test]
async fn a_failure_lengthens_the_wait_of_its_own_name_and_a_success_forgets_it() {
    let upstreams = upstreams(&[]);
    upstreams.table.set_names(&names("bad", 1).collect());
    let pool = upstreams.table.find("bad-0.example", 80).unwrap();
    for seconds in [5, 10, 20] {
        let before = Now::read().after(Duration::from_secs(seconds)).mono_us;
        upstreams.resolve(&pool, &Nothing).await;
        let due_us = pool.due_us.load(Ordering::Relaxed);
        assert!(due_us >= before && due_us < before + 5_000_000, "{seconds} s");
        assert!(pool.has_failed());
    }
    struct One;
    impl Lookup for One {
        async fn lookup(&self, _name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
            Ok((vec!["1.1.1.1".parse().unwrap()], Duration::ZERO))
        }
    }
    upstreams.resolve(&pool, &One).await;
    assert!(!pool.has_failed());
}

#[tokio::test]
async fn names_never_tried_come_first_and_then_those_that_wait_longest() {
    let upstreams = upstreams(&[]);
    upstreams.table.set_names(&names("n", 3).collect());
    let pool = |number: usize| upstreams.table.find(&format!("n-{number}.example"), 80).unwrap();
    pool(0).end_lookup(2);
    pool(1).end_lookup(1);
    let due: Vec<_> = upstreams.table.due(u64::MAX).iter().map(|pool| pool.name.clone()).collect();
    assert_eq!(due, ["n-2.example", "n-1.example", "n-0.example"].map(Box::from));
    pool(2).is_busy.store(true, Ordering::Relaxed);
    pool(0).end_lookup(u64::MAX);
    assert_eq!(upstreams.table.due(u64::MAX - 1).len(), 1, "neither what is asked already nor what is not due");
}

#[tokio::test]
async fn half_of_the_slots_stay_free_of_names_that_failed() {
    let upstreams = Arc::new(upstreams(&[]));
    let all: HashSet<_> = names("bad", 200).chain(names("good", 20)).collect();
    upstreams.table.set_names(&all);
    for pool in upstreams.table.due(u64::MAX) {
        if pool.name.starts_with("bad") {
            pool.note_failed();
        }
        // All were tried before, and the failed ones are due first.
        pool.end_lookup(u64::from(pool.name.starts_with("good")));
    }
    let silent = Arc::new(Silent::default());
    let mut lookups = Lookups { waiting: upstreams.table.due(u64::MAX).into(), ..Lookups::default() };
    upstreams.start_lookups(&silent, &mut lookups);
    tokio::task::yield_now().await;
    let asked = silent.0.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|name| name.starts_with("bad")).count(), LOOKUPS_OF_FAILED_MAX);
    assert_eq!(asked.iter().filter(|name| name.starts_with("good")).count(), 20);
    assert!(lookups.running.len() < LOOKUPS_MAX);
}
