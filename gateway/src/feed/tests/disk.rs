//! Damaged files: the previous good one or a clear refusal, never an empty table that calls itself a snapshot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use servers::SmallDisk;
use snapshot::key::Environment;

use super::*;
use crate::live::JournalEntry;
use crate::live::fixtures::{self, IntoRecord, plan, product, put, remove, subscription};

/// A data directory with the file's path in it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("snapshot")
    }

    fn previous(&self) -> PathBuf {
        self.directory.path().join("snapshot.previous")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("snapshot.log")
    }

    fn disk(&self) -> DiskSnapshot {
        DiskSnapshot::at(self.path())
    }

    fn load(&self) -> Result<Loaded, DiskFault> {
        self.disk().load()
    }
}

/// A snapshot with something of every kind, whose fleet tells its revision.
fn snapshot_of(revision: u32) -> Snapshot {
    let (live, scoped) = (fixtures::minted(Environment::Live), fixtures::minted(Environment::Test));
    let mut of_scopes = fixtures::key(21, 11, &scoped);
    of_scopes.scopes = vec!["read".into(), "write".into()];
    let mut unreadable = plan(12, 60);
    unreadable.policy = None;
    let records = [
        fleet(revision),
        product(1).record(),
        plan(10, 60).record(),
        unreadable.record(),
        subscription(11, 1, 10).record(),
        fixtures::key(20, 11, &live).record(),
        of_scopes.record(),
    ];
    Snapshot::build(token(1, u64::from(revision)), records).0
}

fn save(disk: &DiskSnapshot, revision: u32) -> Result<Token, DiskFault> {
    disk.save(&snapshot_of(revision), i64::from(revision) * 111, || true)
}

/// The changes from one revision to the next: each tells its revision by the size of the fleet, and adds a key.
fn entries(revisions: std::ops::Range<u32>) -> Vec<Arc<JournalEntry>> {
    let entry = |revision: u32| {
        let key = fixtures::key(100 + u128::from(revision), 11, &fixtures::minted(Environment::Live));
        let changes = [put(wire::Fleet { fleet_max: revision + 1 }), put(key)];
        let (from, to) = (token(1, u64::from(revision)), token(1, u64::from(revision + 1)));
        Arc::new(JournalEntry::new(from, to, &changes))
    };
    revisions.map(entry).collect()
}

/// Revision 1, then revision 2 over it.
fn saved_twice() -> Place {
    let place = Place::new();
    let disk = place.disk();
    save(&disk, 1).unwrap();
    save(&disk, 2).unwrap();
    place
}

/// Revision 2 in the file, 3 to 5 in its log.
fn with_a_log() -> Place {
    let place = Place::new();
    let disk = place.disk();
    save(&disk, 2).unwrap();
    assert_eq!(disk.append(&entries(2..5)).unwrap(), token(1, 5));
    place
}

/// The revision that a snapshot says it has and that its content is of; everything else in it is there, too.
fn revision_of(snapshot: &Snapshot) -> u64 {
    let token = snapshot.token.unwrap();
    assert_eq!(u64::from(snapshot.fleet_max), token.revision);
    let counts = snapshot.counts();
    assert_eq!((counts.products, counts.plans, counts.subscriptions, counts.refused), (1, 1, 1, 1));
    assert!(counts.keys >= 2);
    token.revision
}

fn is_whole(loaded: &Loaded, revision: u32) {
    assert_eq!(revision_of(&loaded.snapshot), u64::from(revision));
    assert_eq!((loaded.saved_at_ms, loaded.changes), (i64::from(revision) * 111, 0));
    assert_eq!(loaded.snapshot.counts().keys, 2);
}

