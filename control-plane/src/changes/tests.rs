//! No reader misses a change, whoever writes and whatever breaks.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::*;
use crate::publish::builder::rows::Rows;
use crate::store::changes::list_changes;
use crate::store::nodes::{AckRow, NewNode, RegisterError, mark_disconnected, register_node, save_acks, set_state};
use crate::store::snapshot_rows::{begin_moment, end_moment, read_feed_state};
use crate::store::{Store, StoreError};

const WRITERS: usize = 32;
const CHANGES: usize = 50;
/// Beyond it a test has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads changes by revision, as a builder does, until it has seen `count`.
async fn follow(store: Store, mut numbered: tokio::sync::watch::Receiver<u64>, count: usize) -> Vec<Uuid> {
    let (mut seen, mut after) = (Vec::new(), 0);
    while seen.len() < count {
        let tx = begin_moment(&store).await.unwrap();
        let state = read_feed_state(&tx).await.unwrap();
        let changes = list_changes(&tx, after, state.revision).await.unwrap();
        end_moment(tx).await.unwrap();
        for change in changes {
            assert_eq!(change.revision, after + 1, "revisions have no gap and no repetition");
            after = change.revision;
            seen.push(change.entity);
        }
        let _signal_or_poll = tokio::time::timeout(Duration::from_millis(20), numbered.changed()).await;
    }
    seen
}

/// Writes a change and lingers before the commit, so that ids become visible out of order.
async fn write(store: &Store, linger_ms: u64) -> (Uuid, ChangeId) {
    let entity = Uuid::now_v7();
    let change = store.run_tx("write", |tx| {
        Box::pin(async move {
            let change = record(tx, EntityKind::Key, entity).await?;
            let linger = format!("SELECT pg_sleep({}::float / 1000)", linger_ms);
            tx.query_cached(&linger, &[]).await?;
            Ok::<_, StoreError>(change)
        })
    });
    (entity, change.await.unwrap())
}

async fn write_many(store: Store, writer: usize) -> Vec<Uuid> {
    let mut written = Vec::new();
    for index in 0..CHANGES {
        let linger_ms = (writer * 7 + index * 13) % 11;
        written.push(write(&store, linger_ms as u64).await.0);
    }
    written
}

async fn all_writers(store: &Store) -> BTreeSet<Uuid> {
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write_many(store.clone(), writer))).collect();
    let mut written = BTreeSet::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written
}

