//! No reader misses a change, whoever writes and whatever breaks.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::*;
use crate::publish::builder::testing_rows::Rows;
use crate::store::changes::{limit_idleness, list_changes, prune_changes, replace_lost_epoch, try_lead};
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
    let (node_id, boot_id, refusals) = (node.id, node.boot_id, serde_json::json!([]));
    let row = AckRow { node_id, boot_id, is_connected: true, epoch, revision, refusals };
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
    let epoch = rows.epoch().await;
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
    let (first, second) = (node("gateway"), node("gateway"));
    register_node(&rows.store, &first).await.unwrap();
    let refused = register_node(&rows.store, &second).await;
    assert!(matches!(refused, Err(RegisterError::NameTaken { .. })), "{refused:?}");
    mark_disconnected(&rows.store, first.id, first.boot_id).await.unwrap();
    register_node(&rows.store, &second).await.unwrap();
    let state = "SELECT state FROM nodes WHERE id = $1";
    let removed: String = rows.client.query_one(state, &[&first.id]).await.unwrap().get(0);
    assert_eq!(removed, "removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_two_processes_of_a_node_are_connected_both_must_serve_and_then_the_one_that_stays() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    let lag = async |revision| revisions.served(revision, Duration::ZERO).await.unwrap().missing;
    let missing = |served_revision| vec![NodeLag { name: "gateway".into(), served_revision }];
    let epoch = rows.epoch().await;
    let old = node("gateway");
    let new = NewNode { boot_id: Uuid::now_v7(), ..old.clone() };
    // The control plane was started anew during the upgrade: the old process says hello last.
    for process in [&new, &old] {
        register_node(&rows.store, process).await.unwrap();
    }
    ack(&rows.store, &old, epoch, 5).await;
    assert_eq!(lag(5).await, missing(None), "the old process alone does not answer for the node");
    ack(&rows.store, &new, epoch, 4).await;
    assert_eq!(lag(5).await, missing(Some(4)));
    ack(&rows.store, &new, epoch, 5).await;
    assert_eq!(lag(5).await, []);
    ack(&rows.store, &new, epoch, 3).await;
    assert_eq!(lag(5).await, [], "what was overtaken on the way does not count");

    mark_disconnected(&rows.store, old.id, old.boot_id).await.unwrap();
    ack(&rows.store, &new, epoch, 6).await;
    assert_eq!(lag(6).await, [], "the process that stays answers alone");
    mark_disconnected(&rows.store, new.id, new.boot_id).await.unwrap();
    assert_eq!(lag(6).await, [], "what the last one served is known");
    assert_eq!(lag(7).await, missing(Some(6)));

    // A process that starts anew begins with nothing, whatever the former ones served.
    let next = NewNode { boot_id: Uuid::now_v7(), ..old.clone() };
    register_node(&rows.store, &next).await.unwrap();
    assert_eq!(lag(6).await, missing(None));
    let processes = rows.client.query_one("SELECT count(*) FROM node_processes", &[]).await.unwrap();
    assert_eq!(processes.get::<_, i64>(0), 1, "those that are gone are forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_what_was_written_does_not_serve_it() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    let gateway = node("gateway");
    register_node(&rows.store, &gateway).await.unwrap();
    let epoch = rows.epoch().await;
    let (refused, refused_too) = (Uuid::now_v7(), Uuid::now_v7());
    let both = rows.store.run_tx("write", |tx| {
        Box::pin(async move {
            record(tx, EntityKind::Product, refused).await?;
            record(tx, EntityKind::Key, refused_too).await
        })
    });
    let both = revisions.numbered(both.await.unwrap()).await.unwrap();
    let other = revisions.numbered(write(&rows.store, 0).await.1).await.unwrap();
    let (node_id, boot_id, revision) = (gateway.id, gateway.boot_id, i64::try_from(other).unwrap());
    let refuse = async |entity: String| {
        let refusals = serde_json::json!([{ "entity": entity, "reason": "lacks cors.v9" }]);
        let row = AckRow { node_id, boot_id, is_connected: true, epoch, revision, refusals };
        save_acks(&rows.store, &[row]).await.unwrap();
        let missing = async |revision| revisions.served(revision, Duration::ZERO).await.unwrap().missing.len();
        (missing(both).await, missing(other).await)
    };
    assert_eq!(refuse(format!("product {refused}")).await, (1, 0), "by any change of the same transaction");
    assert_eq!(refuse(format!("key {refused_too}")).await, (1, 0));
    assert_eq!(refuse(format!("plan {refused}")).await, (0, 0));
    assert_eq!(refuse("others".into()).await, (1, 1), "it may be among those that are not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_vanished_without_a_word_gives_numbering_up_within_seconds() {
    let rows = Rows::start().await;
    let (silent, driver) = rows.store.session().await.unwrap();
    let _driving = AbortOnDropHandle::new(tokio::spawn(driver));
    limit_idleness(&silent).await.unwrap();
    assert!(try_lead(&silent).await.unwrap());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    let (_, change) = write(&rows.store, 0).await;
    let numbered = async {
        loop {
            if let Ok(revision) = revisions.numbered(change).await {
                return revision;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, numbered).await.expect("another one leads"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_server_of_another_history_begins_a_new_epoch() {
    let rows = Rows::start().await;
    let state = async || {
        let row = rows.client.query_one("SELECT epoch, history FROM feed_state", &[]).await.unwrap();
        (row.get::<_, Uuid>(0), row.get::<_, String>(1))
    };
    let begun = state().await;
    let lead = async || {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let revisions = Revisions::start(rows.store.clone(), 7, &stop);
        revisions.numbered(write(&rows.store, 0).await.1).await.unwrap()
    };
    lead().await;
    assert_eq!(state().await, begun, "the same server goes on");
    // As in a dump of another server.
    rows.sql("UPDATE feed_state SET history = '1/00000001'", &[]).await;
    lead().await;
    let (epoch, history) = state().await;
    assert_ne!(epoch, begun.0);
    assert_eq!(history, begun.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_the_database_has_lost_is_not_served_by_whoever_is_beyond_it() {
    let rows = Rows::start().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let revisions = Revisions::start(rows.store.clone(), 7, &stop);
    let kept = revisions.numbered(write(&rows.store, 0).await.1).await.unwrap();
    let epoch = rows.epoch().await;
    assert!(replace_lost_epoch(&rows.store, epoch, kept + 1).await.unwrap());
    let later = revisions.numbered(write(&rows.store, 0).await.1).await.unwrap();
    let gateway = node("gateway");
    register_node(&rows.store, &gateway).await.unwrap();
    let epoch = rows.epoch().await;
    ack(&rows.store, &gateway, epoch, i64::try_from(later).unwrap()).await;
    let missing = async |revision| revisions.served(revision, Duration::ZERO).await.unwrap().missing.len();
    assert_eq!((missing(kept).await, missing(kept + 1).await, missing(later).await), (0, 1, 0));
}

#[tokio::test]
async fn old_changes_are_forgotten_without_a_gap() {
    let rows = Rows::start().await;
    for _ in 0..4 {
        rows.changed("key", Uuid::now_v7()).await;
    }
    rows.number().await;
    // A long transaction: its change is older than the one that was numbered before it.
    let age = "UPDATE config_changes SET created_at = now() - interval '8 days' WHERE revision IN (1, 3)";
    rows.sql("ALTER TABLE config_changes DISABLE TRIGGER USER", &[]).await;
    rows.sql(age, &[]).await;
    prune_changes(&rows.client, 7, 100).await.unwrap();
    let left = rows.client.query("SELECT revision FROM config_changes ORDER BY revision", &[]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [2, 3, 4]);
}
