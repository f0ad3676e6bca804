//! Against a control plane that plays scripts over a real unix socket, and against damaged files.

mod disk;
mod golden;
mod names;
mod script;
mod tls;
mod units;

use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot::token::Token;
use snapshot::wire::{self, Record, from_gateway, record};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::script::{ScriptedControlPlane, delta, full, heartbeat, spoilt};
use super::*;
use crate::live::Snapshot;

/// How long anything here may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(20);

fn epoch(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn token(epoch_number: u128, revision: u64) -> Token {
    Token { epoch: epoch(epoch_number), revision }
}

/// A record that every snapshot takes in.
fn fleet(fleet_max: u32) -> Record {
    Record { record: Some(record::Record::Fleet(wire::Fleet { fleet_max })) }
}

/// A gateway's feed, following a scripted control plane.
struct Follower {
    live: Live,
    metrics: Arc<Metrics>,
    upstreams: Arc<Upstreams>,
    identity: Identity,
    directory: TempDir,
    stop: watch::Sender<bool>,
    following: JoinHandle<()>,
}

impl Follower {
    fn of(plane: &ScriptedControlPlane) -> Follower {
        let directory = tempfile::tempdir().unwrap();
        Follower::in_directory(plane, directory)
    }

    fn in_directory(plane: &ScriptedControlPlane, directory: TempDir) -> Follower {
        Follower::trusting(plane, directory, None)
    }

    /// Boots from the directory first, as the server does.
    fn trusting(plane: &ScriptedControlPlane, directory: TempDir, ca_pem: Option<String>) -> Follower {
        let live = Live::new(Snapshot::empty());
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let disk = Arc::new(DiskSnapshot::at(directory.path().join("snapshot")));
        boot(&live, &disk, &metrics);
        let identity = Identity::read_or_make(directory.path(), "gw-1").unwrap();
        let settings = FeedSettings {
            control_planes: vec![ControlPlane::parse(plane.address()).unwrap()],
            token: Some(Secret::new("feed-token")),
            ca_pem: ca_pem.map(String::into_bytes),
            identity: identity.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let upstreams = Arc::new(crate::upstream::tests::upstreams(&[]));
        let following = tokio::spawn(follow(live.clone(), disk, settings, metrics.clone(), upstreams.clone(), stopped));
        Follower { live, metrics, upstreams, identity, directory, stop, following }
    }

    async fn serves(&self, wanted: Token) {
        let mut changes = self.live.subscribe();
        let served = changes.wait_for(|served| *served == Some(wanted));
        tokio::time::timeout(PATIENCE, served).await.expect("the token is served in time").unwrap();
    }

    async fn stop(self) -> TempDir {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.following).await.unwrap().unwrap();
        self.directory
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn served(ack: from_gateway::Message) -> Token {
    let from_gateway::Message::Ack(ack) = ack else { panic!("not an acknowledgement: {ack:?}") };
    Token::try_from(&ack.served.unwrap()).unwrap()
}

#[tokio::test]
async fn a_new_gateway_says_who_it_is_takes_a_full_snapshot_then_deltas_and_acknowledges_each() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    assert_eq!(call.authorization.as_deref(), Some("Bearer feed-token"));
    assert_eq!(call.hello.have, None);
    assert_eq!(call.hello.node_id, follower.identity.node_id.as_bytes());
    assert_eq!((call.hello.node_name.as_str(), call.hello.protocol), ("gw-1", wire::PROTOCOL));
    assert!(call.hello.features.iter().any(|feature| feature == snapshot::features::LIMITS_V1));

    call.play(full(token(1, 10), vec![vec![fleet(3)], vec![fleet(4)]])).await;
    assert_eq!(served(call.next_said().await), token(1, 10));
    assert_eq!(follower.live.load().fleet_max, 4, "chunks are taken in order");
    call.play([delta(epoch(1), 10, 11, vec![fleet(5)])]).await;
    assert_eq!(served(call.next_said().await), token(1, 11));
    assert_eq!(follower.live.load().fleet_max, 5);
    call.play([heartbeat(token(1, 12))]).await;
    eventually("the newest is known", || follower.metrics.status.newest_revision() == 12).await;
    assert_eq!(follower.metrics.status.feed(), PartState::Up);
}

#[tokio::test]
async fn an_empty_full_snapshot_is_a_snapshot() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 1), vec![])).await;
    assert_eq!(served(call.next_said().await), token(1, 1));
    assert!(follower.metrics.status.served().is_some());
}

