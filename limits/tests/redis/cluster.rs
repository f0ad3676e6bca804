//! Three masters and three replicas on the loopback: every group is served, and a slot that moves is followed with its state.

use limits::policy::Algorithm;
use limits::script::{EXCHANGE, GROUPS, LIBRARY, Lane, group_of};
use limits::terms::UNITS;
use limits::wire::{Ask, Verdict};
use redis::RedisError;
use redis::cluster::ClusterClient;

use crate::node::{Node, ask, fcall, load};
use crate::rig::{Cluster, MASTERS, eventually, tell};

/// A limit key of every group.
fn keys_of_groups() -> Vec<u64> {
    let mut keys = vec![None; usize::from(GROUPS)];
    for key in (0..).step_by(2) {
        keys[usize::from(group_of(key))].get_or_insert(key);
        if key % 256 == 0 && keys.iter().all(Option::is_some) {
            break;
        }
    }
    keys.into_iter().flatten().collect()
}

fn terms(key: u64) -> Ask {
    let kinds = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow];
    let algorithm = kinds[usize::from(group_of(key)) % kinds.len()];
    let burst = if algorithm == Algorithm::TokenBucket { 100 } else { 600 };
    Ask { algorithm, burst, debt: 10, want: 5, ..ask(key) }
}

#[test]
fn a_cluster_serves_every_group_and_a_slot_that_moves_takes_its_state_along() {
    let mut cluster = Cluster::start();
    let urls = cluster.urls();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(ClusterClient::new(urls).unwrap().get_async_connection()).unwrap();
    // To every master; replicas get it from theirs.
    runtime.block_on(load().query_async::<()>(&mut client)).unwrap();

    let mut last = None;
    for key in keys_of_groups() {
        let mut node = Node::new(Lane::Group(group_of(key)));
        let mut say = |asks: Vec<Ask>| {
            let call = node.next(asks);
            let bytes: Vec<u8> = runtime.block_on(fcall(EXCHANGE, &call).query_async(&mut client)).unwrap();
            node.hear(&bytes)
        };
        assert_eq!(say(Vec::new()).verdict, Verdict::Admitted { epoch: 1 });
        let reply = say(vec![terms(key)]);
        assert_eq!((reply.verdict, reply.grants[0].tokens), (Verdict::Done, 5), "{key}");
        last = Some((key, node));
    }
    for member in &mut cluster.members {
        // What a master has reaches its replica a moment later.
        eventually("masters and replicas have the library", || {
            format!("{:?}", tell::<redis::Value>(&mut member.connection, "FUNCTION LIST")).contains(LIBRARY)
        });
    }
    for member in cluster.members.iter_mut().take(MASTERS) {
        let calls: String = tell(&mut member.connection, "INFO commandstats");
        assert!(calls.contains("cmdstat_fcall:"), "every master has its part");
    }

    let (key, mut node) = last.unwrap();
    let (from, _to) = cluster.move_slot_of(&node.next(Vec::new()).keys[0]);
    let call = node.next(vec![Ask { debt: 7, ..terms(key) }]);
    let moved: Result<Vec<u8>, RedisError> = fcall(EXCHANGE, &call).query(&mut cluster.members[from].connection);
    assert_eq!(moved.unwrap_err().code(), Some("MOVED"));
    let bytes: Vec<u8> = runtime.block_on(fcall(EXCHANGE, &call).query_async(&mut client)).unwrap();
    let reply = node.hear(&bytes);
    let grant = reply.grants[0];
    let full = i64::from(terms(key).burst);
    assert_eq!((reply.verdict, grant.tokens), (Verdict::Done, 5));
    assert!(grant.level < (full - 10 - 5 - 7) * UNITS, "what was debited before the move counts: {}", grant.level);
}