fn assert_each_once(seen: Vec<Uuid>, written: &BTreeSet<Uuid>) {
    assert_eq!(seen.len(), written.len());
    assert_eq!(&seen.into_iter().collect::<BTreeSet<_>>(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_every_change_of_many_writers_exactly_once() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    // A second control plane that wants to number as well.
    let _other = Revisions::start(rows.store.clone(), 7, &stop);
    let reader = tokio::spawn(follow(rows.store.clone(), revisions.signals().numbered(), WRITERS * CHANGES));
    let written = all_writers(&rows.store).await;
    let seen = tokio::time::timeout(PATIENCE, reader).await.expect("all are numbered").unwrap();
    assert_each_once(seen, &written);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbering_goes_on_after_its_connection_was_killed() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    let reader = tokio::spawn(follow(rows.store.clone(), revisions.signals().numbered(), WRITERS * CHANGES));
    let killer = async {
        for _ in 0..5 {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_locks
                WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            rows.sql(kill, &[]).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let (written, ()) = tokio::join!(all_writers(&rows.store), killer);
    let seen = tokio::time::timeout(PATIENCE, reader).await.expect("all are numbered").unwrap();
    assert_each_once(seen, &written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_learns_its_revision_at_the_control_plane_that_numbers_and_at_any_other() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let first = Revisions::start(rows.store.clone(), 7, &stop);
    let (_, change) = write(&rows.store, 0).await;
    assert_eq!(first.numbered(change).await.unwrap(), 1);
    let other = Revisions::start(rows.store.clone(), 7, &stop);
    for expected in 2..20 {
        let (_, change) = write(&rows.store, 0).await;
        let asked = if expected % 2 == 0 { &first } else { &other };
        assert_eq!(asked.numbered(change).await.unwrap(), expected);
        assert_eq!(asked.numbered(change).await.unwrap(), expected, "also when it was numbered before");
    }
}

fn node(name: &str) -> NewNode {
    NewNode {
        id: Uuid::now_v7(),
        name: name.into(),
        boot_id: Uuid::now_v7(),
        version: "1".into(),
        features: vec![],
        address: None,
        served: None,
    }
}

async fn ack(store: &Store, node: &NewNode, epoch: Uuid, revision: i64) {
    let row = AckRow { node_id: node.id, boot_id: node.boot_id, epoch, revision, refusals: serde_json::json!([]) };
    save_acks(store, &[row]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn served_means_every_expected_node_and_a_missing_one_is_named() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    let nobody = revisions.served(1, Duration::ZERO).await.unwrap();
    assert!(nobody.missing.is_empty(), "no node is expected yet");

    let (one, two) = (node("one"), node("two"));
    for node in [&one, &two] {
        register_node(&rows.store, node).await.unwrap();
    }
    let epoch: Uuid = rows.client.query_one("SELECT epoch FROM feed_state", &[]).await.unwrap().get(0);
    ack(&rows.store, &one, epoch, 7).await;
    ack(&rows.store, &two, epoch, 6).await;
    let lag = vec![NodeLag { name: "two".into(), served_revision: Some(6) }];
    assert_eq!(revisions.served(7, Duration::ZERO).await.unwrap().missing, lag);

    // An acknowledgement stored by another control plane wakes this one.
    let waiting = {
        let revisions = revisions.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { revisions.served(7, Duration::from_secs(20)).await }))
    };
    ack(&rows.store, &two, epoch, 7).await;
    assert!(waiting.await.unwrap().unwrap().missing.is_empty());

    // Of another epoch it counts for nothing.
    ack(&rows.store, &two, Uuid::now_v7(), 99).await;
    let lag = vec![NodeLag { name: "two".into(), served_revision: None }];
    assert_eq!(revisions.served(7, Duration::ZERO).await.unwrap().missing, lag);

    // A node that is away is still expected, until an operator says otherwise.
    mark_disconnected(&rows.store, two.id, two.boot_id).await.unwrap();
    assert_eq!(revisions.served(7, Duration::ZERO).await.unwrap().missing, lag);
    let drain = rows.store.run_tx("drain", |tx| Box::pin(set_state(tx, two.id, "drained")));
    drain.await.unwrap();
    assert!(revisions.served(7, Duration::ZERO).await.unwrap().missing.is_empty());
}

#[tokio::test]
async fn a_name_belongs_to_one_connected_node_and_passes_on_when_it_left() {
    let rows = Rows::start().await;
    let (first, mut second) = (node("gateway"), node("gateway"));
    register_node(&rows.store, &first).await.unwrap();
    let refused = register_node(&rows.store, &second).await;
    assert!(matches!(refused, Err(RegisterError::NameTaken { .. })), "{refused:?}");
    mark_disconnected(&rows.store, first.id, first.boot_id).await.unwrap();
    register_node(&rows.store, &second).await.unwrap();
    let state = "SELECT state FROM nodes WHERE id = $1";
    let removed: String = rows.client.query_one(state, &[&first.id]).await.unwrap().get(0);
    assert_eq!(removed, "removed");

    // The same node starts anew: of its older process nothing counts any more.
    let old_boot = NewNode { ..second.clone() };
    second.boot_id = Uuid::now_v7();
    register_node(&rows.store, &second).await.unwrap();
    let epoch: Uuid = rows.client.query_one("SELECT epoch FROM feed_state", &[]).await.unwrap().get(0);
    ack(&rows.store, &old_boot, epoch, 5).await;
    let served = "SELECT served_revision FROM nodes WHERE id = $1";
    let revision: Option<i64> = rows.client.query_one(served, &[&second.id]).await.unwrap().get(0);
    assert_eq!(revision, None);
}
