//! A master that dies with writes that its replica never got, and Sentinel that promotes the replica.

use std::time::Instant;

use limits::policy::{Algorithm, Policy};
use limits::script::{LIBRARY, Lane};
use limits::terms::Terms;
use limits::wire::{Ask, Verdict};
use redis::Connection;

use crate::node::{Node, ask, load};
use crate::rig::{Watched, connect, eventually, role, tell};

const KEY: u64 = 2;

/// Everything that the bucket grants now.
fn drain(node: &mut Node, connection: &mut Connection) -> u64 {
    let mut granted = 0;
    loop {
        let reply = node.say(connection, vec![Ask { want: 50, ..ask(KEY) }]);
        assert_eq!(reply.verdict, Verdict::Done);
        let tokens = u64::from(reply.grants[0].tokens);
        granted += tokens;
        if tokens == 0 {
            return granted;
        }
    }
}

#[test]
fn a_promoted_replica_has_the_library_and_gives_no_more_than_the_bound_again() {
    let mut watched = Watched::start(None);
    let (master, replica) = (&mut watched.master, &watched.replica);
    let mut old = connect(&master.url());
    load().query::<()>(&mut old).unwrap();

    let began = Instant::now();
    let mut node = Node::new(Lane::Whole);
    assert_eq!(node.say(&mut old, Vec::new()).verdict, Verdict::Admitted { epoch: 1 });
    node.say(&mut old, vec![ask(KEY)]);
    assert_eq!(tell::<i64>(&mut old, "WAIT 1 5000"), 1, "the replica has what was written until now");
    // A replica that cannot log in again gets nothing more.
    tell::<()>(&mut old, "CONFIG SET requirepass closed");
    tell::<i64>(&mut old, "CLIENT KILL TYPE replica");
    let cut = Instant::now();
    let mut granted = drain(&mut node, &mut old);
    assert!(granted >= 100, "the whole bucket");
    assert_eq!(tell::<i64>(&mut old, "WAIT 1 50"), 0, "nobody else has seen that");
    let lost = cut.elapsed();
    master.kill();

    // Its clients are cut off when it is promoted.
    eventually("the replica is promoted", || role(replica).is_some_and(|info| info.contains("role:master")));
    let mut new = connect(&replica.url());
    let functions = format!("{:?}", tell::<redis::Value>(&mut new, "FUNCTION LIST"));
    assert!(functions.contains(LIBRARY), "without being loaded again");
    granted += drain(&mut node, &mut new);
    let policy = Policy::new(1, Algorithm::TokenBucket, 600, 100).unwrap();
    let nodes_overdraft = u64::from(Terms::of(&policy, 1).overdraft);
    let flowed = |seconds: f64| (seconds * 10.0).ceil();
    // B + r·t, and for the failover B + N·e + r·ℓ.
    let bound = 2.0 * 100.0
        + f64::from(u32::try_from(nodes_overdraft).unwrap())
        + flowed(began.elapsed().as_secs_f64())
        + flowed(lost.as_secs_f64());
    assert!(f64::from(u32::try_from(granted).unwrap()) <= bound, "{granted} of {bound}");
    assert!(granted > 150, "the lost debits did count once more: {granted}");
}
