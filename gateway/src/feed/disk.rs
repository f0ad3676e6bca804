//! The last good snapshot as a file: written whole beside the old one, then renamed; read back only if every byte is as it was
//! written. Keeps the one before as `.previous` and falls back to it. Refuses to answer with an empty table.

mod format;

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use snapshot::token::Token;
use snapshot::wire::Record;

pub use self::format::FormatFault;

/// The name of the last good snapshot in a gateway's data directory.
pub const SNAPSHOT_FILE: &str = "snapshot";
/// Only the gateway itself reads it: it holds targets and digests of keys.
const MODE: u32 = 0o600;

#[derive(Debug)]
pub struct DiskSnapshot {
    path: PathBuf,
    /// Whether the file at `path` is known to be whole, and so worth keeping as the previous one.
    current_is_good: AtomicBool,
}

/// Which of the two files was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedFrom {
    Current,
    Previous,
}

#[derive(Debug)]
pub struct Loaded {
    pub token: Token,
    /// Unix milliseconds.
    pub saved_at_ms: i64,
    pub records: Vec<Record>,
    pub from: LoadedFrom,
}

#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    #[error("there is no snapshot on disk")]
    Nothing,
    #[error("{path}: {fault}")]
    NotUsable { path: PathBuf, fault: FormatFault },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
}

impl DiskSnapshot {
    /// `path`: of the file; its directory must exist. Touches nothing yet.
    pub fn at(path: impl Into<PathBuf>) -> DiskSnapshot {
        DiskSnapshot { path: path.into(), current_is_good: AtomicBool::new(false) }
    }

    /// The last good snapshot, or the one before. Errors: the fault of the newer file, when neither can be used.
    pub fn load(&self) -> Result<Loaded, DiskFault> {
        self.sweep();
        let fault = match read(&self.path, LoadedFrom::Current) {
            Ok(loaded) => {
                self.current_is_good.store(true, Ordering::Relaxed);
                return Ok(loaded);
            }
            Err(fault) => fault,
        };
        self.current_is_good.store(false, Ordering::Relaxed);
        match (read(&self.previous(), LoadedFrom::Previous), fault) {
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

    /// Writes a snapshot in place of the current one, which becomes the previous one if it is whole. On an error the files are
    /// as they were.
    pub fn save(
        &self,
        token: Token,
        saved_at_ms: i64,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<(), DiskFault> {
        let temporary = self.beside(&format!("{}.tmp", std::process::id()));
        let io = |error| DiskFault::Io { path: self.path.clone(), error };
        let written = write(&temporary, token, saved_at_ms, records).and_then(|()| self.put_in_place(&temporary));
        if written.is_err() {
            // It may not even be there.
            drop(fs::remove_file(&temporary));
        }
        written.map_err(io)?;
        self.current_is_good.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what saves of processes that are gone have left behind. An upgrade's other process keeps its own.
    fn sweep(&self) {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let rest = file.to_str().zip(name.to_str()).and_then(|(file, name)| file.strip_prefix(name));
            let process = rest.and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
            let is_left_over = |(id, kind): (&str, &str)| {
                matches!(kind, "tmp" | "link") && id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()
            };
            if process.is_some_and(is_left_over) {
                // Another process may have been faster.
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// There is a file at `path` at every moment: the old one gets a second name before the new one takes its place.
    fn put_in_place(&self, temporary: &Path) -> std::io::Result<()> {
        if self.current_is_good.load(Ordering::Relaxed) {
            let link = self.beside(&format!("{}.link", std::process::id()));
            // What a crash may have left.
            drop(fs::remove_file(&link));
            fs::hard_link(&self.path, &link)?;
            fs::rename(&link, self.previous())?;
        }
        fs::rename(temporary, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    fn previous(&self) -> PathBuf {
        self.beside("previous")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        PathBuf::from(name)
    }
}

fn read(path: &Path, from: LoadedFrom) -> Result<Loaded, DiskFault> {
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => DiskFault::Nothing,
        _ => DiskFault::Io { path: path.to_owned(), error },
    };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let (header, records) = format::read(BufReader::new(file), length)
        .map_err(|fault| DiskFault::NotUsable { path: path.to_owned(), fault })?;
    Ok(Loaded { token: header.token, saved_at_ms: header.saved_at_ms, records, from })
}

fn write(
    path: &Path,
    token: Token,
    saved_at_ms: i64,
    records: impl IntoIterator<Item = Record>,
) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    let mut file = format::write(BufWriter::new(file), token, saved_at_ms, records)?;
    file.flush()?;
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}
