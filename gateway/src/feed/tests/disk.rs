//! Damaged files: the previous good one or a clear refusal, never an empty table that calls itself a snapshot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

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

    fn disk(&self) -> DiskSnapshot {
        DiskSnapshot::at(self.path())
    }

    fn load(&self) -> Result<Loaded, DiskFault> {
        self.disk().load()
    }
}

fn records(revision: u32) -> Vec<Record> {
    (0..40).map(|n| fleet(1 + revision * 1_000 + n)).collect()
}

/// Revision 1, then revision 2 over it.
fn saved_twice() -> Place {
    let place = Place::new();
    let disk = place.disk();
    disk.save(token(1, 1), 111, records(1)).unwrap();
    disk.save(token(1, 2), 222, records(2)).unwrap();
    place
}

fn is_whole(loaded: &Loaded, revision: u32) {
    assert_eq!(loaded.token, token(1, u64::from(revision)));
    assert_eq!(loaded.saved_at_ms, i64::from(revision) * 111);
    assert_eq!(loaded.records, records(revision));
}

#[test]
fn what_was_saved_is_loaded_and_only_its_owner_may_read_it() {
    let place = saved_twice();
    let loaded = place.load().unwrap();
    is_whole(&loaded, 2);
    assert_eq!(loaded.from, LoadedFrom::Current);
    for path in [place.path(), place.previous()] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 2, "nothing else is left behind");
}

#[test]
fn an_empty_snapshot_that_was_saved_is_not_a_missing_one() {
    let place = Place::new();
    place.disk().save(token(1, 5), 1, Vec::new()).unwrap();
    assert_eq!(place.load().unwrap().token, token(1, 5));
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
    for at in 0..whole.len() {
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
    for version in [0u32, 2, u32::MAX] {
        let place = saved_twice();
        fs::remove_file(place.previous()).unwrap();
        let mut bytes = fs::read(place.path()).unwrap();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        fs::write(place.path(), &bytes).unwrap();
        let fault = place.load().unwrap_err();
        let DiskFault::NotUsable { fault: FormatFault::Version(found), .. } = fault else { panic!("{fault}") };
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
    disk.save(token(1, 3), 333, records(3)).unwrap();
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
    let previous = fs::read(place.previous()).unwrap();
    fs::remove_file(place.previous()).unwrap();
    fs::create_dir_all(place.previous().join("in-the-way")).unwrap();
    assert!(matches!(disk.save(token(1, 4), 1, records(4)), Err(DiskFault::Io { .. })));
    is_whole(&place.load().unwrap(), 2);
    fs::remove_dir_all(place.previous()).unwrap();
    fs::write(place.previous(), previous).unwrap();
    disk.save(token(1, 3), 333, records(3)).unwrap();
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