#[test]
fn what_was_saved_is_loaded_and_only_its_owner_may_read_it() {
    let place = saved_twice();
    let loaded = place.load().unwrap();
    is_whole(&loaded, 2);
    assert_eq!(loaded.from, LoadedFrom::Current);
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(place.directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    let expected = ["snapshot", "snapshot.lock", "snapshot.log", "snapshot.previous", "snapshot.previous.log"];
    assert_eq!(names, expected, "nothing else is left behind");
}

#[test]
fn an_empty_snapshot_that_was_saved_is_not_a_missing_one() {
    let place = Place::new();
    place.disk().save(&Snapshot::build(token(1, 5), []).0, 1, || true).unwrap();
    assert_eq!(place.load().unwrap().snapshot.token, Some(token(1, 5)));
}

#[test]
fn nothing_on_disk_is_a_fault_of_its_own() {
    assert!(matches!(Place::new().load(), Err(DiskFault::Nothing)));
}

#[test]
fn cut_at_every_sixty_fourth_the_previous_one_is_loaded_and_without_it_there_is_a_refusal() {
    let place = saved_twice();
    let whole = fs::read(place.path()).unwrap();
    for part in 0..64 {
        fs::write(place.path(), &whole[..whole.len() * part / 64]).unwrap();
        let loaded = place.load().unwrap();
        is_whole(&loaded, 1);
        assert_eq!(loaded.from, LoadedFrom::Previous);
    }
    fs::remove_file(place.previous()).unwrap();
    for part in 0..64 {
        fs::write(place.path(), &whole[..whole.len() * part / 64]).unwrap();
        assert!(matches!(place.load(), Err(DiskFault::NotUsable { .. })), "cut at {part}/64");
    }
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let place = saved_twice();
    let whole = fs::read(place.path()).unwrap();
    // Every byte of the header, and of the rest some in each block.
    for at in (0..60).chain((60..whole.len()).step_by(61)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(place.path(), &damaged).unwrap();
        is_whole(&place.load().unwrap(), 1);
    }
}

#[test]
fn bytes_after_the_end_are_a_fault() {
    let place = saved_twice();
    let mut longer = fs::read(place.path()).unwrap();
    longer.push(0);
    fs::write(place.path(), &longer).unwrap();
    is_whole(&place.load().unwrap(), 1);
}

#[test]
fn an_older_or_newer_version_of_the_format_is_refused_by_its_number() {
    for version in [0u32, 1, 3, u32::MAX] {
        let place = saved_twice();
        fs::remove_file(place.previous()).unwrap();
        let mut bytes = fs::read(place.path()).unwrap();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        fs::write(place.path(), &bytes).unwrap();
        let Err(DiskFault::NotUsable { fault: FormatFault::Version(found), .. }) = place.load() else {
            panic!("version {version}")
        };
        assert_eq!(found, version);
    }
}

#[test]
fn a_crash_between_the_two_names_leaves_a_snapshot() {
    let place = saved_twice();
    fs::remove_file(place.path()).unwrap();
    is_whole(&place.load().unwrap(), 1);
}

#[test]
fn a_damaged_file_never_takes_the_place_of_the_previous_good_one() {
    let place = saved_twice();
    fs::write(place.path(), b"rubbish").unwrap();
    let disk = place.disk();
    is_whole(&disk.load().unwrap(), 1);
    save(&disk, 3).unwrap();
    is_whole(&place.load().unwrap(), 3);
    fs::write(place.path(), b"rubbish").unwrap();
    is_whole(&place.load().unwrap(), 1);
}

#[test]
fn a_save_that_fails_leaves_the_files_as_they_were() {
    let place = saved_twice();
    let disk = place.disk();
    disk.load().unwrap();
    // Something stands where the previous file must go: the rename fails after the new file was written.
    fs::remove_file(place.previous()).unwrap();
    fs::create_dir_all(place.previous().join("in-the-way")).unwrap();
    assert!(matches!(save(&disk, 4), Err(DiskFault::Io { .. })));
    is_whole(&place.load().unwrap(), 2);
    fs::remove_dir_all(place.previous()).unwrap();
    save(&disk, 3).unwrap();
    is_whole(&place.load().unwrap(), 3);
}

#[test]
fn booting_from_a_damaged_file_alone_does_not_make_the_gateway_ready() {
    let place = Place::new();
    fs::write(place.path(), b"").unwrap();
    let live = Live::new(Snapshot::empty());
    let metrics = Metrics::new("test").unwrap();
    assert!(!boot(&live, &place.disk(), &metrics));
    assert_eq!(live.load().token, None);
    assert!(metrics.status.served().is_none());
}

#[test]
fn what_a_killed_process_was_writing_is_swept_away_and_nothing_else() {
    let place = saved_twice();
    let in_directory = |name: &str| place.directory.path().join(name);
    let own = format!("snapshot.{}.tmp", std::process::id());
    // No process has an id beyond the kernel's largest.
    for name in ["snapshot.99999999.tmp", "snapshot.99999999.link", "snapshot.notes.tmp", "other.99999999.tmp", &own] {
        fs::write(in_directory(name), b"half").unwrap();
    }
    is_whole(&place.load().unwrap(), 2);
    assert!(!in_directory("snapshot.99999999.tmp").exists() && !in_directory("snapshot.99999999.link").exists());
    for name in ["snapshot.notes.tmp", "other.99999999.tmp", &own] {
        assert!(in_directory(name).exists(), "{name}");
    }
}

#[test]
fn changes_are_written_behind_the_file_and_read_with_it() {
    let place = with_a_log();
    let file = fs::read(place.path()).unwrap();
    let disk = place.disk();
    let loaded = disk.load().unwrap();
    assert_eq!((revision_of(&loaded.snapshot), loaded.changes, loaded.snapshot.counts().keys), (5, 3, 5));
    // A new process goes on where the old one ended, and what is there already is not written again.
    let before = fs::metadata(place.log()).unwrap().len();
    assert_eq!(disk.append(&entries(3..7)).unwrap(), token(1, 7));
    let grown = fs::metadata(place.log()).unwrap().len() - before;
    assert!(grown * 3 <= before * 2 + 8, "two changes more took {grown} bytes where three took {before}");
    assert_eq!(fs::read(place.path()).unwrap(), file, "a change does not rewrite the file");
    assert_eq!(revision_of(&place.load().unwrap().snapshot), 7);
}

#[test]
fn changes_that_do_not_follow_are_not_logged() {
    let place = with_a_log();
    let disk = place.disk();
    assert!(matches!(disk.append(&entries(5..6)), Err(DiskFault::NotFollowing)), "nothing was loaded or saved");
    disk.load().unwrap();
    for wrong in [entries(6..7), [entries(5..6), entries(7..8)].concat()] {
        assert!(matches!(disk.append(&wrong), Err(DiskFault::NotFollowing)));
    }
    let other_epoch = JournalEntry::new(token(2, 5), token(2, 6), &[]);
    assert!(matches!(disk.append(&[Arc::new(other_epoch)]), Err(DiskFault::NotFollowing)));
    assert_eq!(disk.append(&[]).unwrap(), token(1, 5));
}

#[test]
fn a_log_cut_anywhere_gives_a_revision_that_was_served_and_goes_on_from_there() {
    let place = with_a_log();
    let whole = fs::read(place.log()).unwrap();
    let mut seen = Vec::new();
    for length in 0..=whole.len() {
        fs::write(place.log(), &whole[..length]).unwrap();
        seen.push(revision_of(&place.load().unwrap().snapshot));
    }
    assert!(seen.is_sorted() && seen.contains(&2) && seen.contains(&4) && seen.last() == Some(&5));
    fs::write(place.log(), &whole[..whole.len() - 1]).unwrap();
    let disk = place.disk();
    assert_eq!(revision_of(&disk.load().unwrap().snapshot), 4);
    disk.append(&entries(4..6)).unwrap();
    assert_eq!(revision_of(&place.load().unwrap().snapshot), 6, "what was torn was cut off first");
}

#[test]
fn a_flipped_bit_in_the_log_ends_it_there() {
    let place = with_a_log();
    let whole = fs::read(place.log()).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(place.log(), &damaged).unwrap();
        let loaded = place.load().unwrap();
        assert!(revision_of(&loaded.snapshot) < 5, "bit at byte {at}");
        assert_eq!(loaded.snapshot.counts().keys, 2 + loaded.changes);
    }
}

