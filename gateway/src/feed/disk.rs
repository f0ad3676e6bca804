//! The last good snapshot on disk: a file written whole beside the old one and then renamed, and a log of the changes since, so
//! that a change costs its own bytes. Read back only if every byte is as it was written; keeps the one before as `.previous` and
//! falls back to it. Refuses to answer with an empty table.

mod format;
mod log;
mod names;
mod reading;
mod writing;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use snapshot::token::Token;

pub use self::format::FormatFault;
use self::names::Names;
pub use self::names::SNAPSHOT_FILE;
use crate::live::{JournalEntry, Snapshot};
use crate::lock::lock;

/// Only the gateway itself reads it: it holds targets and digests of keys.
const MODE: u32 = 0o600;
/// A log longer than this part of its file is worth a new file.
const LOG_PART: u64 = 8;
/// Below it no log is worth one; above it reading it would take the better part of a second.
const LOG_BYTES_MIN: u64 = 1 << 20;
const LOG_BYTES_MAX: u64 = 32 << 20;

#[derive(Debug)]
pub struct DiskSnapshot {
    names: Names,
    state: Mutex<State>,
}

/// What is known of the files.
#[derive(Debug, Default)]
struct State {
    /// Held while this process writes: in an upgrade two of them know the directory.
    lock: Option<File>,
    /// Where the file and its log lead to. None: a log could not go on.
    at: Option<Token>,
    file_bytes: u64,
    log_bytes: u64,
    /// Whether the file is known to be whole, and so worth keeping as the previous one.
    file_is_good: bool,
    /// The files' lengths when they were read: another process may have written since.
    read: Option<(u64, u64)>,
}

impl State {
    /// A longer log is worth a new file.
    fn log_bytes_wanted(&self) -> u64 {
        (self.file_bytes / LOG_PART).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX)
    }
}

/// Which of the two files was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedFrom {
    Current,
    Previous,
}

pub struct Loaded {
    pub snapshot: Snapshot,
    /// Unix milliseconds; of the file, not of its log.
    pub saved_at_ms: i64,
    pub from: LoadedFrom,
    /// Entries of the log that were taken in.
    pub changes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    #[error("there is no snapshot")]
    Nothing,
    #[error("{path}: {fault}")]
    NotUsable { path: PathBuf, fault: FormatFault },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("these changes do not follow on what is on disk")]
    NotFollowing,
    #[error("another process of this gateway keeps the snapshot")]
    Held,
}

impl DiskSnapshot {
    /// `path`: of the file; its directory must exist. Touches nothing yet.
    pub fn at(path: impl Into<PathBuf>) -> DiskSnapshot {
        DiskSnapshot { names: Names::of(path.into()), state: Mutex::default() }
    }

    /// The last good snapshot, or the one before, each with the changes since. Errors: the fault of the newer file, when
    /// neither can be used.
    pub fn load(&self) -> Result<Loaded, DiskFault> {
        self.names.sweep();
        let mut state = self.state();
        *state = State { lock: state.lock.take(), ..State::default() };
        let fault = match self.load_current(&mut state) {
            Ok(loaded) => return Ok(loaded),
            Err(fault) => fault,
        };
        match (self.load_previous(), fault) {
            (Ok(loaded), fault) => {
                if !matches!(fault, DiskFault::Nothing) {
                    tracing::warn!(%fault, "falling back to the snapshot before");
                }
                Ok(loaded)
            }
            (Err(previous), DiskFault::Nothing) => Err(previous),
            (Err(_), fault) => Err(fault),
        }
    }

    /// Writes changes behind those that are there. Answers where the disk stands; those that it has already are skipped.
    pub fn append(&self, entries: &[Arc<JournalEntry>]) -> Result<Token, DiskFault> {
        let mut state = self.state();
        self.hold(&mut state)?;
        let at = state.at.ok_or(DiskFault::NotFollowing)?;
        let is_new = |entry: &&Arc<JournalEntry>| entry.to.epoch != at.epoch || entry.to.revision > at.revision;
        let new: Vec<&JournalEntry> = entries.iter().filter(is_new).map(|entry| &**entry).collect();
        let mut pairs = std::iter::once(at).chain(new.iter().map(|entry| entry.to)).zip(&new);
        if pairs.any(|(before, entry)| entry.from != before) {
            return Err(DiskFault::NotFollowing);
        }
        let Some(to) = new.last().map(|entry| entry.to) else { return Ok(at) };
        let path = self.names.log();
        match log::append(&path, state.log_bytes, new.into_iter()) {
            Ok(bytes) => {
                (state.log_bytes, state.at) = (bytes, Some(to));
                Ok(to)
            }
            Err(error) => {
                if error.kind() == std::io::ErrorKind::NotFound {
                    // Somebody took the log away: only the whole helps.
                    state.at = None;
                }
                Err(DiskFault::Io { path, error })
            }
        }
    }

    /// What the file and its log lead to, where that is known.
    pub fn stands_at(&self) -> Option<Token> {
        self.state().at
    }

    /// Whether the log is so long that the whole should be written.
    pub fn wants_whole(&self) -> bool {
        let state = self.state();
        state.log_bytes > state.log_bytes_wanted()
    }