#[tokio::test]
async fn after_a_broken_connection_it_comes_back_with_what_it_has_and_goes_on_from_there() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    drop(call);
    let mut call = plane.next_call().await;
    assert_eq!(call.have(), Some(token(1, 10)));
    call.play([delta(epoch(1), 10, 14, vec![fleet(9)])]).await;
    follower.serves(token(1, 14)).await;
    assert_eq!(follower.metrics.config.feed_connects_total.get(), 2);
}

#[tokio::test]
async fn a_delta_that_begins_elsewhere_is_refused_and_a_full_snapshot_asked_for() {
    for (epoch_number, from) in [(1, 9), (1, 11), (2, 10)] {
        let mut plane = ScriptedControlPlane::start().await;
        let follower = Follower::of(&plane);
        let mut call = plane.next_call().await;
        call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
        follower.serves(token(1, 10)).await;
        call.play([delta(epoch(epoch_number), from, 20, vec![fleet(8)])]).await;
        let mut call = plane.next_call().await;
        assert_eq!(call.have(), None, "epoch {epoch_number} from {from}");
        assert_eq!(follower.live.load().fleet_max, 3, "what was served is still served");
        call.play(full(token(2, 1), vec![vec![fleet(7)]])).await;
        follower.serves(token(2, 1)).await;
        drop(call);
        assert_eq!(plane.next_call().await.have(), Some(token(2, 1)), "and is not asked for a second time");
    }
}

#[tokio::test]
async fn an_older_full_snapshot_is_refused_and_the_next_control_plane_told_what_is_served() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    call.play([delta(epoch(1), 11, 12, vec![fleet(8)])]).await;
    let mut call = plane.next_call().await;
    assert_eq!(call.have(), None);
    call.play(full(token(1, 9), vec![vec![fleet(7)]])).await;
    let call = plane.next_call().await;
    assert_eq!(call.have(), Some(token(1, 10)), "so that a restored database is found out");
    assert_eq!((follower.live.load().token, follower.live.load().fleet_max), (Some(token(1, 10)), 3));
}

#[tokio::test]
async fn a_chunk_without_the_announced_digest_is_refused_and_nothing_of_it_is_served() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    call.play(spoilt(full(token(1, 20), vec![vec![fleet(8)], vec![fleet(9)]]))).await;
    let call = plane.next_call().await;
    assert_eq!(call.have(), Some(token(1, 10)), "what it has is whole");
    assert_eq!(follower.live.load().fleet_max, 3);
    let shown = String::from_utf8(follower.metrics.render().unwrap()).unwrap();
    assert!(shown.contains(r#"gateway_config_apply_failures_total{reason="digest"} 1"#));
}

#[tokio::test]
async fn a_new_epoch_replaces_everything_even_with_a_smaller_revision() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 500), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 500)).await;
    call.play(full(token(2, 4), vec![vec![fleet(6)]])).await;
    follower.serves(token(2, 4)).await;
    assert_eq!(follower.live.load().fleet_max, 6);
    eventually("the newest is of the new epoch", || follower.metrics.status.newest_revision() == 4).await;
}

#[tokio::test]
async fn what_was_served_is_on_disk_and_a_restart_without_a_control_plane_serves_it() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    call.play([delta(epoch(1), 10, 11, vec![fleet(4)])]).await;
    follower.serves(token(1, 11)).await;
    let (node_id, boot_id) = (follower.identity.node_id, follower.identity.boot_id);
    let directory = follower.stop().await;
    drop((call, plane));

    let nobody = ScriptedControlPlane::that_never_answers();
    let follower = Follower::in_directory(&nobody, directory);
    assert_eq!(follower.live.load().token, Some(token(1, 11)));
    assert_eq!(follower.live.load().fleet_max, 4);
    assert!(follower.metrics.status.served().is_some());
    assert_eq!(follower.identity.node_id, node_id, "a restart is the same node");
    assert_ne!(follower.identity.boot_id, boot_id);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_counted_and_serving_goes_on() {
    let mut plane = ScriptedControlPlane::start().await;
    let directory = tempfile::tempdir().unwrap();
    // The file's place is taken by a directory: no write can succeed, not even for root.
    std::fs::create_dir_all(directory.path().join("snapshot/in-the-way")).unwrap();
    let follower = Follower::in_directory(&plane, directory);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    eventually("the failure is counted", || follower.metrics.config.save_failures_total.get() >= 1).await;
    call.play([delta(epoch(1), 10, 11, vec![fleet(4)])]).await;
    follower.serves(token(1, 11)).await;
}