#[test]
fn files_of_others_in_their_places_are_not_mixed() {
    // The log of a later file: there is a gap, and nothing of it is taken.
    let (place, later) = (saved_twice(), Place::new());
    save(&later.disk(), 4).unwrap();
    let disk = later.disk();
    disk.load().unwrap();
    disk.append(&entries(4..6)).unwrap();
    fs::copy(later.log(), place.log()).unwrap();
    let disk = place.disk();
    is_whole(&disk.load().unwrap(), 2);
    assert!(matches!(disk.append(&entries(2..3)), Err(DiskFault::NotFollowing)), "nobody would find it there");
    drop(disk);
    // The log in the file's place, and the other way round.
    fs::copy(place.log(), place.path()).unwrap();
    is_whole(&place.load().unwrap(), 1);
    fs::copy(place.previous(), place.path()).unwrap();
    fs::copy(place.previous(), place.log()).unwrap();
    is_whole(&place.load().unwrap(), 1);
    // Blocks of another file under this one's header.
    let (mut mixed, other) = (fs::read(place.path()).unwrap(), fs::read(later.path()).unwrap());
    mixed.truncate(60);
    mixed.extend_from_slice(&other[60..]);
    fs::write(place.path(), &mixed).unwrap();
    fs::remove_file(place.previous()).unwrap();
    assert!(matches!(place.load(), Err(DiskFault::NotUsable { .. })));
}

/// Saves revision 5; once, while its file is written, this happens.
fn save_while(disk: &DiskSnapshot, happens: impl FnOnce()) -> Token {
    let mut happens = Some(happens);
    let between = || {
        if let Some(happens) = happens.take() {
            happens();
        }
        true
    };
    disk.save(&snapshot_of(5), 555, between).unwrap()
}