    /// Writes a snapshot in place of the current one, which becomes the previous one if it is whole. Changes that were logged
    /// meanwhile stay logged. On an error the files are as they were. `between` is called between blocks, again and again, and
    /// answers whether to hurry.
    pub fn save(
        &self,
        snapshot: &Snapshot,
        saved_at_ms: i64,
        between: impl FnMut() -> bool,
    ) -> Result<Token, DiskFault> {
        let token = snapshot.token.ok_or(DiskFault::Nothing)?;
        let io = |error| DiskFault::Io { path: self.names.file(), error };
        {
            let mut state = self.state();
            self.hold(&mut state)?;
            self.check_room(&state).map_err(io)?;
        }
        let temporary = self.names.temporary();
        let written = writing::write(&temporary, snapshot, token, saved_at_ms, between)
            .and_then(|bytes| self.put_in_place(token, bytes));
        if written.is_err() {
            // They may not even be there.
            drop(fs::remove_file(&temporary));
            drop(fs::remove_file(self.names.temporary_log()));
        }
        written.map_err(io)
    }

    fn load_current(&self, state: &mut State) -> Result<Loaded, DiskFault> {
        let (mut loaded, file_bytes) = read_file(self.names.file(), LoadedFrom::Current)?;
        let (log, follows) = replay(&mut loaded, &self.names.log());
        *state = State {
            lock: state.lock.take(),
            // Behind what does not follow nothing would be found.
            at: loaded.snapshot.token.filter(|_| follows),
            file_bytes,
            log_bytes: log.good_bytes,
            file_is_good: true,
            read: Some(self.names.lengths()),
        };
        Ok(loaded)
    }

    /// The log of the previous file, and then the newer one's, which goes on where that ends.
    fn load_previous(&self) -> Result<Loaded, DiskFault> {
        let (mut loaded, _) = read_file(self.names.previous(), LoadedFrom::Previous)?;
        replay(&mut loaded, &self.names.previous_log());
        replay(&mut loaded, &self.names.log());
        Ok(loaded)
    }

    /// There is a file at every moment: the old one gets a second name before the new one takes its place. A log that begins
    /// before its file does is read right, so the order of the rest is free. Answers how far the new log leads: that may be less far
    /// than the old one did, where the disk has lost some of it.
    fn put_in_place(&self, token: Token, file_bytes: u64) -> std::io::Result<Token> {
        let mut state = self.state();
        let mut later = Vec::new();
        if state.at.is_some_and(|at| at.epoch == token.epoch && at.revision > token.revision) {
            later = log::read(&self.names.log())?.entries;
            later.retain(|entry| entry.from.revision >= token.revision);
        }
        let log_bytes = log::append(&self.names.temporary_log(), 0, later.iter())?;
        if state.file_is_good {
            self.names.keep_as_previous()?;
        }
        fs::rename(self.names.temporary(), self.names.file())?;
        fs::rename(self.names.temporary_log(), self.names.log())?;
        let at = later.last().map_or(token, |entry| entry.to);
        let lock = state.lock.take();
        *state = State { lock, at: Some(at), file_bytes, log_bytes, file_is_good: true, read: None };
        self.names.sync_directory()?;
        Ok(at)
    }

    /// A file that will not fit shall not take the last room from the log, not even for a while. It will be about as large as the one
    /// before; of the first one nothing is known.
    fn check_room(&self, state: &State) -> std::io::Result<()> {
        let free = self.names.free_bytes()?;
        let wanted = state.file_bytes + state.log_bytes_wanted();
        if free >= wanted {
            return Ok(());
        }
        let reason = format!("{free} bytes are free where a snapshot and its log need {wanted}");
        Err(std::io::Error::new(std::io::ErrorKind::StorageFull, reason))
    }

    /// One process at a time writes.
    fn hold(&self, state: &mut State) -> Result<(), DiskFault> {
        if state.lock.is_some() {
            return Ok(());
        }
        let io = |error| DiskFault::Io { path: self.names.lock(), error };
        let lock = self.names.open_lock().map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DiskFault::Held),
            Err(fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        state.lock = Some(lock);
        if state.read.is_some_and(|read| read != self.names.lengths()) {
            state.at = None;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each step leaves a state that is true, or one that writes the whole.
        lock(&self.state)
    }
}

fn read_file(path: PathBuf, from: LoadedFrom) -> Result<(Loaded, u64), DiskFault> {
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => DiskFault::Nothing,
        _ => DiskFault::Io { path: path.clone(), error },
    };
    let file = File::open(&path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let (header, snapshot) =
        reading::read(&file).map_err(|fault| DiskFault::NotUsable { path: path.clone(), fault })?;
    Ok((Loaded { snapshot, saved_at_ms: header.saved_at_ms, from, changes: 0 }, bytes))
}

/// Takes in what follows on the snapshot, as far as it does, and answers whether that is all there is. The rest is as good as
/// lost, and is asked for anew.
fn replay(loaded: &mut Loaded, path: &Path) -> (log::Log, bool) {
    let log = log::read(path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the log of changes cannot be read");
        log::Log::default()
    });
    if log.is_damaged {
        tracing::warn!(path = %path.display(), "the log of changes is damaged; what comes before is served");
    }
    let is_new =
        |have: Option<Token>, to: Token| have.is_none_or(|have| have.epoch != to.epoch || have.revision < to.revision);
    for entry in &log.entries {
        if !is_new(loaded.snapshot.token, entry.to) {
            continue;
        }
        if let Err(fault) = loaded.snapshot.replay(entry) {
            tracing::warn!(path = %path.display(), %fault, "the log of changes goes elsewhere");
            return (log, false);
        }
        loaded.changes += 1;
    }
    (log, true)
}
