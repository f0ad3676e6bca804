//! A swap and the names that come with it: the first request finds an address, and nobody can hold a swap up for long.

use std::net::IpAddr;

use snapshot::pattern::Pattern;
use snapshot::target::Target;

use super::*;
use crate::clock::Now;
use crate::live::fixtures::{IntoRecord, endpoint, product};
use crate::upstream::{Lookup, NoAddress, SWAP_WAIT_MAX, keep_resolved};

/// Long enough to be seen, and well within what a swap waits.
const SLOW: Duration = Duration::from_millis(200);

/// So many of each kind, that a busy machine needs less for all of them than waiting would take for those of one kind.
const CHANGES: u32 = 8;

/// Answers slowly, and for names that begin with "black" never.
struct Slow;

impl Lookup for Slow {
    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        if name.starts_with("black") {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SLOW).await;
        Ok((vec![IpAddr::from([1, 1, 1, 1])], Duration::from_secs(60)))
    }
}

/// Product `number` of an upstream.
fn to(number: u128, upstream: &str) -> Record {
    let mut product = product(number);
    product.endpoints = vec![endpoint("GET", "/x", upstream)];
    product.record()
}

impl Follower {
    fn resolving(plane: &ScriptedControlPlane) -> Follower {
        let follower = Follower::of(plane);
        let (upstreams, live, stop) = (follower.upstreams.clone(), follower.live.clone(), follower.stop.subscribe());
        tokio::spawn(keep_resolved(upstreams, live, Arc::new(Slow), stop));
        follower
    }

    fn address(&self, url: &str) -> Result<String, NoAddress> {
        let target = Target::parse(url, &Pattern::parse("/x").unwrap()).unwrap();
        self.upstreams.choose(Uuid::nil(), &target, &[], Now::read()).map(|address| address.to_string())
    }

    /// How long it took until the token was served.
    async fn serves_after(&self, wanted: Token) -> Duration {
        let began = Instant::now();
        self.serves(wanted).await;
        began.elapsed()
    }
}

#[tokio::test]
async fn a_snapshot_is_served_only_when_its_new_names_are_resolved() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::resolving(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![to(1, "http://slow.example/")]])).await;
    let took = follower.serves_after(token(1, 10)).await;
    assert_eq!(follower.address("http://slow.example/").as_deref(), Ok("1.1.1.1:80"), "for the very first request");
    assert!(took >= SLOW, "{took:?}");
    call.play([delta(epoch(1), 10, 11, vec![to(2, "https://other.example/")])]).await;
    follower.serves(token(1, 11)).await;
    assert!(follower.address("https://other.example/").is_ok());
    assert!(follower.address("http://slow.example/").is_ok(), "and what was there stays");
}

#[tokio::test]
async fn a_name_that_nobody_answers_for_delays_its_own_swap_by_the_bound_and_no_other() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::resolving(&plane);
    let mut call = plane.next_call().await;
    let began = Instant::now();
    call.play(full(token(1, 10), vec![vec![to(1, "http://black.example/"), to(2, "http://slow.example/")]])).await;
    follower.serves(token(1, 10)).await;
    let took = began.elapsed();
    assert!(took >= SWAP_WAIT_MAX && took < SWAP_WAIT_MAX * 10, "{took:?}");
    assert_eq!(follower.address("http://black.example/"), Err(NoAddress::Unresolved));
    assert!(follower.address("http://slow.example/").is_ok());
    // The black name is still being asked for; a change that brings no new name does not wait for it, nor does an address.
    let began = Instant::now();
    for (before, record) in (10..).zip((0..CHANGES).flat_map(|number| {
        let number = 3 * u128::from(number);
        [fleet(3), to(number + 3, "http://slow.example/"), to(number + 4, "http://9.9.9.9/")]
    })) {
        call.play([delta(epoch(1), before, before + 1, vec![record])]).await;
        follower.serves(token(1, before + 1)).await;
    }
    let took = began.elapsed();
    assert!(took < SWAP_WAIT_MAX * CHANGES, "a third of the changes waited: {took:?}");
}