#[tokio::test]
async fn while_no_whole_snapshot_can_be_written_changes_go_on_being_logged() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let path = follower.directory.path().join("snapshot");
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    eventually("the whole is on disk", || follower.metrics.status.saved_revision() == Some(10)).await;
    // So much that the next write shall be of the whole, and a directory where that is made.
    call.play([delta(epoch(1), 10, 11, vec![fleet(4); 150_000])]).await;
    eventually("it is logged", || follower.metrics.status.saved_revision() == Some(11)).await;
    let temporary = path.with_file_name(format!("snapshot.{}.tmp", std::process::id()));
    std::fs::create_dir(&temporary).unwrap();
    call.play([delta(epoch(1), 11, 12, vec![fleet(5)])]).await;
    eventually("the failure is counted", || follower.metrics.config.save_failures_total.get() >= 1).await;
    let loaded = DiskSnapshot::at(&path).load().unwrap();
    assert_eq!((loaded.snapshot.token, loaded.snapshot.fleet_max), (Some(token(1, 12)), 5));
    assert_eq!(follower.metrics.status.saved_revision(), Some(12));
    std::fs::remove_dir(&temporary).unwrap();
    eventually("the next attempt succeeds", || follower.metrics.config.saves_total.get() >= 3).await;
}

#[tokio::test]
async fn a_control_plane_that_refuses_the_token_is_asked_again_and_nothing_is_served() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    plane.next_call().await.refuse(tonic::Status::unauthenticated("no")).await;
    plane.next_call().await.refuse(tonic::Status::unauthenticated("no")).await;
    assert_eq!(follower.live.load().token, None);
    assert!(follower.metrics.status.served().is_none());
}

#[tokio::test]
async fn it_has_caught_up_when_it_serves_what_the_control_plane_calls_the_newest() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let has_caught_up = || follower.metrics.status.watch_feed().borrow().has_caught_up;
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    call.play([heartbeat(token(1, 12))]).await;
    eventually("the newest is known", || follower.metrics.status.newest_revision() == 12).await;
    assert!(!has_caught_up(), "revision 12 exists");
    call.play([delta(epoch(1), 10, 11, vec![fleet(4)])]).await;
    assert_eq!(served(call.next_said().await), token(1, 10));
    assert_eq!(served(call.next_said().await), token(1, 11));
    assert!(!has_caught_up());
    call.play([delta(epoch(1), 11, 13, vec![fleet(5)])]).await;
    assert_eq!(served(call.next_said().await), token(1, 13));
    assert!(has_caught_up(), "it stands beyond what was announced");
}

#[tokio::test]
async fn what_the_disk_gave_counts_as_current_only_by_a_control_planes_word() {
    let mut plane = ScriptedControlPlane::start().await;
    let follower = Follower::of(&plane);
    let mut call = plane.next_call().await;
    call.play(full(token(1, 10), vec![vec![fleet(3)]])).await;
    follower.serves(token(1, 10)).await;
    let directory = follower.stop().await;
    drop(call);

    let follower = Follower::in_directory(&plane, directory);
    let has_caught_up = || follower.metrics.status.watch_feed().borrow().has_caught_up;
    assert_eq!(follower.metrics.status.saved_revision(), Some(10));
    let mut call = plane.next_call().await;
    assert_eq!(call.have(), Some(token(1, 10)));
    assert!(!has_caught_up());
    call.play([heartbeat(token(1, 10))]).await;
    eventually("it has caught up", has_caught_up).await;
}