#[test]
fn a_new_file_keeps_what_was_logged_while_it_was_written() {
    let place = with_a_log();
    let disk = place.disk();
    disk.load().unwrap();
    let at = save_while(&disk, || {
        disk.append(&entries(5..8)).unwrap();
    });
    assert_eq!(at, token(1, 8));
    let loaded = place.load().unwrap();
    assert_eq!((revision_of(&loaded.snapshot), loaded.changes, loaded.saved_at_ms), (8, 3, 555));
    // The file before and both logs lead there, too.
    fs::write(place.path(), b"rubbish").unwrap();
    let loaded = place.load().unwrap();
    assert_eq!((revision_of(&loaded.snapshot), loaded.from), (8, LoadedFrom::Previous));
}

#[test]
fn a_new_file_claims_no_change_that_the_disk_lost_while_it_was_written() {
    let place = with_a_log();
    let disk = place.disk();
    disk.load().unwrap();
    let at = save_while(&disk, || {
        disk.append(&entries(5..8)).unwrap();
        let mut log = fs::read(place.log()).unwrap();
        *log.last_mut().unwrap() ^= 1;
        fs::write(place.log(), log).unwrap();
    });
    assert_eq!(at, token(1, 7));
    assert!(matches!(disk.append(&entries(8..9)), Err(DiskFault::NotFollowing)), "nobody would find it behind the gap");
    assert_eq!(disk.append(&entries(7..9)).unwrap(), token(1, 9));
    assert_eq!(revision_of(&place.load().unwrap().snapshot), 9);
}

#[test]
fn a_crash_between_the_file_and_its_log_loses_nothing() {
    let place = with_a_log();
    let old_log = fs::read(place.log()).unwrap();
    let disk = place.disk();
    disk.load().unwrap();
    save(&disk, 4).unwrap();
    // The log's own name was not changed yet: it begins before its file does.
    fs::write(place.log(), old_log).unwrap();
    assert_eq!(revision_of(&place.load().unwrap().snapshot), 5);
}

#[test]
fn a_long_log_asks_for_a_new_file() {
    let place = with_a_log();
    let disk = place.disk();
    disk.load().unwrap();
    assert!(!disk.wants_whole());
    let removals: Vec<_> = (0..50_000).map(|number| remove(wire::EntityKind::Key, number + 1_000)).collect();
    let long = JournalEntry::new(token(1, 5), token(1, 6), &removals);
    disk.append(&[Arc::new(long)]).unwrap();
    assert!(disk.wants_whole());
    disk.save(&snapshot_of(6), 1, || true).unwrap();
    assert!(!disk.wants_whole());
}

#[test]
fn a_whole_snapshot_without_room_leaves_the_room_to_the_log() {
    let place = Place::new();
    let Some(_small) = SmallDisk::mount(place.directory.path(), 3 << 20).unwrap() else { return };
    let disk = place.disk();
    save(&disk, 2).unwrap();
    fs::write(place.directory.path().join("of-others"), vec![0; 5 << 19]).unwrap();
    let written = disk.save(&snapshot_of(3), 1, || panic!("not even begun"));
    assert!(matches!(written, Err(DiskFault::Io { error, .. }) if error.kind() == std::io::ErrorKind::StorageFull));
    assert_eq!(disk.append(&entries(2..5)).unwrap(), token(1, 5));
    assert_eq!(revision_of(&place.load().unwrap().snapshot), 5);
}

#[test]
fn while_another_process_writes_this_one_only_reads() {
    let place = with_a_log();
    let (older, newer) = (place.disk(), place.disk());
    older.load().unwrap();
    older.append(&entries(5..6)).unwrap();
    newer.load().unwrap();
    assert!(matches!(newer.append(&entries(6..7)), Err(DiskFault::Held)));
    assert!(matches!(save(&newer, 9), Err(DiskFault::Held)));
    older.append(&entries(6..7)).unwrap();
    drop(older);
    // What it read is not what is there any more: only the whole is safe.
    assert!(matches!(newer.append(&entries(6..7)), Err(DiskFault::NotFollowing)));
    save(&newer, 9).unwrap();
    is_whole(&place.load().unwrap(), 9);
}

#[test]
fn a_full_disk_keeps_what_is_there_and_takes_the_rest_later() {
    let place = with_a_log();
    let disk = place.disk();
    disk.load().unwrap();
    // It holds the lock from here on.
    assert_eq!(disk.append(&[]).unwrap(), token(1, 5));
    // A directory stands in the log's place: no write can succeed, not even for root.
    let log = fs::read(place.log()).unwrap();
    fs::remove_file(place.log()).unwrap();
    fs::create_dir(place.log()).unwrap();
    assert!(matches!(disk.append(&entries(5..6)), Err(DiskFault::Io { .. })));
    fs::remove_dir(place.log()).unwrap();
    fs::write(place.log(), log).unwrap();
    assert_eq!(disk.append(&entries(5..6)).unwrap(), token(1, 6));
    assert_eq!(revision_of(&place.load().unwrap().snapshot), 6);
}
