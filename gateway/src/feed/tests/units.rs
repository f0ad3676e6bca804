//! Addresses, identity, and the order of messages.

use snapshot::wire::{ToGateway, to_gateway};

use super::super::assembly::{Assembly, AssemblyFault, Step};
use super::*;

#[test]
fn a_control_plane_is_a_socket_loopback_or_tls_and_never_in_the_clear() {
    for good in [
        "unix:/run/feed.sock",
        "unix:///run/feed.sock",
        "http://127.0.0.1:7000",
        "http://[::1]:7000",
        "http://localhost:7000",
        "https://control.example.com:7000",
    ] {
        assert_eq!(ControlPlane::parse(good).unwrap().to_string(), good);
    }
    for clear in ["http://10.0.0.1:7000", "http://control.example.com", "http://localhost.example.com"] {
        assert!(matches!(ControlPlane::parse(clear), Err(ControlPlaneFault::InTheClear(_))), "{clear}");
    }
    for wrong in ["", "unix:relative.sock", "ftp://127.0.0.1", "127.0.0.1:7000", "https://", "/run/feed.sock"] {
        assert!(matches!(ControlPlane::parse(wrong), Err(ControlPlaneFault::Form(_))), "{wrong}");
    }
}

#[test]
fn tls_without_an_authority_is_a_fault_that_names_the_setting() {
    let plane = ControlPlane::parse("https://control.example.com").unwrap();
    let fault = plane.endpoint(None).unwrap_err();
    assert!(fault.to_string().contains("feed.ca_file"));
}

#[test]
fn an_identity_file_that_holds_no_id_is_a_fault_not_a_new_node() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("node-id"), "rubbish").unwrap();
    assert!(matches!(Identity::read_or_make(directory.path(), "gw"), Err(IdentityFault::NotAnId(_))));
}

/// Feeds messages in and answers what the last one led to.
fn last(messages: Vec<ToGateway>, served: Option<Token>) -> Result<Step, AssemblyFault> {
    let mut assembly = Assembly::default();
    let mut step = Ok(Step::Wait);
    for message in messages {
        step = Ok(assembly.take(message.message, served)?);
    }
    step
}

#[test]
fn chunks_must_come_in_turn() {
    let mut swapped = full(token(1, 1), vec![vec![fleet(1)], vec![fleet(2)]]);
    swapped.swap(1, 2);
    assert!(matches!(last(swapped, None), Err(AssemblyFault::ChunkOutOfTurn { got: 1, .. })));
    let without_manifest = full(token(1, 1), vec![vec![fleet(1)]]).split_off(1);
    assert!(matches!(last(without_manifest, None), Err(AssemblyFault::ChunkOutOfTurn { got: 0, wanted: None })));
    let mut interrupted = full(token(1, 1), vec![vec![fleet(1)]]);
    interrupted[1] = delta(epoch(1), 0, 1, Vec::new());
    assert!(matches!(last(interrupted, Some(token(1, 0))), Err(AssemblyFault::DeltaOutOfTurn { .. })));
}

#[test]
fn messages_that_make_no_sense_have_a_fault_each() {
    assert_eq!(last(vec![ToGateway { message: None }], None), Err(AssemblyFault::Empty));
    let spoilt = spoilt(full(token(1, 1), vec![vec![fleet(1)]]));
    assert_eq!(last(spoilt, None), Err(AssemblyFault::Digest(0)));
    let backwards = vec![delta(epoch(1), 5, 4, Vec::new())];
    assert!(matches!(last(backwards, Some(token(1, 5))), Err(AssemblyFault::DeltaOutOfTurn { from: 5 })));
    let no_token = to_gateway::Message::Manifest(wire::Manifest { token: None });
    assert_eq!(last(vec![ToGateway { message: Some(no_token) }], None), Err(AssemblyFault::Field("manifest.token")));
}

#[test]
fn a_full_snapshot_is_whole_only_with_the_seal_that_fits_what_arrived() {
    let whole = full(token(1, 1), vec![vec![fleet(1)], vec![fleet(2)]]);
    assert_eq!(last(whole.clone(), None), Ok(Step::Full(token(1, 1))));
    let mut cut = whole.clone();
    cut.remove(2);
    assert_eq!(last(cut, None), Err(AssemblyFault::Seal), "a chunk is missing");
    let mut of_another = whole.clone();
    of_another[3] = full(token(1, 1), vec![vec![fleet(1)], vec![fleet(3)]]).pop().unwrap();
    assert_eq!(last(of_another, None), Err(AssemblyFault::Seal), "another's content");
    assert_eq!(last(whole[3..].to_vec(), None), Err(AssemblyFault::Seal), "of nothing");
    let mut begun_twice = whole[..2].to_vec();
    begun_twice.extend(whole.clone());
    assert_eq!(last(begun_twice, None), Ok(Step::Full(token(1, 1))), "the second begins anew");
    let twice = [whole.clone(), whole[3..].to_vec()].concat();
    assert_eq!(last(twice, None), Err(AssemblyFault::Seal), "a seal ends it");
}

#[test]
fn a_full_snapshot_that_does_not_end_is_refused() {
    let mut assembly = Assembly::default();
    let [manifest, chunk, _seal] = full(token(1, 1), vec![Vec::new()]).try_into().unwrap();
    assembly.take(manifest.message, None).unwrap();
    let Some(to_gateway::Message::Chunk(chunk)) = chunk.message else { panic!("no chunk") };
    let fault = (0..).find_map(|index| {
        let chunk = wire::Chunk { index, ..chunk.clone() };
        assembly.take(Some(to_gateway::Message::Chunk(chunk)), None).err()
    });
    assert_eq!(fault, Some(AssemblyFault::TooManyChunks));
}

#[test]
fn a_heartbeat_between_chunks_changes_nothing() {
    let mut messages = full(token(1, 1), vec![vec![fleet(1)], vec![fleet(2)]]);
    messages.insert(2, heartbeat(token(1, 9)));
    assert_eq!(last(messages, None), Ok(Step::Full(token(1, 1))));
}

#[test]
fn an_older_full_snapshot_of_the_served_epoch_is_refused_at_its_manifest() {
    let older = full(token(1, 9), vec![vec![fleet(1)]]);
    assert_eq!(last(older.clone(), Some(token(1, 10))), Err(AssemblyFault::Older { offered: 9, served: 10 }));
    assert!(matches!(last(older.clone(), Some(token(1, 9))), Ok(Step::Full(_))));
    assert!(matches!(last(older, Some(token(2, 10))), Ok(Step::Full(_))), "another epoch is not compared");
}

#[test]
fn a_heartbeat_of_a_control_plane_that_still_builds_is_a_sign_of_life() {
    let heartbeat = to_gateway::Message::Heartbeat(wire::Heartbeat { newest: None });
    assert_eq!(last(vec![ToGateway { message: Some(heartbeat) }], Some(token(1, 1))), Ok(Step::Wait));
}
